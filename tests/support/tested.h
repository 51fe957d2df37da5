// What a program's tests are about: the CPU in the programs of the rooms (support/cpu), a GPU in those of tests/cuda.
#pragma once

#include "graft/core/device.h"
#include "graft/core/kernels.h"

namespace graft::test {

Device tested_device();

/// Its kernel table, for operands in the host's memory.
const Kernels& tested_kernels();

}  // namespace graft::test
