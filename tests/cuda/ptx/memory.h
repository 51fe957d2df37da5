// Memory as kernels see it: buffers with exact bounds, which know what was written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "graft/core/error.h"

#include "launch.h"
#include "program.h"

namespace graft::ptx {

/// Why an instruction cannot be run; becomes a Fault where the instruction is known.
struct Refusal {
  std::string reason;
};
template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw Refusal{fmt::format(format, std::forward<Args>(args)...)};
}

struct Allocation {
  std::string name;
  std::byte* data = nullptr;
  std::size_t size = 0;
  bool writable = true;
  std::vector<std::uint8_t> written;  // per byte; empty if all is defined from the beginning

  /// Bytes at an offset, checked. `offset` may be any number.
  const std::byte* read(std::int64_t offset, std::size_t bytes) const;
  std::byte* write(std::int64_t offset, std::size_t bytes);
};

struct GlobalMemory {
  /// The buffer that an address points into, or beside, and the offset.
  std::pair<Allocation*, std::int64_t> at(std::uint64_t address);
  /// Makes the variables of a module those that addresses mean. They keep their values from launch to launch.
  void bind(const std::shared_ptr<Program>& program);

  std::vector<Allocation> buffers;               // the i-th at address::buffers + i * address::slot_size
  std::vector<Allocation>* variables = nullptr;  // of the module that runs

 private:
  struct Variables {
    std::vector<std::vector<std::byte>> bytes;
    std::vector<Allocation> allocations;
  };
  std::map<std::shared_ptr<Program>, Variables> modules_;
};

void check_aligned(std::uint64_t address, std::size_t bytes);

}  // namespace graft::ptx
