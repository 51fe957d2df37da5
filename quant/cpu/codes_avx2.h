// Codes out of packed words, eight columns at a time.
#pragma once

#include "graft/core/cpu/simd_avx2.h"

namespace graft::avx2 {

template <int bits>
struct Codes {
  using Words = __m256i;

  [[gnu::always_inline]] static Words load(const std::uint8_t* p) {
    if constexpr (bits == 3) {  // three bytes to a lane: bytes 0 … 11 for the lower four, 12 … 23, read from 8 on, for the upper
      const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
      const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8));
      const __m256i spread = _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1,  //
                                              4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1);
      return _mm256_shuffle_epi8(_mm256_set_m128i(high, low), spread);
    } else {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
  }

  // A field of bits put into the mantissa of 2^(23 − position), whose unit is the field's own, is that number plus the code. So a
  // few codes need no shift, none needs a conversion, and the subtraction runs beside the multiply-adds.
  template <int j, int origin>
  [[gnu::always_inline]] static __m256 value(Words words) {
    constexpr int step = bits == 8 ? 2 : 4;  // codes below bit 23, with a byte to spare
    constexpr int shift = j / step * step * bits, position = j % step * bits;
    constexpr float base = static_cast<float>(1 << (23 - position));
    if constexpr (shift > 0) words = _mm256_srli_epi32(words, shift);
    const __m256i field = _mm256_and_si256(words, _mm256_set1_epi32(((1 << bits) - 1) << position));
    return _mm256_sub_ps(_mm256_or_ps(_mm256_castsi256_ps(field), _mm256_set1_ps(base)), _mm256_set1_ps(base + origin));
  }
};

}  // namespace graft::avx2
