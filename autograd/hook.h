// Seeing or changing a gradient on its way back: to watch it, to clip it, to reverse it.
#pragma once

#include <functional>

#include "graft/core/tensor.h"

namespace graft {

/// x itself. Backward hands the gradient that arrives here to f and goes on with what f returns, or with the same one where that
/// is undefined. Under create_graph the operations that f runs are recorded. ValueError at backward for a result of another
/// shape.
Tensor hook(const Tensor& x, std::function<Tensor(const Tensor& dy)> f);

}  // namespace graft
