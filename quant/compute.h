// How a product with a packed weight treats its activations.
#pragma once

namespace graft::quant {

enum class Compute {
  exact,            // as they are
  one_accumulator,  // and low-rank terms of half-precision layers summed with the product, rounded once, in no wrapper's order
  int8_activations,  // forward, CPU only: symmetric bytes, with a factor for each row and stretch of at most 128 input channels of a group
};

}  // namespace graft::quant
