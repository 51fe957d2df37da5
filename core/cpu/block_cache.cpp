#include "graft/core/cpu/block_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <new>

namespace graft::cpu {
namespace {

constexpr std::size_t huge_page = std::size_t{2} << 20;

/// Eight sizes per power of two, so that inputs of many lengths meet blocks that fit.
std::size_t size_class(std::size_t bytes) {
  const std::size_t step = std::max<std::size_t>(std::bit_floor(bytes) / 8, 4096);
  return (bytes + step - 1) / step * step;
}

/// Pages from the operating system, huge ones where they lie wholly inside.
void* map(std::size_t size) {
  const bool huge = size >= 2 * huge_page;
  const std::size_t spare = huge ? huge_page : 0;
  void* mapped = ::mmap(nullptr, size + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  if (!huge) return mapped;
  auto* begin = static_cast<std::byte*>(mapped);
  const std::size_t skipped = (huge_page - reinterpret_cast<std::uintptr_t>(begin) % huge_page) % huge_page;
  if (skipped > 0) ::munmap(begin, skipped);
  if (skipped < spare) ::munmap(begin + skipped + size, spare - skipped);
  ::madvise(begin + skipped, size / huge_page * huge_page, MADV_HUGEPAGE);  // a wish: without it there are more page faults
  return begin + skipped;
}

}  // namespace

void* BlockCache::take(std::size_t bytes) {
  const std::size_t size = size_class(bytes);
  const std::lock_guard lock(mutex_);
  try {
    kept_.reserve(kept_.size() + taken_blocks_ + 1);  // for give(), which must not fail
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  void* data = nullptr;
  // The newest first: more of it is still in the processor's caches.
  const auto found = std::find_if(kept_.rbegin(), kept_.rend(), [&](const Block& b) { return b.size == size; });
  if (found != kept_.rend()) {
    data = found->data;
    kept_.erase(std::next(found).base());
    kept_bytes_ -= size;
  } else {
    const std::size_t most = limit(std::max(most_taken_, taken_ + size));
    std::size_t dropped = 0;
    for (std::size_t left = kept_bytes_; taken_ + size + left > most; ++dropped) left -= kept_[dropped].size;
    drop(dropped);
    data = map(size);
    if (!data && !kept_.empty()) {
      drop(kept_.size());
      data = map(size);
    }
    if (!data) return nullptr;
  }
  taken_ += size;
  most_taken_ = std::max(most_taken_, taken_);
  ++taken_blocks_;
  return data;
}

void BlockCache::give(void* data, std::size_t bytes) noexcept {
  const std::size_t size = size_class(bytes);
  const std::lock_guard lock(mutex_);
  kept_.push_back({data, size});
  kept_bytes_ += size;
  taken_ -= size;
  --taken_blocks_;
}

void BlockCache::clear() noexcept {
  const std::lock_guard lock(mutex_);
  drop(kept_.size());
  most_taken_ = taken_;
}

std::size_t BlockCache::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return kept_bytes_;
}

void BlockCache::drop(std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    kept_bytes_ -= kept_[i].size;
    ::munmap(kept_[i].data, kept_[i].size);
  }
  kept_.erase(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(count));
}

}  // namespace graft::cpu
