#include "graft/core/device.h"

#include <cstring>
#include <new>

#include "graft/core/kernels.h"

namespace graft {
namespace {

// One cache line, and the widest vector register.
constexpr std::align_val_t alignment{64};

struct CpuRuntime final : DeviceRuntime {
  void* allocate(std::size_t bytes) override {
    void* data = ::operator new(bytes ? bytes : 1, alignment, std::nothrow);
    check<OutOfMemoryError>(data != nullptr, "out of memory: {} bytes could not be allocated on the CPU", bytes);
    return data;
  }
  void release(void* data, std::size_t) noexcept override { ::operator delete(data, alignment); }
  void copy(void* to, Device, const void* from, Device, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  const Kernels& kernels() const override { return cpu_kernels(); }
};

}  // namespace

std::string to_string(Device device) { return device.is_cpu() ? "cpu" : fmt::format("cuda:{}", device.index); }

DeviceRuntime& runtime(Device device) {
  static CpuRuntime cpu;
  return device.is_cpu() ? static_cast<DeviceRuntime&>(cpu) : cuda::runtime(device.index);
}

int cuda_device_count() { return cuda::device_count(); }

}  // namespace graft
