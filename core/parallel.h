// Threads: a small pool behind one function, which a host program can replace by its own.
// Chunk boundaries must follow from the problem alone, and partial results be combined in chunk order: then results do not
// depend on how many threads there are or on who ran which chunk.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace graft {

class ThreadPool {
 public:
  virtual ~ThreadPool() = default;
  virtual int size() const = 0;
  /// Runs f(0) … f(chunks-1), in any order and on any threads, and returns when all are done. Rethrows the first exception.
  virtual void run(std::int64_t chunks, const std::function<void(std::int64_t)>& f) = 0;
};

/// A pool of `threads` threads, the calling one included, each of which begins with the same chunks whenever there are as many;
/// ValueError below 1 and for more than the system starts.
std::shared_ptr<ThreadPool> make_thread_pool(int threads);

/// Replaces the process-wide pool; null restores the default (as many threads as the machine has cores, made at first use).
void set_thread_pool(std::shared_ptr<ThreadPool> pool);
std::shared_ptr<ThreadPool> thread_pool();

/// Runs f(0) … f(chunks-1) on the process-wide pool; inline when there is one chunk, or when called from inside a chunk.
void parallel_for(std::int64_t chunks, const std::function<void(std::int64_t)>& f);
/// The same for what is no std::function, without memory for one.
template <class F>
void parallel_for(std::int64_t chunks, const F& f) {
  parallel_for(chunks, std::function<void(std::int64_t)>(std::cref(f)));
}

/// Splits [0, n) into pieces of `grain` (the last may be shorter) and runs f(begin, end) for each.
template <class F>
void parallel_ranges(std::int64_t n, std::int64_t grain, const F& f) {
  parallel_for((n + grain - 1) / grain, [&](std::int64_t i) { f(i * grain, i * grain + grain < n ? i * grain + grain : n); });
}

}  // namespace graft
