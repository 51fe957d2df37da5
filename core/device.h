// Where a tensor lives, and the hook through which a device implementation is linked in.
#pragma once

#include <cstddef>
#include <string>

#include "graft/core/error.h"

namespace graft {

struct Kernels;

struct Device {
  enum class Type { cpu, cuda };
  Type type = Type::cpu;
  int index = 0;

  static Device cpu() { return {}; }
  static Device cuda(int index = 0) { return {Type::cuda, index}; }
  bool is_cpu() const { return type == Type::cpu; }
  bool operator==(const Device&) const = default;
};

std::string to_string(Device device);

/// What a device must offer beside its kernels. The CPU's is built in; CUDA's is chosen at link time (cuda/runtime.cpp or cuda/absent.cpp).
struct DeviceRuntime {
  virtual ~DeviceRuntime() = default;
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* data, std::size_t bytes) noexcept = 0;
  /// Gives memory that is kept for later allocations back to the system.
  virtual void empty_cache() noexcept = 0;
  virtual void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) = 0;
  virtual const Kernels& kernels() const = 0;
};

/// The runtime of `device`; CudaError if the library was built without CUDA, or if no such GPU is usable.
DeviceRuntime& runtime(Device device);

/// Number of usable GPUs; 0 without CUDA, and never an error.
int cuda_device_count();

namespace cuda {
// Defined by exactly one of cuda/runtime.cpp and cuda/absent.cpp.
DeviceRuntime& runtime(int index);
int device_count();
}  // namespace cuda

}  // namespace graft

template <>
struct fmt::formatter<graft::Device> : fmt::formatter<std::string> {
  fmt::format_context::iterator format(graft::Device device, fmt::format_context& context) const;
};
