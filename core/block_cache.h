// Freed blocks of memory, kept for the next that asks. Training allocates the same large tensors step after step; from the system they
// would come as fresh pages each time, to be mapped and zeroed (a third of a small model's step on the CPU).
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <vector>

namespace graft {

class BlockCache {
 public:
  /// How blocks come and go where they live; `allocate` returns null when there is no room.
  struct Source {
    void* (*allocate)(std::size_t bytes);
    void (*release)(void* data, std::size_t bytes) noexcept;
  };
  explicit BlockCache(Source source) : source_(source) {}
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;
  ~BlockCache() { clear(); }

  /// A block of at least `bytes`; null when there is no room even with nothing kept.
  void* take(std::size_t bytes);
  /// Takes back what take(bytes) gave. Used and kept blocks together never exceed what was in use at most.
  void give(void* data, std::size_t bytes) noexcept;
  /// Gives all kept blocks back to where they came from.
  void clear() noexcept;
  std::size_t kept_bytes() const;

 private:
  /// Sizes are rounded to three binary digits, so that like sizes share blocks and at most an eighth is wasted.
  static std::size_t rounded(std::size_t bytes);
  void drop_until(std::size_t kept) noexcept;

  Source source_;
  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> kept_;  // by rounded size
  std::size_t kept_bytes_ = 0, used_bytes_ = 0, most_used_ = 0;
};

}  // namespace graft
