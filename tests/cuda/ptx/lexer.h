// The words of a PTX text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "launch.h"

namespace graft::ptx {

/// A word (a name, an opcode with its modifiers, a number), a string with its quotes, or one character. Empty at the end.
struct Token {
  std::string_view text;
  std::size_t line = 0;
  bool operator==(std::string_view other) const { return text == other; }
  bool is_word() const;
  bool is_number() const { return !text.empty() && text[0] >= '0' && text[0] <= '9'; }
};

/// Reads tokens one by one, over comments.
class Lexer {
 public:
  Lexer(std::string_view text, std::size_t begin, std::size_t end, std::size_t line)
      : text_(text), at_(begin), end_(end), line_(line) {
    advance();
  }

  const Token& peek() const { return next_; }
  Token take();
  bool accept(std::string_view text);
  /// Throws SyntaxError unless it comes next.
  void expect(std::string_view text);
  /// Where the token that comes next begins.
  std::size_t position() const { return std::size_t(next_.text.data() - text_.data()); }
  /// Past the end of the block whose `{` was taken; returns where its `}` stands.
  std::size_t skip_block();
  [[noreturn]] void fail(std::string_view reason) const;

 private:
  void advance();
  std::string_view text_;
  std::size_t at_, end_, line_;
  Token next_;
};

/// An integer, or a floating number in one of PTX's spellings, as the bits of a 64-bit register: f32 for 0f, f64 for 0d and decimals.
std::uint64_t number(const Token& token);

[[noreturn]] void syntax_error(std::size_t line, std::string_view text, std::string_view reason);

}  // namespace graft::ptx
