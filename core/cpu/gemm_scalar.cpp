#include "graft/core/cpu/gemm_kernels.inl"
#include "graft/core/cpu/gemm_units.h"
#include "graft/core/cpu/simd_scalar.h"

namespace graft::cpu {

// Four by eight sums: what a compiler keeps in registers, or vectorises for the baseline.
const GemmUnit* gemm_scalar() {
  static constexpr GemmUnit unit{gemm_kernels_of<scalar::F32, 4, 8>(), gemm_kernels_of<scalar::F64, 4, 8>()};
  return &unit;
}

}  // namespace graft::cpu
