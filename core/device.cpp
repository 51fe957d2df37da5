#include "graft/core/device.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#include "graft/core/kernels.h"

namespace graft {
namespace {

// One cache line, and the widest vector register.
constexpr std::size_t alignment = 64;

// Aligned allocation asks for more than it keeps, so that the hole that a block leaves is never large enough for the next of its
// size. Where that is memory that counts, the block is aligned by hand; how far it was moved stands in the byte before it.
constexpr std::size_t large = std::size_t{1} << 16;

struct CpuRuntime final : DeviceRuntime {
  void* allocate(std::size_t bytes) override {
    if (bytes < large) return checked(::operator new (bytes ? bytes : 1, std::align_val_t{alignment}, std::nothrow), bytes);
    auto* block = static_cast<std::byte*>(checked(::operator new(bytes + alignment, std::nothrow), bytes));
    const std::size_t moved = alignment - reinterpret_cast<std::uintptr_t>(block) % alignment;
    block[moved - 1] = static_cast<std::byte>(moved);
    return block + moved;
  }
  void release(void* data, std::size_t bytes) noexcept override {
    if (bytes < large) return ::operator delete (data, std::align_val_t{alignment});
    auto* block = static_cast<std::byte*>(data);
    ::operator delete(block - std::to_integer<std::size_t>(block[-1]));
  }
  void copy(void* to, Device, const void* from, Device, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  const Kernels& kernels() const override { return cpu_kernels(); }

 private:
  static void* checked(void* data, std::size_t bytes) {
    check<OutOfMemoryError>(data != nullptr, "out of memory: {} bytes could not be allocated on the CPU", bytes);
    return data;
  }
};

}  // namespace

std::string to_string(Device device) { return device.is_cpu() ? "cpu" : fmt::format("cuda:{}", device.index); }

DeviceRuntime& runtime(Device device) {
  static CpuRuntime cpu;
  return device.is_cpu() ? static_cast<DeviceRuntime&>(cpu) : cuda::runtime(device.index);
}

int cuda_device_count() { return cuda::device_count(); }

}  // namespace graft
