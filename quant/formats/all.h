// The list of formats. A new one is a header and a source in this folder, and its name here.
#pragma once

#include "graft/quant/formats/awq.h"
#include "graft/quant/formats/eetq.h"
#include "graft/quant/formats/gptq.h"
#include "graft/quant/formats/marlin.h"

namespace graft::quant {

inline constexpr const Format* all_formats[] = {&gptq_format,     &gptq_marlin_format, &awq_gemm_format, &awq_gemv_format,
                                                &awq_fast_format, &awq_marlin_format,  &eetq_format};

}  // namespace graft::quant
