// The entries of the kernel table for the CPU. They run for any strides, and their results do not depend on the number of threads.
#pragma once

#include "graft/core/kernels.h"

namespace graft::cpu {
#include "graft/core/entries.inl"

void silu_mul(const View& gate, const View& x, const View& y);
void silu_mul_backward(const View& gate, const View& x, const View& dy, const View& dgate, const View& dx);
}  // namespace graft::cpu
