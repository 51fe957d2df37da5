// A regular expression with Unicode classes, as the pre-tokenizers of tokenizer.json use them. PCRE2 beneath.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace graft::llama {

/// Bytes begin … end-1 of a text.
struct Span {
  std::size_t begin, end;
};

class Pattern {
 public:
  /// ValueError if the expression is malformed.
  static Pattern regex(const std::string& expression);
  /// Matches `text` itself.
  static Pattern literal(const std::string& text);

  /// All matches from left to right, not overlapping; empty matches are left out. `text` must be well-formed UTF-8; ValueError if
  /// the search exceeds PCRE2's limits.
  std::vector<Span> find_all(std::string_view text) const;

 private:
  std::shared_ptr<const void> code_;
};

}  // namespace graft::llama
