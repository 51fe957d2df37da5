#include "graft/core/block_cache.h"

#include <algorithm>
#include <bit>

namespace graft {

std::size_t BlockCache::rounded(std::size_t bytes) {
  const std::size_t step = std::max<std::size_t>(64, std::bit_floor(std::max<std::size_t>(bytes, 1)) / 8);
  return (bytes + step - 1) / step * step;
}

void* BlockCache::take(std::size_t bytes) {
  const std::size_t size = rounded(bytes);
  const std::lock_guard lock(mutex_);
  void* data = nullptr;
  if (const auto found = kept_.find(size); found != kept_.end() && !found->second.empty()) {
    data = found->second.back();
    found->second.pop_back();
    kept_bytes_ -= size;
  } else {
    // Blocks of other sizes make room: what was in use at most is what the host must have anyway.
    const std::size_t most = std::max(most_used_, used_bytes_ + size);
    drop_until(most - used_bytes_ - size);
    data = source_.allocate(size);
    if (!data) {
      drop_until(0);
      data = source_.allocate(size);
    }
    if (!data) return nullptr;
  }
  used_bytes_ += size;
  most_used_ = std::max(most_used_, used_bytes_);
  return data;
}

void BlockCache::give(void* data, std::size_t bytes) noexcept {
  const std::size_t size = rounded(bytes);
  const std::lock_guard lock(mutex_);
  used_bytes_ -= size;
  try {
    kept_[size].push_back(data);
    kept_bytes_ += size;
  } catch (...) {  // no room to remember it
    source_.release(data, size);
  }
}

void BlockCache::clear() noexcept {
  const std::lock_guard lock(mutex_);
  drop_until(0);
}

std::size_t BlockCache::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return kept_bytes_;
}

// The largest first: they free the most, and fit the fewest requests.
void BlockCache::drop_until(std::size_t kept) noexcept {
  for (auto at = kept_.rbegin(); at != kept_.rend() && kept_bytes_ > kept; ++at)
    for (auto& blocks = at->second; !blocks.empty() && kept_bytes_ > kept; blocks.pop_back()) {
      source_.release(blocks.back(), at->first);
      kept_bytes_ -= at->first;
    }
}

}  // namespace graft
