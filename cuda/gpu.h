// A GPU as the library uses it: one stream, one pool of memory, and one cuBLASLt handle. Everything that is done on it is done in the
// order of the calls, whatever thread makes them, so that memory can be handed on without waiting.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <mutex>
#include <string>

#include "graft/core/device.h"
#include "graft/cuda/backend.h"

namespace graft::cuda {

/// OutOfMemoryError or CudaError naming `what` unless `result` is cudaSuccess.
void require(cudaError_t result, const char* what);

class Gpu final : public DeviceRuntime {
 public:
  /// The oldest that the kernels' PTX serves, as Properties has it.
  static constexpr int least_capability = 80;

  /// CudaError if the GPU is older than that.
  explicit Gpu(int index);
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  /// OutOfMemoryError if there is none, after what was kept has been given back.
  void* allocate(std::size_t bytes) override;
  void release(void* data, std::size_t bytes = 0) noexcept override;
  void empty_cache() noexcept override;
  /// Between the host and a GPU, or GPUs. Done when it returns, except within one GPU.
  void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) override;
  const Kernels& kernels() const override;

  int index() const { return index_; }
  cudaStream_t stream() const { return stream_; }
  const Properties& properties() const { return properties_; }
  /// Waits until everything before is done; CudaError if something in it failed.
  void wait();

  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // as cuBLAS recommends for Hopper
  cublasLtHandle_t blas();
  void* workspace();

 private:
  int index_;
  Properties properties_{};
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  std::mutex mutex_;
  cublasLtHandle_t blas_ = nullptr;
  void* workspace_ = nullptr;
};

/// Number of usable GPUs; `why` is told what is missing when it is 0.
int count_gpus(std::string* why = nullptr);
/// CudaError saying what is missing if there is no such GPU.
Gpu& gpu(int index);
/// The GPU that is current on this thread (Current in backend.h).
Gpu& current_gpu();

}  // namespace graft::cuda
