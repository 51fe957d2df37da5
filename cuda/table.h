#pragma once

#include "graft/core/kernels.h"

namespace graft::cuda {

/// The kernel table of every GPU: each entry runs on the one where its first operand lies.
const Kernels& cuda_kernels();

}  // namespace graft::cuda
