#include "graft/cuda/backend.h"

#include <cstring>
#include <unordered_map>

#include "graft/cuda/gpu.h"
#include "graft/cuda/images.h"

namespace graft::cuda {
namespace {

/// The kernels that were asked for so far, by source; those of a source are loaded with the first.
class Loaded {
 public:
  cudaKernel_t find(const Kernel& kernel) {
    const std::lock_guard lock(mutex_);
    Source& source = sources_[kernel.image];
    if (!source.library) load(kernel.image, source.library);
    cudaKernel_t& known = source.kernels[kernel.name];
    if (!known) require(cudaLibraryGetKernel(&known, source.library, kernel.name.c_str()), kernel.name.c_str());
    return known;
  }

 private:
  struct Source {
    cudaLibrary_t library = nullptr;
    std::unordered_map<std::string, cudaKernel_t> kernels;
  };
  static void load(const char* image, cudaLibrary_t& library) {
    for (const Image& each : images())
      if (std::strcmp(each.name, image) == 0)
        require(cudaLibraryLoadData(&library, each.data, nullptr, nullptr, 0, nullptr, nullptr, 0), "loading kernels");
  }

  std::mutex mutex_;
  std::unordered_map<std::string, Source> sources_;
};

}  // namespace

Properties properties() { return current_gpu().properties(); }

void* allocate(std::size_t bytes) { return current_gpu().allocate(bytes); }

void release(void* data) noexcept {
  int index = 0;
  if (cudaGetDevice(&index) == cudaSuccess) gpu(index).release(data);
}

void read(void* host, const void* device, std::size_t bytes) {
  int index = 0;
  require(cudaGetDevice(&index), "asking for the current GPU");
  gpu(index).copy(host, Device::cpu(), device, Device::cuda(index), bytes);
}

void write(void* device, const void* host, std::size_t bytes) {
  int index = 0;
  require(cudaGetDevice(&index), "asking for the current GPU");
  gpu(index).copy(device, Device::cuda(index), host, Device::cpu(), bytes);
}

void launch_bytes(const Kernel& kernel, Grid grid, int threads, std::size_t shared, const void* argument, std::size_t) {
  static Loaded* const loaded = new Loaded;  // never destroyed: the driver may be gone before it would be
  void* arguments[] = {const_cast<void*>(argument)};
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
  check<NotImplementedError>(grid.x < (std::int64_t{1} << 31) && grid.y < (1 << 16), "{}: a grid of {} by {} blocks is too large",
                             kernel.name, grid.x, grid.y);
  Gpu& gpu = current_gpu();
  const void* function = loaded->find(kernel);
  if (shared > most_shared)
    require(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
            kernel.name.c_str());
  require(cudaLaunchKernel(function, blocks, dim3(static_cast<unsigned>(threads)), arguments, shared, gpu.stream()),
          kernel.name.c_str());
}

}  // namespace graft::cuda
