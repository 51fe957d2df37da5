// The half of the CUDA hook that is linked when the library is built without CUDA.
#include "graft/core/device.h"

namespace graft::cuda {

DeviceRuntime& runtime(int index) {
  fail<CudaError>("device cuda:{} was asked for, but this library was built without CUDA", index);
}

int device_count() { return 0; }

}  // namespace graft::cuda
