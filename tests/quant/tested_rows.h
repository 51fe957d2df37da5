// The products that a program's tests are about, as support/tested.h has it for the kernel table: for weights and operands in the host's memory.
#pragma once

#include <span>

#include "graft/quant/kernels.h"

namespace graft::quant::test {

/// Every row of the tested device's list.
std::span<const Row> tested_rows();
/// By how much a row may round each weight before it multiplies x, relative to the weight.
double weight_rounding(const Row& row, DType x);

void tested_backward(const Packed& weight, const View& dy, const View& dx, std::span<const Outer> outer);
void tested_outer_products(std::span<const Outer> all);

}  // namespace graft::quant::test
