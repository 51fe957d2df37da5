#include "graft/quant/cpu/units.h"

#if defined(__AVX512F__)
#include "graft/quant/cpu/codes_avx512.h"
#include "graft/quant/cpu/kernels.inl"

namespace graft::quant {

const Unit* unit_avx512() {
  static constexpr Unit unit = unit_of<avx512::F32, avx512::Codes>();
  return &unit;
}

}  // namespace graft::quant
#else
namespace graft::quant {
const Unit* unit_avx512() { return nullptr; }
}  // namespace graft::quant
#endif
