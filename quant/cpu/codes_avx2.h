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

  // Code j of each word, less `origin`. Its bits, put into the mantissa of 2^(23 − position), whose unit is the code's own, are that
  // number plus the code: a few codes need no shift, none needs a conversion, and the subtraction runs beside the multiply-adds.
  // The asm keeps the constants where they are made. Moved out of a loop, as compilers like, they would push sums out of registers.
  template <int j, int origin>
  struct Field {
    static constexpr int step = bits == 8 ? 2 : 4;  // codes that lie below bit 23
    static constexpr int shift = j / step * step * bits, position = j % step * bits;
    static constexpr float power = static_cast<float>(1 << (23 - position));
    __m256i mask;
    __m256 base, less;
    [[gnu::always_inline]] Field() : mask(_mm256_set1_epi32(((1 << bits) - 1) << position)), base(_mm256_set1_ps(power)) {
      asm volatile("" : "+x"(mask), "+x"(base));
      less = base;
      if constexpr (origin != 0) {
        less = _mm256_set1_ps(power + origin);
        asm volatile("" : "+x"(less));
      }
    }
    [[gnu::always_inline]] __m256 operator()(Words words) const {
      if constexpr (shift > 0) words = _mm256_srli_epi32(words, shift);
      return _mm256_sub_ps(_mm256_or_ps(_mm256_castsi256_ps(_mm256_and_si256(words, mask)), base), less);
    }
  };

  // Codes of rows first … first + 7 of one column, whose words, of in_word codes each, word(line) gives.
  template <int first, int in_word, class Word>
  [[gnu::always_inline]] static __m256 rows(Word word) {
    __m256i words = _mm256_set1_epi32(static_cast<int>(word(first / in_word)));
    if constexpr (in_word < 8)
      words = _mm256_blend_epi32(words, _mm256_set1_epi32(static_cast<int>(word(first / in_word + 1))), 0xf0);
    const auto place = [](int lane) { return (first + lane) % in_word * bits; };
    words = _mm256_srlv_epi32(words,
                              _mm256_setr_epi32(place(0), place(1), place(2), place(3), place(4), place(5), place(6), place(7)));
    return _mm256_cvtepi32_ps(_mm256_and_si256(words, _mm256_set1_epi32((1 << bits) - 1)));
  }

  // The same without a subtraction, for sums whose factor can wait: code j, less sum_origin, times 2^power(j). Codes stay where they
  // are in the word and are converted as the integers that they make there; the uppermost would make a negative one and is shifted.
  // Eight bits keep the other way: without their origin they would lose too much to cancellation.
  static constexpr int sum_origin = bits == 8 ? 1 << (bits - 1) : 0;
  static constexpr int power(int j) { return bits == 8 || (j + 1) * bits == 32 ? 0 : j * bits; }
  template <int j>
  struct SumField {
    __m256i mask;
    [[gnu::always_inline]] SumField() : mask(_mm256_set1_epi32(((1 << bits) - 1) << power(j))) { asm volatile("" : "+x"(mask)); }
    [[gnu::always_inline]] __m256 operator()(Words words) const {
      if constexpr (bits == 8) return Field<j, sum_origin>()(words);
      else if constexpr (power(j) < j * bits) return _mm256_cvtepi32_ps(_mm256_srli_epi32(words, j * bits));
      else return _mm256_cvtepi32_ps(_mm256_and_si256(words, mask));
    }
  };
};

}  // namespace graft::avx2
