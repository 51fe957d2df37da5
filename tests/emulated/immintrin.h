// AVX-512 spelled with narrower instructions: SIMDe, and below what its package in Debian 12 lacks.
#pragma once
// Set for the units that look for them; the compiler does not have them.
#undef __AVX512F__
#undef __AVX512BF16__
#undef __AVX512VNNI__
#undef __AVX512VBMI__

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace graft::emulated {

template <class Element, class Reg>
Reg load_masked(unsigned mask, const void* from) {
  Reg reg = {};
  for (std::size_t i = 0; i < sizeof(Reg) / sizeof(Element); ++i)
    if (mask >> i & 1) std::memcpy(reinterpret_cast<Element*>(&reg) + i, static_cast<const Element*>(from) + i, sizeof(Element));
  return reg;
}

template <class Element, class Reg>
void store_masked(void* to, unsigned mask, Reg reg) {
  for (std::size_t i = 0; i < sizeof(Reg) / sizeof(Element); ++i)
    if (mask >> i & 1) std::memcpy(static_cast<Element*>(to) + i, reinterpret_cast<const Element*>(&reg) + i, sizeof(Element));
}

// The upper half added to the lower one until one element is left: the order that compilers give the real one.
template <class Element, class Reg>
Element sum(Reg reg) {
  constexpr std::size_t count = sizeof(Reg) / sizeof(Element);
  Element all[count];
  std::memcpy(all, &reg, sizeof(Reg));
  for (std::size_t width = count / 2; width > 0; width /= 2)
    for (std::size_t i = 0; i < width; ++i) all[i] += all[i + width];
  return all[0];
}

inline float first(__m512 x) {
  float value;
  std::memcpy(&value, &x, sizeof value);
  return value;
}
inline float largest(__m512 x) {
  float all[16], most = -INFINITY;
  std::memcpy(all, &x, sizeof all);
  for (float each : all) most = each > most ? each : most;
  return most;
}

// Two registers of half the width in one, and the halves of one.
template <class Wide, class Half>
Wide joined(Half low, Half high) {
  Wide wide;
  std::memcpy(&wide, &low, sizeof(Half));
  std::memcpy(reinterpret_cast<char*>(&wide) + sizeof(Half), &high, sizeof(Half));
  return wide;
}
template <class Half, class Wide>
Half half(Wide wide, int which) {
  Half half;
  std::memcpy(&half, reinterpret_cast<const char*>(&wide) + which * sizeof(Half), sizeof(Half));
  return half;
}

inline __m512 cvtepi32_ps(__m512i x) {
  return joined<__m512>(_mm256_cvtepi32_ps(half<__m256i>(x, 0)), _mm256_cvtepi32_ps(half<__m256i>(x, 1)));
}
inline __m512i cvtepu16_epi32(__m256i x) {
  return joined<__m512i>(_mm256_cvtepu16_epi32(half<__m128i>(x, 0)), _mm256_cvtepu16_epi32(half<__m128i>(x, 1)));
}
inline __m512 cvtph_ps(__m256i x) {
  return joined<__m512>(_mm256_cvtph_ps(half<__m128i>(x, 0)), _mm256_cvtph_ps(half<__m128i>(x, 1)));
}

// The instruction takes subnormal numbers for zeros, its own results included, whatever the control register says.
inline float flushed(float x) { return std::abs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
inline float from_bf16(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float x;
  std::memcpy(&x, &wide, sizeof x);
  return flushed(x);
}
// Two multiply-adds to a lane, each rounded to nearest even: that of the upper halves first.
template <class Pairs>
__m512 dpbf16(__m512 sums, Pairs a, Pairs b) {
  float sum[16];
  std::uint16_t left[32], right[32];
  std::memcpy(sum, &sums, sizeof sum);
  std::memcpy(left, &a, sizeof left);
  std::memcpy(right, &b, sizeof right);
  for (int i = 0; i < 16; ++i)
    for (int part : {2 * i + 1, 2 * i})
      sum[i] = flushed(std::fma(from_bf16(left[part]), from_bf16(right[part]), flushed(sum[i])));
  std::memcpy(&sums, sum, sizeof sum);
  return sums;
}

// The numbers of `low`, then those of `high`, rounded to nearest even.
inline __m512i cvtne2ps_pbh(__m512 high, __m512 low) {
  float from[32];
  std::uint16_t to[32];
  std::memcpy(from, &low, sizeof low);
  std::memcpy(from + 16, &high, sizeof high);
  for (int i = 0; i < 32; ++i) {
    const float x = flushed(from[i]);
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof x);
    to[i] = static_cast<std::uint16_t>(std::isnan(x) ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  __m512i all;
  std::memcpy(&all, to, sizeof all);
  return all;
}

}  // namespace graft::emulated

#define _mm256_maskz_loadu_epi16(mask, p) (graft::emulated::load_masked<std::uint16_t, __m256i>(mask, p))
#define _mm512_maskz_loadu_epi16(mask, p) (graft::emulated::load_masked<std::uint16_t, __m512i>(mask, p))
#define _mm512_maskz_loadu_epi32(mask, p) (graft::emulated::load_masked<std::uint32_t, __m512i>(mask, p))
#define _mm512_maskz_loadu_ps(mask, p) (graft::emulated::load_masked<float, __m512>(mask, p))
#define _mm512_maskz_loadu_pd(mask, p) (graft::emulated::load_masked<double, __m512d>(mask, p))
#define _mm256_mask_storeu_epi16(p, mask, x) graft::emulated::store_masked<std::uint16_t>(p, mask, x)
#define _mm512_mask_storeu_epi16(p, mask, x) graft::emulated::store_masked<std::uint16_t>(p, mask, x)
#define _mm512_mask_storeu_ps(p, mask, x) graft::emulated::store_masked<float>(p, mask, x)
#define _mm512_mask_storeu_pd(p, mask, x) graft::emulated::store_masked<double>(p, mask, x)
#define _mm512_reduce_add_ps(x) graft::emulated::sum<float>(x)
#define _mm512_reduce_add_pd(x) graft::emulated::sum<double>(x)
#define _mm512_reduce_max_ps(x) graft::emulated::largest(x)
#define _mm512_cvtss_f32(x) graft::emulated::first(x)
#define _mm512_cvtepi32_ps(x) graft::emulated::cvtepi32_ps(x)
#define _mm512_cvtepu16_epi32(x) graft::emulated::cvtepu16_epi32(x)
#define _mm512_cvtph_ps(x) graft::emulated::cvtph_ps(x)
#define _mm512_cvtne2ps_pbh(high, low) graft::emulated::cvtne2ps_pbh(high, low)
#define _mm512_mask_storeu_epi32(p, mask, x) graft::emulated::store_masked<std::uint32_t>(p, mask, x)
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps(sum, a, b) graft::emulated::dpbf16(sum, a, b)
// It has these two, without the short names.
#undef _mm512_shuffle_f32x4
#undef _mm512_shuffle_f64x2
#define _mm512_shuffle_f32x4(a, b, imm) simde_mm512_shuffle_f32x4(a, b, imm)
#define _mm512_shuffle_f64x2(a, b, imm) simde_mm512_shuffle_f64x2(a, b, imm)
