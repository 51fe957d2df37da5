// The "pre_tokenizer" of a tokenizer.json: how a text is cut into words before merging begins.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <string_view>
#include <vector>

#include "graft/examples/llama/pattern.h"

namespace graft::llama {

class PreTokenizer {
 public:
  /// ByteLevel, or a Sequence of Split and Digits that ends in ByteLevel. ValueError for a description that is malformed,
  /// NotImplementedError naming any other kind.
  static PreTokenizer parse(const nlohmann::json& description);

  /// The words of a well-formed UTF-8 text, in order; none is empty.
  std::vector<std::string> split(std::string_view text) const;

 private:
  enum class Behavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };
  struct Step {
    Pattern pattern;
    Behavior behavior = Behavior::isolated;
    bool invert = false;
  };
  void add(const nlohmann::json& description);
  static Behavior parse_behavior(const std::string& name);
  static std::vector<Span> cut(std::string_view text, const Step& step);

  std::vector<Step> steps_;
  bool byte_level_ = false;
  // ByteLevel puts its space before the words that the steps so far have made, then applies its own pattern, if it has one.
  bool prefix_space_ = false;
  std::size_t steps_before_prefix_ = 0;
};

}  // namespace graft::llama
