#include "graft/core/cpu/gemm_units.h"

#if defined(__AVX2__)
#include "graft/core/cpu/gemm_kernels.inl"
#include "graft/core/cpu/simd_avx2.h"

namespace graft::cpu {

// Twelve sums beside the right operand's vectors and a broadcast: sixteen registers, and more sums than two multiply-adds per
// cycle have in flight.
const GemmUnit* gemm_avx2() {
  static constexpr GemmUnit unit{gemm_kernels_of<avx2::F32, 6, 2>(), gemm_kernels_of<avx2::F64, 4, 3>()};
  return &unit;
}

}  // namespace graft::cpu
#else
namespace graft::cpu {
const GemmUnit* gemm_avx2() { return nullptr; }
}  // namespace graft::cpu
#endif
