// The "added_tokens" of a tokenizer.json: texts that are one token wherever they occur, such as "<|endoftext|>".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace graft::llama {

struct AddedToken {
  std::int64_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = true;    // looked for after the others
  bool special = false;      // left out of decoded text on request
};

/// A stretch of text between added tokens (id -1), or one added token.
struct Stretch {
  std::string_view text;
  std::int64_t id = -1;
};

/// Finds `tokens` in a well-formed UTF-8 text, from left to right and the longest first: those that are not `normalized`, then
/// between them the others.
std::vector<Stretch> find_added_tokens(std::string_view text, const std::vector<AddedToken>& tokens);

}  // namespace graft::llama
