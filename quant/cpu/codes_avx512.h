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

  // Up to four bits: a table look-up, which reads the lowest four bits of its index and so needs no mask; shorter codes repeat the
  // table. Eight bits: the field in the mantissa of 2^23 is that number plus the code.
  template <int j, int origin>
  [[gnu::always_inline]] static __m512 value(Words words) {
    if constexpr (j > 0) words = _mm512_srli_epi32(words, bits * j);
    if constexpr (bits == 8) {
      constexpr float base = 0x1p23f;
      const __m512i merged = _mm512_ternarylogic_epi32(words, _mm512_set1_epi32(0xff), _mm512_castps_si512(_mm512_set1_ps(base)), 0xea);
      return _mm512_sub_ps(_mm512_castsi512_ps(merged), _mm512_set1_ps(base + origin));
    } else {
      constexpr int mask = (1 << bits) - 1;
      const __m512 table = _mm512_setr_ps(  //
          (0 & mask) - origin, (1 & mask) - origin, (2 & mask) - origin, (3 & mask) - origin, (4 & mask) - origin, (5 & mask) - origin,
          (6 & mask) - origin, (7 & mask) - origin, (8 & mask) - origin, (9 & mask) - origin, (10 & mask) - origin, (11 & mask) - origin,
          (12 & mask) - origin, (13 & mask) - origin, (14 & mask) - origin, (15 & mask) - origin);
      return _mm512_permutexvar_ps(words, table);
    }
  }
};

}  // namespace graft::avx512
