// The little of UTF-8 that a tokenizer needs.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace graft::llama::utf8 {

/// What begins at a byte of a text: a well-formed code point, or the longest part of one that breaks off (at least one byte).
struct Sequence {
  std::size_t bytes;
  bool valid;
};
Sequence sequence_at(std::string_view text, std::size_t at);

/// Offset of the first byte that is not part of well-formed UTF-8; npos if there is none.
std::size_t find_invalid(std::string_view text);

/// The text with U+FFFD in place of each ill-formed sequence, one per maximal part, as the Unicode standard recommends.
std::string replace_invalid(std::string_view text);

/// The code point of a well-formed sequence.
char32_t code_point(std::string_view sequence);

void append(std::string& text, char32_t code_point);

/// Unicode's White_Space property.
bool is_space(char32_t code_point);

}  // namespace graft::llama::utf8
