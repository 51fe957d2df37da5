#include "graft/core/cpu/gemm_units.h"

#if defined(__AVX512F__)
#include "graft/core/cpu/gemm_kernels.inl"
#include "graft/core/cpu/simd_avx512.h"

namespace graft::cpu {

// Twenty-four sums, four vectors of the right operand and broadcasts from memory: thirty-two registers.
const GemmUnit* gemm_avx512() {
  static constexpr GemmUnit unit{gemm_kernels_of<graft::avx512::F32, 6, 4>(), gemm_kernels_of<graft::avx512::F64, 6, 4>()};
  return &unit;
}

}  // namespace graft::cpu
#else
namespace graft::cpu {
const GemmUnit* gemm_avx512() { return nullptr; }
}  // namespace graft::cpu
#endif
