// Plain rounding to a grid: the whole of EETQ, the last step of AWQ, and what GPTQ is measured against.
#pragma once

#include "graft/quant/quantize.h"

namespace graft::quant {

/// Rounds each entry of `weight` [out, in] (any floating dtype, strides and device) to its group's grid.
/// TypeError and ValueError as for the other searches: not a floating matrix, not finite, settings that validate() refuses, a
/// scale that scale_dtype cannot hold.
Quantized round_to_nearest(const Tensor& weight, const Grid& grid);

}  // namespace graft::quant
