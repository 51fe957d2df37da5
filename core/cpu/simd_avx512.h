// Sixteen floats or eight doubles in a 512-bit register. Only for units compiled for AVX-512 F, BW, DQ and VL.
// Everything is forced inline: no copy of it may be kept for callers on narrower machines.
#pragma once

// g++ 12 takes the deliberately undefined operands inside these intrinsics for mistakes of ours.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "graft/core/dtype.h"

namespace graft::avx512 {

struct F32 {
  using Element = float;
  using Reg = __m512;
  static constexpr int width = 16, registers = 32;

  [[gnu::always_inline]] static Reg zero() { return _mm512_setzero_ps(); }
  /// As an integer: those are spread on their way from memory, and leave the ports to others that a float takes (Zen 4).
  [[gnu::always_inline]] static Reg set(float value) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(__builtin_bit_cast(int, value)));
  }

  [[gnu::always_inline]] static float get(const float* p) { return *p; }
  [[gnu::always_inline]] static float get(const f16* p) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(p->bits))); }
  [[gnu::always_inline]] static float get(const bf16* p) {
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(p->bits << 16)));
  }

  [[gnu::always_inline]] static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  [[gnu::always_inline]] static Reg load(const f16* p) {
    return widen(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  [[gnu::always_inline]] static Reg load(const bf16* p) {
    return widen(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  /// The first n elements, zeros after them.
  [[gnu::always_inline]] static Reg load(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  template <class Half>
  [[gnu::always_inline]] static Reg load(const Half* p, int n) {
    return widen(p, _mm256_maskz_loadu_epi16(mask(n), p));
  }
  [[gnu::always_inline]] static void store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
  [[gnu::always_inline]] static void store(float* p, Reg x, int n) { _mm512_mask_storeu_ps(p, mask(n), x); }

  [[gnu::always_inline]] static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  [[gnu::always_inline]] static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  [[gnu::always_inline]] static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  [[gnu::always_inline]] static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  [[gnu::always_inline]] static float sum(Reg x) { return _mm512_reduce_add_ps(x); }

  /// Element i is the sum of register i.
  [[gnu::always_inline]] static Reg sums(const Reg* r) {
    Reg a[8], b[4], c[2];
    for (int i = 0; i < 8; ++i) a[i] = add(_mm512_unpacklo_ps(r[i], r[i + 8]), _mm512_unpackhi_ps(r[i], r[i + 8]));
    for (int i = 0; i < 4; ++i) {  // of each 128-bit lane: registers i, i + 8, i + 4, i + 12
      const __m512d x = _mm512_castps_pd(a[i]), y = _mm512_castps_pd(a[i + 4]);
      b[i] = add(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    }
    const auto lanes = [](Reg x, Reg y) __attribute__((always_inline)) {
      return add(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
    };
    for (int i = 0; i < 2; ++i) c[i] = lanes(b[i], b[i + 2]);
    const __m512i places = _mm512_setr_epi32(0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15);
    return _mm512_permutexvar_ps(places, lanes(c[0], c[1]));
  }

  /// In place: element j of register i becomes element i of register j.
  [[gnu::always_inline]] static void transpose(Reg* r) {
    Reg a[16], b[16];
    for (int i = 0; i < 16; i += 2) {  // pairs of rows
      a[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
      a[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16;
         i += 4) {  // 4 × 4 blocks within each 128-bit lane: b[4 q + j] holds columns j, j + 4, j + 8, j + 12 of rows 4 q …
      for (int j = 0; j < 2; ++j) {
        b[i + 2 * j] = _mm512_shuffle_ps(a[i + j], a[i + 2 + j], 0x44);
        b[i + 2 * j + 1] = _mm512_shuffle_ps(a[i + j], a[i + 2 + j], 0xee);
      }
    }
    for (int j = 0; j < 4; ++j) {  // and a 4 × 4 transpose of lanes
      const Reg even_low = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88), odd_low = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd);
      const Reg even_high = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88),
                odd_high = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
      r[j] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
      r[j + 4] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
      r[j + 8] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
      r[j + 12] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
    }
  }

 private:
  [[gnu::always_inline]] static __mmask16 mask(int n) { return n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1); }
  [[gnu::always_inline]] static Reg widen(const f16*, __m256i bits) { return _mm512_cvtph_ps(bits); }
  [[gnu::always_inline]] static Reg widen(const bf16*, __m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
};

struct F64 {
  using Element = double;
  using Reg = __m512d;
  static constexpr int width = 8, registers = 32;

  [[gnu::always_inline]] static Reg zero() { return _mm512_setzero_pd(); }
  [[gnu::always_inline]] static Reg set(double value) { return _mm512_set1_pd(value); }
  [[gnu::always_inline]] static double get(const double* p) { return *p; }
  [[gnu::always_inline]] static Reg load(const double* p) { return _mm512_loadu_pd(p); }
  [[gnu::always_inline]] static Reg load(const double* p, int n) { return _mm512_maskz_loadu_pd(mask(n), p); }
  [[gnu::always_inline]] static void store(double* p, Reg x) { _mm512_storeu_pd(p, x); }
  [[gnu::always_inline]] static void store(double* p, Reg x, int n) { _mm512_mask_storeu_pd(p, mask(n), x); }
  [[gnu::always_inline]] static Reg add(Reg a, Reg b) { return _mm512_add_pd(a, b); }
  [[gnu::always_inline]] static Reg sub(Reg a, Reg b) { return _mm512_sub_pd(a, b); }
  [[gnu::always_inline]] static Reg mul(Reg a, Reg b) { return _mm512_mul_pd(a, b); }
  [[gnu::always_inline]] static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_pd(a, b, c); }
  [[gnu::always_inline]] static double sum(Reg x) { return _mm512_reduce_add_pd(x); }

  [[gnu::always_inline]] static void transpose(Reg* r) {
    Reg a[8];
    for (int i = 0; i < 8; i += 2) {  // a[2 p + j]: columns j, j + 2, j + 4, j + 6 of rows 2 p and 2 p + 1
      a[i] = _mm512_unpacklo_pd(r[i], r[i + 1]);
      a[i + 1] = _mm512_unpackhi_pd(r[i], r[i + 1]);
    }
    for (int j = 0; j < 2; ++j) {
      const Reg even_low = _mm512_shuffle_f64x2(a[j], a[2 + j], 0x88), odd_low = _mm512_shuffle_f64x2(a[j], a[2 + j], 0xdd);
      const Reg even_high = _mm512_shuffle_f64x2(a[4 + j], a[6 + j], 0x88),
                odd_high = _mm512_shuffle_f64x2(a[4 + j], a[6 + j], 0xdd);
      r[j] = _mm512_shuffle_f64x2(even_low, even_high, 0x88);
      r[j + 2] = _mm512_shuffle_f64x2(odd_low, odd_high, 0x88);
      r[j + 4] = _mm512_shuffle_f64x2(even_low, even_high, 0xdd);
      r[j + 6] = _mm512_shuffle_f64x2(odd_low, odd_high, 0xdd);
    }
  }

 private:
  [[gnu::always_inline]] static __mmask8 mask(int n) { return n >= 8 ? 0xff : static_cast<__mmask8>((1u << n) - 1); }
};

}  // namespace graft::avx512
