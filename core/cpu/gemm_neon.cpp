#include "graft/core/cpu/gemm_units.h"

#if defined(__aarch64__)
#include "graft/core/cpu/gemm_kernels.inl"
#include "graft/core/cpu/simd_neon.h"

namespace graft::cpu {

// Sixteen sums, four vectors of the right operand and numbers of the left one. Thirty-two registers would hold twenty-four sums,
// but g++ 12 then keeps some of them in memory.
const GemmUnit* gemm_neon() {
  static constexpr GemmUnit unit{gemm_kernels_of<neon::F32, 4, 4>(), gemm_kernels_of<neon::F64, 4, 4>()};
  return &unit;
}

}  // namespace graft::cpu
#else
namespace graft::cpu {
const GemmUnit* gemm_neon() { return nullptr; }
}  // namespace graft::cpu
#endif
