// From integers to the tensors that a checkpoint stores: the reverse of quant/formats/, from the same description of the bits.
#pragma once

#include <string_view>

#include "graft/quant/format.h"
#include "graft/quant/quantize.h"

namespace graft::quant {

/// The layer's tensors in `layout`, by the last part of their names; scales in the grid's scale_dtype, `bias` [out] as it is.
///
///   "gptq"                    2, 3, 4 and 8 bits. Zero points are stored less one, and readers disagree about one of 0: it is refused
///   "gptq_v2", "gptq_p"       2, 3, 4 and 8 bits; 2 to 8 bits and multiples of 32
///   "gemm"                    AWQ, 2 to 8 bits; groups in order, all of one length
///   "plain", "sm70", "sm80"   EETQ's grid; sm70 needs out % 4 == 0, sm80 in % 64 == 0 and out % 2 == 0
///
/// ValueError for another layout, for what a layout cannot hold, and for what validate() refuses.
Stored to_stored(const Quantized& quantized, std::string_view layout, const Tensor& bias = {});

/// The layout that most readers of such weights understand: for GPTQ "gptq" where no reader can misread the zero points
/// (symmetric, not 3 bits), "gptq_p" for 5, 6 and 7 bits, else "gptq_v2"; for AWQ "gemm"; for EETQ "sm80".
std::string_view usual_layout(const Grid& grid);

}  // namespace graft::quant
