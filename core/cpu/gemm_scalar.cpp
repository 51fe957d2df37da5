#include "graft/core/cpu/gemm_kernels.inl"
#include "graft/core/cpu/gemm_units.h"
#include "graft/core/cpu/simd_scalar.h"

namespace graft::cpu {

// Two by sixteen sums: what a compiler keeps in the baseline's registers. Sixteen columns because a quantized weight's panels come
// in multiples of that.
const GemmUnit* gemm_scalar() {
  static constexpr GemmUnit unit{gemm_kernels_of<scalar::F32, 2, 16>(), gemm_kernels_of<scalar::F64, 2, 8>()};
  return &unit;
}

}  // namespace graft::cpu
