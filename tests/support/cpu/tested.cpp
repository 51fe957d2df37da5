#include "../tested.h"

namespace graft::test {

Device tested_device() { return Device::cpu(); }
const Kernels& tested_kernels() { return cpu_kernels(); }

}  // namespace graft::test
