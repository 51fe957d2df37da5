#include "graft/core/cpu/vector.h"

#include "graft/core/isa.h"

// Vectors wider than the baseline's registers are passed to inlined functions only.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace graft::cpu {
namespace {

constexpr int tile_rows = 2;  // eight accumulators of four lanes leave room for the operands in sixteen registers

template <class V>
inline __attribute__((always_inline)) void multiply_add(V& c, const V& a, const V& b) {
  c += a * b;
}

#include "graft/core/cpu/vector.inl"

constexpr VectorLoops<float> float_loops = make_loops<float>();
constexpr VectorLoops<double> double_loops = make_loops<double>();
constexpr VectorLoops<std::int64_t> integer_loops = make_loops<std::int64_t>();

constexpr HalfLoops scalar_half_loops = {
    .widen =
        [](const f16* x, float* y, std::int64_t n) {
          for (std::int64_t i = 0; i < n; ++i) y[i] = x[i];
        },
    .narrow =
        [](const float* x, f16* y, std::int64_t n) {
          for (std::int64_t i = 0; i < n; ++i) y[i] = f16(x[i]);
        },
};

#if defined(__x86_64__)
template <class Loops>
const Loops& choose(const Loops& narrow, const Loops& wide) {
  return isa() >= Isa::avx2 ? wide : narrow;
}
#define GRAFT_CHOOSE(narrow, wide) choose(narrow, wide)
#else
#define GRAFT_CHOOSE(narrow, wide) narrow
#endif

}  // namespace

template <>
const VectorLoops<float>& vector_loops() {
  return GRAFT_CHOOSE(float_loops, avx2::float_loops);
}
template <>
const VectorLoops<double>& vector_loops() {
  return GRAFT_CHOOSE(double_loops, avx2::double_loops);
}
template <>
const VectorLoops<std::int64_t>& vector_loops() {
  return integer_loops;
}
const HalfLoops& half_loops() { return GRAFT_CHOOSE(scalar_half_loops, avx2::half_loops); }

}  // namespace graft::cpu
