#include "graft/quant/cpu/units.h"

#if defined(__AVX2__)
#include "graft/quant/cpu/codes_avx2.h"
#include "graft/quant/cpu/kernels.inl"

namespace graft::quant {

const Unit* unit_avx2() {
  static constexpr Unit unit = unit_of<avx2::F32, avx2::Codes>();
  return &unit;
}

}  // namespace graft::quant
#else
namespace graft::quant {
const Unit* unit_avx2() { return nullptr; }
}  // namespace graft::quant
#endif
