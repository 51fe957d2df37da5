// GPTQ as AutoGPTQ, GPTQModel and optimum write it: codes packed down the columns, zero points along the rows, one group number
// per input channel. (Frantar et al. 2022, arXiv:2210.17323; the layouts are those tools' own.)
//
//   qweight  [words(in), out]      i32; i16 or i8 for 2, 4 and 8 bits
//   qzeros   [groups, words(out)]  as qweight; may be missing when sym
//   scales   [groups, out]         f16, bf16 or f32
//   g_idx    [in]                  i32; missing or all 0: channel k is in group k / group_size, refused with desc_act
//   bias     [out]                 optional
//
// Layouts: "gptq" (2, 3, 4, 8 bits; zero points stored less one), "gptq_v2" (the same, zero points as they are), "gptq_p" (2 to 8
// bits in planes, zero points as they are), "gptq or gptq_v2" (a file with both labels).
//
// How "less one" was done decides what happens around a zero point of 0, so it is settled once per layer:
//   1. Description::zeros, when the caller says it;
//   2. sym: every zero point is 2^(bits−1), so the reading that makes it so is right, whatever the labels say; if none does, a config
//      that states sym is refused;
//   3. gptq_v2 and gptq_p: "z";
//   4. gptq by GPTQModel: "z-1 per word" (one subtraction from the whole word, borrows included), for 3 bits "z-1 per field" from
//      version 7.0.0 on, and "z-1 scrambled" before (two of the three word constants were exchanged);
//   5. gptq by anybody else: "z-1 per field", modulo 2^bits.
// A file with both labels and asymmetric zero points is settled by the mean of (code − zero), which is near 0 when zeros are right.
// Where 3 to 5 leave that mean near ±1 and another reading brings it to 0, the layer is refused, and so are words that AutoGPTQ
// damaged, unless the caller says how to read them.
#pragma once

#include "graft/quant/format.h"

namespace graft::quant {

extern const Format gptq_format;

/// Whether a layer of this layout and width can store its zero points so ("z-1 scrambled" needs 3 bits, …); ValueError for a name that
/// does not exist, naming those that do.
bool gptq_can_store(const Description& description, std::string_view zeros);

}  // namespace graft::quant
