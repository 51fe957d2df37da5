// The quantization config that goes with a folder's packed weights.
#pragma once

#include <string>
#include <string_view>

#include "graft/quant/quantize_folder.h"

namespace graft::quant {

/// The grid that a method rounds to.
const Grid& grid_of(const QuantizeMethod& method);

/// The JSON object that readers of `layout` expect under "quantization_config", in the field names of GPTQModel, AutoAWQ and
/// transformers.
std::string quantization_config(const QuantizeMethod& method, std::string_view layout);

}  // namespace graft::quant
