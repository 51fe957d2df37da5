#include "graft/tests/core/kernel_operands.h"

namespace graft::test {

const Kernels& tested_kernels() { return cpu_kernels(); }

}  // namespace graft::test
