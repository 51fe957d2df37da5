#include "graft/core/cpu/vector.h"

#if defined(__aarch64__)  // empty on other processors

#include "graft/core/cpu/simd_neon.h"

namespace graft::cpu {
namespace {

using graft::neon::F32;
using graft::neon::F64;

constexpr int register_bytes = 16;
constexpr int tile_rows = 4;  // sixteen registers of sums, of thirty-two

typedef float Floats __attribute__((vector_size(register_bytes)));
typedef double Doubles __attribute__((vector_size(register_bytes)));

inline __attribute__((always_inline)) void multiply_add(Floats& c, const Floats& a, const Floats& b) { c = F32::fma(a, b, c); }
inline __attribute__((always_inline)) void multiply_add(Doubles& c, const Doubles& a, const Doubles& b) { c = F64::fma(a, b, c); }

void widen(const f16* x, float* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + 4 <= n; i += 4) F32::store(y + i, F32::load(x + i));
  for (; i < n; ++i) y[i] = F32::get(x + i);
}

void narrow(const float* x, f16* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + 4 <= n; i += 4) vst1_u16(&y[i].bits, vreinterpret_u16_f16(vcvt_f16_f32(F32::load(x + i))));
  for (; i < n; ++i) y[i].bits = __builtin_bit_cast(std::uint16_t, static_cast<__fp16>(x[i]));
}

void round(float* x, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + 4 <= n; i += 4) vst1q_f32(x + i, vcvt_f32_f16(vcvt_f16_f32(vld1q_f32(x + i))));
  for (; i < n; ++i) x[i] = static_cast<float>(static_cast<__fp16>(x[i]));
}

#include "graft/core/cpu/vector.inl"

}  // namespace

namespace neon {
constexpr VectorLoops<float> float_loops = make_loops<float>();
constexpr VectorLoops<double> double_loops = make_loops<double>();
constexpr HalfLoops half_loops = make_half_loops();
constexpr Bf16Loops bf16_loops = make_bf16_loops();
}  // namespace neon

}  // namespace graft::cpu

#endif
