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

void widen(const f16* x, float* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  for (; i < n; ++i) y[i] = _cvtsh_ss(x[i].bits);
}

void narrow(const float* x, f16* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; ++i) y[i].bits = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
}

#include "graft/core/cpu/vector.inl"

}  // namespace

namespace avx2 {
constexpr VectorLoops<float> float_loops = make_loops<float>();
constexpr VectorLoops<double> double_loops = make_loops<double>();
constexpr HalfLoops half_loops = {
    .widen = widen, .narrow = narrow, .widen_bf16 = widen_bf16_loop, .narrow_bf16 = narrow_bf16_loop};
constexpr Bf16Loops bf16_loops = make_bf16_loops();
}  // namespace avx2

}  // namespace graft::cpu

#endif
