// Where the bits of a packed integer lie. One description serves reading and writing, down a column and along a row.
#pragma once

#include <array>
#include <cstdint>

#include "graft/core/error.h"

namespace graft::quant {

/// How integers of 2 to 8 bits follow one another in words of 8, 16 or 32 bits.
enum class Packing {
  stream,  // one little-endian stream of bits; 3-, 5-, 6- and 7-bit integers straddle words
  planar,  // blocks of 32 integers in 32-bit words, cut into planes of 4, 2 and 1 bits, the low bits first (GPTQModel's gptq_p)
  interleaved,  // eight 4-bit integers to a 32-bit word, in the order 0 2 4 6 1 3 5 7 from the low bits up (AWQ's gemm)
};

/// Some bits of an integer: bits [offset, offset + width) of it are bits [shift, shift + width) of the word.
struct Piece {
  std::int64_t word = 0;
  int shift = 0, width = 0, offset = 0;
};

/// One integer: at most three pieces.
struct Field {
  std::array<Piece, 3> pieces;
  int count = 0;

  /// The integer, given the words: `word(i)` is word i, unsigned.
  template <class F>
  std::uint32_t gather(F&& word) const {
    std::uint32_t value = 0;
    for (int i = 0; i < count; ++i) {
      const Piece& p = pieces[static_cast<std::size_t>(i)];
      value |= (static_cast<std::uint32_t>(word(p.word)) >> p.shift & ((1u << p.width) - 1)) << p.offset;
    }
    return value;
  }

  /// Puts the integer into words that are zero there: `merge(i, bits)` ors bits into word i.
  template <class F>
  void scatter(std::uint32_t value, F&& merge) const {
    for (int i = 0; i < count; ++i) {
      const Piece& p = pieces[static_cast<std::size_t>(i)];
      merge(p.word, (value >> p.offset & ((1u << p.width) - 1)) << p.shift);
    }
  }
};

/// Integer number `index` of a row or column.
Field field(Packing packing, int bits, int word_bits, std::int64_t index);

/// How many words hold `count` integers; ValueError for a combination of packing, bits and word size that does not exist.
std::int64_t words_for(Packing packing, int bits, int word_bits, std::int64_t count);

/// A word with the integer 1 in every field, for bits that divide word_bits: adding it adds one to each field, carries included.
constexpr std::uint32_t ones_in_word(int bits, int word_bits) {
  std::uint32_t ones = 0;
  for (int shift = 0; shift < word_bits; shift += bits) ones |= 1u << shift;
  return ones;
}

}  // namespace graft::quant
