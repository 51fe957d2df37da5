// The entries of the kernel table for CUDA. They run on the current device and return before the device is done. Whatever is summed is
// summed in an order that the shapes alone decide: no result depends on timing.
#pragma once

#include "graft/core/kernels.h"

namespace graft::cuda {
#include "graft/core/entries.inl"
}  // namespace graft::cuda
