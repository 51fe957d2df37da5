#include "graft/core/cpu/vector.h"

#if defined(__AVX2__)  // empty where the processor has no such set

#include <immintrin.h>

namespace graft::cpu {
namespace {

constexpr int register_bytes = 32;
constexpr int tile_rows = 4;

typedef float Floats __attribute__((vector_size(register_bytes)));
typedef double Doubles __attribute__((vector_size(register_bytes)));

inline __attribute__((always_inline)) void multiply_add(Floats& c, const Floats& a, const Floats& b) {
  c = (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
inline __attribute__((always_inline)) void multiply_add(Doubles& c, const Doubles& a, const Doubles& b) { c += a * b; }

#define GRAFT_F16C  // its intrinsics are there
#include "graft/core/cpu/vector.inl"

}  // namespace

namespace avx2 {
constexpr VectorLoops<float> float_loops = make_loops<float>();
constexpr VectorLoops<double> double_loops = make_loops<double>();
constexpr HalfLoops half_loops = make_half_loops();
constexpr Bf16Loops bf16_loops = make_bf16_loops();
}  // namespace avx2

}  // namespace graft::cpu

#endif
