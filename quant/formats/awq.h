// AWQ as AutoAWQ, GPTQModel and llm-awq write it (Lin et al. 2023, arXiv:2306.00978). Group of channel k: always k / group_size.
//
// "gemm":      qweight [in, words(out)] i32, qzeros [groups, words(out)] i32, scales [groups, out]; packed along the rows, 4 bits
//              interleaved, other widths (2 to 8) as a plain stream.
// "gemv":      qweight [out, in/8] i32, qzeros [out, Z] i32, scales [out, 8·Z]; 4 bits, packed along in. Z words hold the groups,
// with
//              more room for smaller groups; the rest is padding.
// "gemv_fast", "llm-awq": qweight [out/4, in] i16, scales [8·Z, out], qzeros (or scaled_zeros) [8·Z, out] floating, holding
//              −scale · zero rounded. w = scale · code + that: another arithmetic than the rest, and it is kept.
#pragma once

#include "graft/quant/format.h"

namespace graft::quant {

extern const Format awq_gemm_format;
extern const Format awq_gemv_format;
extern const Format awq_fast_format;

}  // namespace graft::quant
