#include "graft/cuda/gpu.h"

#include <limits>

#include "graft/cuda/cublaslt.h"
#include "graft/cuda/table.h"

namespace graft::cuda {

void require(cudaError_t result, const char* what) {
  if (result == cudaSuccess) return;
  cudaGetLastError();  // what can be forgotten is
  check<OutOfMemoryError>(result != cudaErrorMemoryAllocation, "out of memory: {}", what);
  fail<CudaError>("{}: {} ({})", what, cudaGetErrorString(result), cudaGetErrorName(result));
}

Gpu::Gpu(int index) : index_(index) {
  const Current here(index);
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    require(cudaDeviceGetAttribute(&value, which, index), "asking what a GPU is");
    return value;
  };
  properties_ = {10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor),
                 attribute(cudaDevAttrMultiProcessorCount),
                 static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin))};
  const int capability = properties_.capability;
  check<CudaError>(capability >= least_capability, "cuda:{} has compute capability {}.{}, and at least {}.{} is needed", index,
                   capability / 10, capability % 10, least_capability / 10, least_capability % 10);
  require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = index;
  require(cudaMemPoolCreate(&pool_, &properties), "making a pool of memory");
  // Memory stays in the pool until empty_cache(): a training step asks for the sizes of the one before.
  std::uint64_t all = std::numeric_limits<std::uint64_t>::max();
  require(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &all), "setting up a pool of memory");
}

void* Gpu::allocate(std::size_t bytes) {
  const Current here(index_);
  void* data = nullptr;
  const std::size_t size = bytes ? bytes : 1;
  cudaError_t result = cudaMallocFromPoolAsync(&data, size, pool_, stream_);
  if (result == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    empty_cache();
    result = cudaMallocFromPoolAsync(&data, size, pool_, stream_);
  }
  if (result == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail<OutOfMemoryError>("out of memory: {} bytes could not be allocated on cuda:{}, where {} of {} are free", bytes, index_,
                           free, total);
  }
  require(result, "allocating memory");
  return data;
}

void Gpu::release(void* data, std::size_t) noexcept {
  if (data) cudaFreeAsync(data, stream_);  // at the end of a program the driver may be gone before the last tensor is
}

void Gpu::empty_cache() noexcept {
  cudaStreamSynchronize(stream_);
  cudaMemPoolTrimTo(pool_, 0);
}

void Gpu::copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) {
  if (bytes == 0) return;
  if (to_device.is_cpu() || from_device.is_cpu() || to_device == from_device) {
    const Current here(index_);
    require(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "copying");
    if (to_device != from_device) wait();
    return;
  }
  Gpu &source = gpu(from_device.index), &target = gpu(to_device.index);
  source.wait();
  const Current here(to_device.index);
  require(cudaMemcpyPeerAsync(to, to_device.index, from, from_device.index, bytes, target.stream()), "copying between GPUs");
  target.wait();  // before the source changes
}

const Kernels& Gpu::kernels() const { return cuda_kernels(); }

void Gpu::wait() { require(cudaStreamSynchronize(stream_), "waiting for the GPU"); }

cublasLtHandle_t Gpu::blas() {
  const CublasLt& lt = CublasLt::get();
  const std::lock_guard lock(mutex_);
  if (!blas_) require(lt.create(&blas_), "beginning with products");
  return blas_;
}

void* Gpu::workspace() {
  const std::lock_guard lock(mutex_);
  if (!workspace_) workspace_ = allocate(workspace_bytes);
  return workspace_;
}

}  // namespace graft::cuda
