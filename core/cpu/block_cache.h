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
  /// Keeps so much that the process is at most `spare` bytes larger than it would have been at its largest.
  explicit BlockCache(std::size_t spare) : spare_(spare) {}
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

  mutable std::mutex mutex_;
  std::vector<Block> kept_;                                  // in the order of their release
  std::size_t taken_ = 0, kept_bytes_ = 0, most_taken_ = 0;  // bytes; taken_ + kept_bytes_ <= most_taken_ + spare_
  std::size_t taken_blocks_ = 0;
  const std::size_t spare_;
};

}  // namespace graft::cpu
