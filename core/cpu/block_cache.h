// Large pieces of memory, kept after their release for the next one of the same size.
//
// A training step asks for the same sizes as the one before. Left to malloc, their pages go back to the operating system at the end
// of a step and are faulted in and cleared again in the next: a fifth of the time of a step.
#pragma once

#include <cstddef>
#include <mutex>
#include <vector>

namespace graft::cpu {

class BlockCache {
 public:
  /// Keeps so much that the process is at most this share of its largest size, and `spare` bytes, larger than it would have been at its
  /// largest. The blocks of a step are not all alive at once; dropped, they would be mapped and cleared again in every step.
  BlockCache(std::size_t spare, double share) : spare_(spare), share_(share) {}
  ~BlockCache() { clear(); }
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;

  /// At least `bytes` bytes, aligned to a page; null if there is no memory.
  void* take(std::size_t bytes);
  /// What take(bytes) gave.
  void give(void* data, std::size_t bytes) noexcept;
  /// Gives everything kept back to the operating system.
  void clear() noexcept;
  std::size_t kept_bytes() const;

 private:
  struct Block {
    void* data;
    std::size_t size;
  };
  void drop(std::size_t count) noexcept;
  /// What may be taken and kept once `most` bytes are taken.
  std::size_t limit(std::size_t most) const { return most + static_cast<std::size_t>(share_ * static_cast<double>(most)) + spare_; }

  mutable std::mutex mutex_;
  std::vector<Block> kept_;                                  // in the order of their release
  std::size_t taken_ = 0, kept_bytes_ = 0, most_taken_ = 0;  // bytes; taken_ + kept_bytes_ <= limit(most_taken_)
  std::size_t taken_blocks_ = 0;
  const std::size_t spare_;
  const double share_;
};

}  // namespace graft::cpu
