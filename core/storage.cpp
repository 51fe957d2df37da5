#include "graft/core/storage.h"

#include <algorithm>

namespace graft {
namespace {

std::atomic<std::int64_t> live{0}, peak{0};

void account(std::int64_t bytes) {
  const std::int64_t now = live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  std::int64_t seen = peak.load(std::memory_order_relaxed);
  while (now > seen && !peak.compare_exchange_weak(seen, now, std::memory_order_relaxed)) {
  }
}

}  // namespace

std::shared_ptr<Storage> Storage::allocate(std::int64_t bytes, Device device) {
  check(bytes >= 0, "a storage of {} bytes was asked for", bytes);
  auto storage = std::make_shared<Storage>(Making());
  storage->data_ = runtime(device).allocate(static_cast<std::size_t>(bytes));
  storage->bytes_ = bytes;
  storage->device_ = device;
  account(bytes);
  return storage;
}

std::shared_ptr<Storage> Storage::wrap(void* data, std::int64_t bytes, std::shared_ptr<const void> owner, bool read_only) {
  check(owner != nullptr, "wrapped memory needs an owner that keeps it alive");
  auto storage = std::make_shared<Storage>(Making());
  storage->data_ = data;
  storage->bytes_ = bytes;
  storage->owner_ = std::move(owner);
  storage->read_only_ = read_only;
  return storage;
}

Storage::~Storage() {
  if (owner_ || !data_) return;
  account(-bytes_);
  runtime(device_).release(data_, static_cast<std::size_t>(bytes_));
}

namespace memory {

std::int64_t live_bytes() { return live.load(std::memory_order_relaxed); }
std::int64_t peak_bytes() { return peak.load(std::memory_order_relaxed); }
void reset_peak() { peak.store(live.load(std::memory_order_relaxed), std::memory_order_relaxed); }

void empty_cache(Device device) { runtime(device).empty_cache(); }

}  // namespace memory
}  // namespace graft
