// Which class AutoGPTQ builds a layer with. Nothing here depends on it but the question whose layer it is, which PEFT answers by
// class.
#pragma once

#include <string_view>

#include "graft/quant/quant_linear.h"

namespace graft::quant {

/// "exllama", "exllamav2", "cuda" or "cuda_old", the module under auto_gptq.nn_modules.qlinear whose QuantLinear
/// dynamically_import_QuantLinear takes for this quantization config without Triton, as PEFT's get_auto_gptq_quant_linear asks
/// it; empty for what no class of AutoGPTQ's has: other methods, layouts, and widths than 2, 3, 4 and 8 bits.
std::string_view auto_gptq_class(const Description& config);

}  // namespace graft::quant
