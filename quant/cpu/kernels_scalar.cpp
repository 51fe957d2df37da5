#include "graft/quant/cpu/codes_scalar.h"
#include "graft/quant/cpu/kernels.inl"

namespace graft::quant {

const Unit* unit_scalar() {
  static constexpr Unit unit = unit_of<scalar::F32, scalar::Codes>();
  return &unit;
}

}  // namespace graft::quant
