#include "graft/quant/formats/fields.h"

#include <algorithm>

namespace graft::quant {

Field field(Packing packing, int bits, int word_bits, std::int64_t index) {
  Field field;
  switch (packing) {
    case Packing::stream: {
      const std::int64_t bit = index * bits;
      const int shift = static_cast<int>(bit % word_bits), width = std::min(bits, word_bits - shift);
      field.pieces[0] = {bit / word_bits, shift, width, 0};
      field.count = 1;
      if (width < bits) field.pieces[static_cast<std::size_t>(field.count++)] = {bit / word_bits + 1, 0, bits - width, width};
      return field;
    }
    case Packing::planar: {
      // The planes are the binary digits of `bits`, the largest first: 7 = 4 + 2 + 1. A plane of width w fills w words of the
      // block.
      const int place = static_cast<int>(index % 32);
      std::int64_t word = index / 32 * bits;
      int offset = 0;
      for (int width = 8; width > 0; width /= 2) {
        if (!(bits & width)) continue;
        const int per_word = 32 / width;
        field.pieces[static_cast<std::size_t>(field.count++)] = {word + place / per_word, width * (place % per_word), width,
                                                                 offset};
        word += width, offset += width;
      }
      return field;
    }
    case Packing::interleaved: {
      const int place = static_cast<int>(index % 8);
      field.pieces[0] = {index / 8, 16 * (place % 2) + 4 * (place / 2), 4, 0};
      field.count = 1;
      return field;
    }
  }
  return field;
}

std::int64_t words_for(Packing packing, int bits, int word_bits, std::int64_t count) {
  check(bits >= 2 && bits <= 8, "integers of {} bits; packed are 2 to 8", bits);
  check(word_bits == 8 || word_bits == 16 || word_bits == 32, "words of {} bits; known are 8, 16 and 32", word_bits);
  switch (packing) {
    case Packing::stream:
      check(word_bits == 32 || word_bits % bits == 0,
            "{}-bit integers in words of {} bits; those that straddle need words of 32 bits", bits, word_bits);
      return (count * bits + word_bits - 1) / word_bits;
    case Packing::planar:
      check(word_bits == 32, "the planar layout in words of {} bits; it has 32", word_bits);
      check(count % 32 == 0, "the planar layout of {} integers; it needs a multiple of 32", count);
      return count / 32 * bits;
    case Packing::interleaved:
      check(bits == 4 && word_bits == 32, "the interleaved layout of {}-bit integers in words of {} bits; it has 4 in 32", bits,
            word_bits);
      check(count % 8 == 0, "the interleaved layout of {} integers; it needs a multiple of 8", count);
      return count / 8;
  }
  fail("unknown packing {}", static_cast<int>(packing));
}

}  // namespace graft::quant
