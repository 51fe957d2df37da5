// Codes out of packed words, four columns at a time.
#pragma once

#include "graft/core/cpu/simd_neon.h"

namespace graft::neon {

template <int bits>
struct Codes {
  using Words = uint32x4_t;

  [[gnu::always_inline]] static Words load(const std::uint8_t* p) {
    if constexpr (bits == 3) {  // three bytes to a lane; nothing is read past the twelve
      const uint32x2_t low = vreinterpret_u32_u8(vld1_u8(p));
      std::uint32_t high;
      __builtin_memcpy(&high, p + 8, sizeof high);
      const uint8x16_t spread = {0, 1, 2, 255, 3, 4, 5, 255, 6, 7, 8, 255, 9, 10, 11, 255};
      return vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(vcombine_u32(low, vdup_n_u32(high))), spread));
    } else {
      return vreinterpretq_u32_u8(vld1q_u8(p));
    }
  }

  // Code j of each word, less `origin`. It stays where it is: the conversion from fixed point divides by its place, exactly.
  template <int j, int origin>
  struct Field {
    [[gnu::always_inline]] float32x4_t operator()(Words words) const {
      constexpr int place = bits * j;
      words = vandq_u32(words, vdupq_n_u32(((1u << bits) - 1) << place));
      float32x4_t code;
      if constexpr (place == 0) code = vcvtq_f32_u32(words);
      else code = vcvtq_n_f32_u32(words, place);
      if constexpr (origin != 0) code = vsubq_f32(code, vdupq_n_f32(origin));
      return code;
    }
  };

  // Codes of rows first … first + 3 of one column, whose words, of in_word codes each, word(line) gives.
  template <int first, int in_word, class Word>
  [[gnu::always_inline]] static float32x4_t rows(Word word) {
    constexpr int place = first % in_word * bits;
    const int32x4_t right = {-place, -place - bits, -place - 2 * bits, -place - 3 * bits};
    const uint32x4_t words = vshlq_u32(vdupq_n_u32(word(first / in_word)), right);
    return vcvtq_f32_u32(vandq_u32(words, vdupq_n_u32((1u << bits) - 1)));
  }

  // Less zero where that is exact enough: eight bits would lose too much to cancellation without their origin.
  static constexpr int sum_origin = bits == 8 ? 1 << (bits - 1) : 0;
  static constexpr int power(int) { return 0; }
  template <int j>
  using SumField = Field<j, sum_origin>;
};

}  // namespace graft::neon
