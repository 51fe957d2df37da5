// Four floats or two doubles in a 128-bit register. Only for units compiled for AArch64, where every processor has the set.
#pragma once

#include <arm_neon.h>

#include "graft/core/dtype.h"

namespace graft::neon {

/// The first n elements, zeros after them, and the other way round: there are no masks.
template <class V, class From>
[[gnu::always_inline]] inline typename V::Reg load_part(const From* p, int n) {
  From padded[V::width];
  __builtin_memset(static_cast<void*>(padded), 0, sizeof padded);
  for (int i = 0; i < V::width; ++i)
    if (i < n) padded[i] = p[i];
  return V::load(padded);
}
template <class V>
[[gnu::always_inline]] inline void store_part(typename V::Element* p, typename V::Reg x, int n) {
  for (int i = 0; i < V::width; ++i)
    if (i < n) p[i] = x[i];
}

struct F32 {
  using Element = float;
  using Reg = float32x4_t;
  static constexpr int width = 4, registers = 32;

  [[gnu::always_inline]] static Reg zero() { return vdupq_n_f32(0); }
  [[gnu::always_inline]] static Reg set(float value) { return vdupq_n_f32(value); }

  [[gnu::always_inline]] static float get(const float* p) { return *p; }
  [[gnu::always_inline]] static float get(const f16* p) { return __builtin_bit_cast(__fp16, p->bits); }
  [[gnu::always_inline]] static float get(const bf16* p) { return __builtin_bit_cast(float, p->bits << 16); }

  [[gnu::always_inline]] static Reg load(const float* p) { return vld1q_f32(p); }
  [[gnu::always_inline]] static Reg load(const f16* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits))); }
  [[gnu::always_inline]] static Reg load(const bf16* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&p->bits), 16)); }
  template <class From>
  [[gnu::always_inline]] static Reg load(const From* p, int n) {
    return load_part<F32>(p, n);
  }
  [[gnu::always_inline]] static void store(float* p, Reg x) { vst1q_f32(p, x); }
  [[gnu::always_inline]] static void store(float* p, Reg x, int n) { store_part<F32>(p, x, n); }

  [[gnu::always_inline]] static Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
  [[gnu::always_inline]] static Reg sub(Reg a, Reg b) { return vsubq_f32(a, b); }
  [[gnu::always_inline]] static Reg mul(Reg a, Reg b) { return vmulq_f32(a, b); }
  [[gnu::always_inline]] static Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
  [[gnu::always_inline]] static float sum(Reg x) { return vaddvq_f32(x); }

  /// In place: element j of register i becomes element i of register j.
  [[gnu::always_inline]] static void transpose(Reg* r) {
    const float64x2_t a = pairs(vtrn1q_f32(r[0], r[1])), b = pairs(vtrn2q_f32(r[0], r[1]));
    const float64x2_t c = pairs(vtrn1q_f32(r[2], r[3])), d = pairs(vtrn2q_f32(r[2], r[3]));
    r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
  }

 private:
  [[gnu::always_inline]] static float64x2_t pairs(Reg x) { return vreinterpretq_f64_f32(x); }
};

struct F64 {
  using Element = double;
  using Reg = float64x2_t;
  static constexpr int width = 2, registers = 32;

  [[gnu::always_inline]] static Reg zero() { return vdupq_n_f64(0); }
  [[gnu::always_inline]] static Reg set(double value) { return vdupq_n_f64(value); }
  [[gnu::always_inline]] static double get(const double* p) { return *p; }
  [[gnu::always_inline]] static Reg load(const double* p) { return vld1q_f64(p); }
  [[gnu::always_inline]] static Reg load(const double* p, int n) { return load_part<F64>(p, n); }
  [[gnu::always_inline]] static void store(double* p, Reg x) { vst1q_f64(p, x); }
  [[gnu::always_inline]] static void store(double* p, Reg x, int n) { store_part<F64>(p, x, n); }
  [[gnu::always_inline]] static Reg add(Reg a, Reg b) { return vaddq_f64(a, b); }
  [[gnu::always_inline]] static Reg sub(Reg a, Reg b) { return vsubq_f64(a, b); }
  [[gnu::always_inline]] static Reg mul(Reg a, Reg b) { return vmulq_f64(a, b); }
  [[gnu::always_inline]] static Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f64(c, a, b); }
  [[gnu::always_inline]] static double sum(Reg x) { return vaddvq_f64(x); }
  [[gnu::always_inline]] static void transpose(Reg* r) {
    const Reg even = vtrn1q_f64(r[0], r[1]), odd = vtrn2q_f64(r[0], r[1]);
    r[0] = even;
    r[1] = odd;
  }
};

}  // namespace graft::neon
