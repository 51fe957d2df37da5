// The entries of the kernel table for the CPU. They run for any strides, and their results do not depend on the number of threads.
#pragma once

#include "graft/core/kernels.h"

namespace graft::cpu {
#include "graft/core/entries.inl"
}  // namespace graft::cpu
