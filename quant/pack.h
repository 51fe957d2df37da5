// Repacking a layer's codes into the layout that kernels read.
#pragma once

#include "graft/quant/format.h"
#include "graft/quant/kernels.h"

namespace graft::quant {

/// The packed form of a decoded layer, made on all threads without a whole copy of the codes in between. ValueError for groups out
/// of range, for scales and zeros that are not [groups, out], and for bits outside 2 … 8.
std::shared_ptr<const Packed> pack(const Decoded& layer);

/// Its codes again, [in, out].
std::vector<std::uint8_t> unpack(const Packed& weight);

/// The stored code of packed row `row` (not input channel) and column `column`.
std::uint32_t code_at(const Packed& weight, std::int64_t row, std::int64_t column);

}  // namespace graft::quant
