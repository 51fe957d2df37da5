#include "graft/core/cpu/vector.h"

#include "graft/core/isa.h"

namespace graft::cpu {
namespace {

constexpr int register_bytes = 16;
constexpr int tile_rows = 2;  // eight accumulators of four lanes leave room for the operands in sixteen registers

template <class V>
inline __attribute__((always_inline)) void multiply_add(V& c, const V& a, const V& b) {
  c += a * b;
}

void widen(const f16* x, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i];
}
void narrow(const float* x, f16* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = f16(x[i]);
}
void round(float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = f16(x[i]);
}

#include "graft/core/cpu/vector.inl"

namespace scalar {
constexpr VectorLoops<float> float_loops = make_loops<float>();
constexpr VectorLoops<double> double_loops = make_loops<double>();
constexpr VectorLoops<std::int64_t> integer_loops = make_loops<std::int64_t>();
constexpr HalfLoops half_loops = make_half_loops();
constexpr Bf16Loops bf16_loops = make_bf16_loops();
}  // namespace scalar

#if defined(__x86_64__)
namespace wide = avx2;
constexpr Isa wide_isa = Isa::avx2;
#elif defined(__aarch64__)
namespace wide = neon;
constexpr Isa wide_isa = Isa::neon;
#else
namespace wide = scalar;
constexpr Isa wide_isa = Isa::scalar;
#endif

}  // namespace

template <>
const VectorLoops<float>& vector_loops() {
  return includes(isa(), wide_isa) ? wide::float_loops : scalar::float_loops;
}
template <>
const VectorLoops<double>& vector_loops() {
  return includes(isa(), wide_isa) ? wide::double_loops : scalar::double_loops;
}
template <>
const VectorLoops<std::int64_t>& vector_loops() {
  return scalar::integer_loops;
}
const HalfLoops& half_loops() {
#if defined(__x86_64__)
  if (includes(isa(), Isa::avx512)) return avx512::half_loops;
#endif
  return includes(isa(), wide_isa) ? wide::half_loops : scalar::half_loops;
}
const Bf16Loops& bf16_loops() {
#if defined(__x86_64__)
  if (includes(isa(), Isa::avx512)) return avx512::bf16_loops;
#endif
  return includes(isa(), wide_isa) ? wide::bf16_loops : scalar::bf16_loops;
}

}  // namespace graft::cpu
