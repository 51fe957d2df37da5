// Eight floats or four doubles in a 256-bit register. Only for units compiled for AVX2, FMA and F16C.
// Everything is forced inline: no copy of it may be kept for callers on narrower machines.
#pragma once

#include <immintrin.h>

#include "graft/core/dtype.h"

namespace graft::avx2 {

struct F32 {
  using Element = float;
  using Reg = __m256;
  static constexpr int width = 8, registers = 16;

  [[gnu::always_inline]] static Reg zero() { return _mm256_setzero_ps(); }
  [[gnu::always_inline]] static Reg set(float value) { return _mm256_set1_ps(value); }

  [[gnu::always_inline]] static float get(const float* p) { return *p; }
  [[gnu::always_inline]] static float get(const f16* p) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(p->bits))); }
  [[gnu::always_inline]] static float get(const bf16* p) {
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(p->bits << 16)));
  }

  [[gnu::always_inline]] static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  [[gnu::always_inline]] static Reg load(const f16* p) { return _mm256_cvtph_ps(half_bits(p)); }
  [[gnu::always_inline]] static Reg load(const bf16* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half_bits(p)), 16));
  }
  /// The first n elements, zeros after them.
  [[gnu::always_inline]] static Reg load(const float* p, int n) { return _mm256_maskload_ps(p, mask(n)); }
  template <class Half>
  [[gnu::always_inline]] static Reg load(const Half* p, int n) {
    Half padded[width];
    __builtin_memset(static_cast<void*>(padded), 0, sizeof padded);
    for (int i = 0; i < n; ++i) padded[i].bits = p[i].bits;
    return load(padded);
  }
  [[gnu::always_inline]] static void store(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  [[gnu::always_inline]] static void store(float* p, Reg x, int n) { _mm256_maskstore_ps(p, mask(n), x); }

  [[gnu::always_inline]] static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  [[gnu::always_inline]] static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  [[gnu::always_inline]] static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  [[gnu::always_inline]] static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  [[gnu::always_inline]] static float sum(Reg x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }

  /// In place: element j of register i becomes element i of register j.
  [[gnu::always_inline]] static void transpose(Reg* r) {
    Reg pairs[8], quads[8];
    for (int i = 0; i < 8; i += 2) {
      pairs[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      pairs[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      for (int j = 0; j < 2; ++j) {
        quads[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + 2 + j], 0x44);
        quads[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + 2 + j], 0xee);
      }
    }
    for (int i = 0; i < 4; ++i) {
      r[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
      r[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
  }

 private:
  [[gnu::always_inline]] static __m256i mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  [[gnu::always_inline]] static __m128i half_bits(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
};

struct F64 {
  using Element = double;
  using Reg = __m256d;
  static constexpr int width = 4, registers = 16;

  [[gnu::always_inline]] static Reg zero() { return _mm256_setzero_pd(); }
  [[gnu::always_inline]] static Reg set(double value) { return _mm256_set1_pd(value); }
  [[gnu::always_inline]] static double get(const double* p) { return *p; }
  [[gnu::always_inline]] static Reg load(const double* p) { return _mm256_loadu_pd(p); }
  [[gnu::always_inline]] static Reg load(const double* p, int n) { return _mm256_maskload_pd(p, mask(n)); }
  [[gnu::always_inline]] static void store(double* p, Reg x) { _mm256_storeu_pd(p, x); }
  [[gnu::always_inline]] static void store(double* p, Reg x, int n) { _mm256_maskstore_pd(p, mask(n), x); }
  [[gnu::always_inline]] static Reg add(Reg a, Reg b) { return _mm256_add_pd(a, b); }
  [[gnu::always_inline]] static Reg sub(Reg a, Reg b) { return _mm256_sub_pd(a, b); }
  [[gnu::always_inline]] static Reg mul(Reg a, Reg b) { return _mm256_mul_pd(a, b); }
  [[gnu::always_inline]] static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_pd(a, b, c); }
  [[gnu::always_inline]] static double sum(Reg x) {
    const __m128d s = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
  }
  [[gnu::always_inline]] static void transpose(Reg* r) {
    const Reg a = _mm256_unpacklo_pd(r[0], r[1]), b = _mm256_unpackhi_pd(r[0], r[1]);
    const Reg c = _mm256_unpacklo_pd(r[2], r[3]), d = _mm256_unpackhi_pd(r[2], r[3]);
    r[0] = _mm256_permute2f128_pd(a, c, 0x20);
    r[1] = _mm256_permute2f128_pd(b, d, 0x20);
    r[2] = _mm256_permute2f128_pd(a, c, 0x31);
    r[3] = _mm256_permute2f128_pd(b, d, 0x31);
  }

 private:
  [[gnu::always_inline]] static __m256i mask(int n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }
};

}  // namespace graft::avx2
