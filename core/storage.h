// A block of bytes on a device, shared by the tensors that view it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "graft/core/device.h"

namespace graft {

class Storage {
  struct Making {};

 public:
  /// Uninitialised memory, aligned to 64 bytes; OutOfMemoryError if there is none.
  static std::shared_ptr<Storage> allocate(std::int64_t bytes, Device device = {});
  /// Memory that somebody else owns (a mapped file): kept alive through `owner`, never written by Graft when `read_only`.
  static std::shared_ptr<Storage> wrap(void* data, std::int64_t bytes, std::shared_ptr<const void> owner, bool read_only);

  explicit Storage(Making) {}
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  ~Storage();

  void* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  bool read_only() const { return read_only_; }

  /// Counts changes in place, so that backward can refuse a tensor that changed after a rule captured it.
  std::uint64_t version() const { return version_.load(std::memory_order_relaxed); }
  void bump_version() { version_.fetch_add(1, std::memory_order_relaxed); }

 private:
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
  Device device_;
  bool read_only_ = false;
  std::shared_ptr<const void> owner_;
  std::atomic<std::uint64_t> version_{0};
};

namespace memory {
/// Bytes in live tensor storages (wrapped memory not counted), now and at most since the last reset_peak().
std::int64_t live_bytes();
std::int64_t peak_bytes();
void reset_peak();

/// Released memory is kept for what comes next, as long as that makes the process hardly larger than it has been. Gives it back to
/// the system: when training is over, or another part of the program needs room.
void empty_cache(Device device = {});
}  // namespace memory

}  // namespace graft
