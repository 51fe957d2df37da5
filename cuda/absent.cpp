// The half of the CUDA hook that is linked when the library is built without CUDA.
#include "graft/core/device.h"
#include "graft/quant/kernels.h"

namespace graft::cuda {

DeviceRuntime& runtime(int index) {
  fail<CudaError>("device cuda:{} was asked for, but this library was built without CUDA", index);
}

int device_count() { return 0; }

}  // namespace graft::cuda

// No weight can be on a GPU.
namespace graft::quant::cuda {

void product(const Problem&) { fail<CudaError>("quantized product: this library was built without CUDA"); }

void dequantize(const Packed&, std::int64_t, std::int64_t, float*) {
  fail<CudaError>("dequantize: this library was built without CUDA");
}

}  // namespace graft::quant::cuda
