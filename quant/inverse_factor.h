// The factor of an inverse that GPTQ sweeps with.
#pragma once

#include <optional>

#include "graft/core/tensor.h"

namespace graft::quant {

/// Upper U, f32 [n, n], with UᵀU = (H + damping · I)⁻¹, for a symmetric H in f64 [n, n], of which the lower triangle is read and
/// whose memory is used up. Nothing if the damped H is not positive definite. ValueError unless it is square, contiguous, on the
/// CPU.
std::optional<Tensor> inverse_factor(const Tensor& h, double damping);

}  // namespace graft::quant
