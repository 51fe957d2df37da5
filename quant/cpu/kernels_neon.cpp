#include "graft/quant/cpu/units.h"

#if defined(__aarch64__)
#include "graft/quant/cpu/codes_neon.h"
#include "graft/quant/cpu/kernels.inl"

namespace graft::quant {

const Unit* unit_neon() {
  static constexpr Unit unit = unit_of<neon::F32, neon::Codes>();
  return &unit;
}

}  // namespace graft::quant
#else
namespace graft::quant {
const Unit* unit_neon() { return nullptr; }
}  // namespace graft::quant
#endif
