// Weights that were repacked for the Marlin kernel before they were saved (Frantar et al. 2024, arXiv:2408.11743): symmetric 4
// bits, 16 × 64 tiles, permuted scales, no zero points and no act-order.
//
//   GPTQ: B  [in/16, 2·out] i32, s  [groups, out] floating, workspace (scratch of the kernel, ignored), bias
//   AWQ:  qweight and scales of the same shapes, bias
#pragma once

#include "graft/quant/format.h"

namespace graft::quant {

extern const Format gptq_marlin_format;
extern const Format awq_marlin_format;

}  // namespace graft::quant
