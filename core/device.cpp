#include "graft/core/device.h"

#include <cstring>
#include <new>

#include "graft/core/block_cache.h"
#include "graft/core/kernels.h"

namespace graft {
namespace {

// One cache line, and the widest vector register.
constexpr std::align_val_t alignment{64};

// Blocks from here on are kept when they are freed; smaller ones the C++ library keeps itself.
constexpr std::size_t large = std::size_t{1} << 18;

void* allocate(std::size_t bytes) { return ::operator new(bytes ? bytes : 1, alignment, std::nothrow); }
void release(void* data, std::size_t) noexcept { ::operator delete(data, alignment); }

class CpuRuntime final : public DeviceRuntime {
 public:
  void* allocate(std::size_t bytes) override {
    void* data = bytes < large ? graft::allocate(bytes) : cache_.take(bytes);
    check<OutOfMemoryError>(data != nullptr, "out of memory: {} bytes could not be allocated on the CPU", bytes);
    return data;
  }
  void release(void* data, std::size_t bytes) noexcept override {
    if (bytes < large) graft::release(data, bytes);
    else cache_.give(data, bytes);
  }
  void release_unused() noexcept override { cache_.clear(); }
  void copy(void* to, Device, const void* from, Device, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  const Kernels& kernels() const override { return cpu_kernels(); }

 private:
  BlockCache cache_{{graft::allocate, graft::release}};
};

}  // namespace

std::string to_string(Device device) { return device.is_cpu() ? "cpu" : fmt::format("cuda:{}", device.index); }

DeviceRuntime& runtime(Device device) {
  static CpuRuntime& cpu = *new CpuRuntime;  // outlives the tensors of other globals
  return device.is_cpu() ? static_cast<DeviceRuntime&>(cpu) : cuda::runtime(device.index);
}

int cuda_device_count() { return cuda::device_count(); }

}  // namespace graft
