// Codes out of packed words, sixteen columns at a time.
#pragma once

#include "graft/core/cpu/simd_avx512.h"

namespace graft::avx512 {

template <int bits>
struct Codes {
  using Words = __m512i;

  [[gnu::always_inline]] static Words load(const std::uint8_t* p) {
    if constexpr (bits == 3) {  // three bytes to a lane: first twelve to each quarter, then spread within the quarters
      const __m512i packed = _mm512_maskz_loadu_epi32(0xfff, p);
      const __m512i quarters = _mm512_setr_epi32(0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 9, 10, 11, 0);
      const __m512i spread = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
      return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(quarters, packed), spread);
    } else {
      return _mm512_loadu_si512(p);
    }
  }

  // Code j of each word, less `origin`. Up to four bits: a table look-up, which reads the lowest four bits of its index and so needs
  // no mask; shorter codes repeat the table. Eight bits: the code in the mantissa of 2^23 is that number plus the code.
  template <int j, int origin>
  struct Field {
    [[gnu::always_inline]] __m512 operator()(Words words) const {
      if constexpr (j > 0) words = _mm512_srli_epi32(words, bits * j);
      if constexpr (bits == 8) {
        constexpr float base = 0x1p23f;
        const __m512i merged =
            _mm512_ternarylogic_epi32(words, _mm512_set1_epi32(0xff), _mm512_castps_si512(_mm512_set1_ps(base)), 0xea);
        return _mm512_sub_ps(_mm512_castsi512_ps(merged), _mm512_set1_ps(base + origin));
      } else {
        const __m512i repeated = _mm512_and_si512(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                                  _mm512_set1_epi32((1 << bits) - 1));
        return _mm512_permutexvar_ps(words, _mm512_cvtepi32_ps(_mm512_sub_epi32(repeated, _mm512_set1_epi32(origin))));
      }
    }
  };

  // Codes of rows first … first + 15 of one column, whose words, of in_word codes each, word(line) gives.
  template <int first, int in_word, class Word>
  [[gnu::always_inline]] static __m512 rows(Word word) {
    __m512i words = _mm512_set1_epi32(static_cast<int>(word(first / in_word)));
    for (int i = 1; i < 16 / in_word; ++i)
      words = _mm512_mask_mov_epi32(words, static_cast<__mmask16>(0xffff << (i * in_word)),
                                    _mm512_set1_epi32(static_cast<int>(word(first / in_word + i))));
    const auto place = [](int lane) { return (first + lane) % in_word * bits; };
    words = _mm512_srlv_epi32(
        words, _mm512_setr_epi32(place(0), place(1), place(2), place(3), place(4), place(5), place(6), place(7), place(8),
                                 place(9), place(10), place(11), place(12), place(13), place(14), place(15)));
    return _mm512_cvtepi32_ps(_mm512_and_si512(words, _mm512_set1_epi32((1 << bits) - 1)));
  }

  static constexpr int sum_origin = 1 << (bits - 1);
  static constexpr int power(int) { return 0; }
  template <int j>
  using SumField = Field<j, sum_origin>;
};

}  // namespace graft::avx512
