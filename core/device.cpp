#include "graft/core/device.h"

#include <cstddef>
#include <cstring>
#include <limits>
#include <new>

#include "graft/core/cpu/block_cache.h"
#include "graft/core/kernels.h"

namespace graft {
namespace {

// One cache line, and the widest vector register.
constexpr std::size_t alignment = 64;

// From here on memory comes in blocks of its own: malloc tidies up at each such request, two microseconds. The sanitizers know only
// their own allocator.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t large = std::numeric_limits<std::size_t>::max();
#else
constexpr std::size_t large = std::size_t{1} << 13;
#endif

struct CpuRuntime final : DeviceRuntime {
  void* allocate(std::size_t bytes) override {
    void* data =
        bytes < large ? ::operator new (bytes ? bytes : 1, std::align_val_t{alignment}, std::nothrow) : blocks_.take(bytes);
    check<OutOfMemoryError>(data != nullptr, "out of memory: {} bytes could not be allocated on the CPU", bytes);
    return data;
  }
  void release(void* data, std::size_t bytes) noexcept override {
    if (bytes < large) ::operator delete (data, std::align_val_t{alignment});
    else blocks_.give(data, bytes);
  }
  void empty_cache() noexcept override { blocks_.clear(); }
  void copy(void* to, Device, const void* from, Device, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);  // of nothing, either may be null
  }
  const Kernels& kernels() const override { return cpu_kernels(); }

 private:
  cpu::BlockCache blocks_{std::size_t{32} << 20, 0.25};
};

}  // namespace

std::string to_string(Device device) { return device.is_cpu() ? "cpu" : fmt::format("cuda:{}", device.index); }

DeviceRuntime& runtime(Device device) {
  static CpuRuntime* const cpu = new CpuRuntime;  // never destroyed: tensors may be, later than any other static object
  return device.is_cpu() ? *cpu : cuda::runtime(device.index);
}

int cuda_device_count() { return cuda::device_count(); }

}  // namespace graft

fmt::format_context::iterator fmt::formatter<graft::Device>::format(graft::Device device, fmt::format_context& context) const {
  return fmt::formatter<std::string>::format(graft::to_string(device), context);
}
