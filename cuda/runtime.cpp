// The half of the CUDA hook that is linked when the library is built with CUDA: which GPUs there are, and what is missing where there
// are none.
#include <cuda.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "graft/cuda/backend.h"
#include "graft/cuda/gpu.h"

namespace graft::cuda {
namespace {

constexpr int most_gpus = 64;

std::string version(int number) { return fmt::format("{}.{}", number / 1000, number % 1000 / 10); }

/// What cudaGetDeviceCount answered, in words that name what is missing.
std::string reason(cudaError_t result) {
  if (result == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    if (driver == 0) return "no NVIDIA driver is installed";
    return fmt::format("the NVIDIA driver is too old: it serves CUDA {}, and {} is needed", version(driver),
                       version(CUDART_VERSION));
  }
  if (result == cudaErrorNoDevice) return "the NVIDIA driver finds no GPU";
  return fmt::format("the NVIDIA driver answered: {} ({})", cudaGetErrorString(result), cudaGetErrorName(result));
}

/// Whether anything has been done on a GPU: choosing one on which nothing was makes a context there, with memory of its own.
bool is_in_use(int index) {
  static const auto state_of = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult known{};
    const auto result = cudaGetDriverEntryPointByVersion("cuDevicePrimaryCtxGetState", &found, 7000, cudaEnableDefault, &known);
    return reinterpret_cast<decltype(&cuDevicePrimaryCtxGetState)>(result == cudaSuccess ? found : nullptr);
  }();
  unsigned flags = 0;
  int active = 0;
  return !state_of || state_of(index, &flags, &active) != CUDA_SUCCESS || active;
}

int device_of(const void* data) {
  cudaPointerAttributes attributes{};
  require(cudaPointerGetAttributes(&attributes, data), "looking where memory lies");
  check<CudaError>(attributes.type == cudaMemoryTypeDevice, "a kernel for GPUs was given memory that is on none");
  return attributes.device;
}

}  // namespace

int count_gpus(std::string* why) {
  int count = 0;
  cudaError_t result = cudaGetDeviceCount(&count);
  if (result == cudaSuccess && count == 0) result = cudaErrorNoDevice;
  if (result == cudaSuccess) return std::min(count, most_gpus);
  cudaGetLastError();
  if (why) *why = reason(result);
  return 0;
}

Gpu& gpu(int index) {
  static std::array<std::atomic<Gpu*>, most_gpus> gpus{};  // never destroyed: tensors may be, later than any other static object
  static std::mutex making;
  const bool possible = index >= 0 && index < most_gpus;
  if (possible)
    if (Gpu* made = gpus[static_cast<std::size_t>(index)].load(std::memory_order_acquire)) return *made;
  std::string why;
  const int count = count_gpus(&why);
  check<CudaError>(count > 0, "device cuda:{} was asked for, but {}", index, why);
  check<CudaError>(possible && index < count, "device cuda:{} was asked for, but the last of {} GPUs is cuda:{}", index, count,
                   count - 1);
  const std::lock_guard lock(making);
  auto& slot = gpus[static_cast<std::size_t>(index)];
  if (!slot.load()) slot.store(new Gpu(index), std::memory_order_release);
  return *slot.load();
}

Gpu& current_gpu() {
  int index = 0;
  require(cudaGetDevice(&index), "asking for the current GPU");
  return gpu(index);
}

Current::Current(int device) : device_(device) {
  require(cudaGetDevice(&previous_), "asking for the current GPU");
  if (previous_ != device) require(cudaSetDevice(device), "choosing a GPU");
}

Current::Current(const void* data) : Current(device_of(data)) {}

Current::~Current() {
  if (previous_ != device_ && is_in_use(previous_)) cudaSetDevice(previous_);
}

DeviceRuntime& runtime(int index) { return gpu(index); }

int device_count() { return count_gpus(); }

}  // namespace graft::cuda
