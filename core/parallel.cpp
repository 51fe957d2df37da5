#include "graft/core/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "graft/core/error.h"

namespace graft {
namespace {

// How long a thread looks for work, or for the end of it, before it sleeps: longer than the gap between two kernels of a
// training step, shorter than anybody would notice on an idle machine.
constexpr int spins = 20000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
void spin_until(Condition&& condition) {
  for (int i = 0; i < spins && !condition(); ++i) relax();
}

class Pool final : public ThreadPool {
 public:
  explicit Pool(int threads) {
    workers_.reserve(threads - 1);
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(static_cast<std::size_t>(i)); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Pool() override { stop(); }

  int size() const override { return static_cast<int>(workers_.size()) + 1; }

  void run(std::int64_t chunks, const std::function<void(std::int64_t)>& f) override {
    // One job at a time: whoever arrives meanwhile, from another host thread or from inside a chunk, does its work alone,
    // which cannot deadlock.
    const Turn turn(busy_);
    if (!turn.mine || workers_.empty()) {
      for (std::int64_t i = 0; i < chunks; ++i) f(i);
      return;
    }
    Job job(f, chunks, size());
    {
      std::lock_guard lock(mutex_);
      job_ = &job;
      generation_.fetch_add(1, std::memory_order_release);
    }
    if (sleepers_.load() > 0) wake_.notify_all();
    job.run(0);
    // No worker enters after job_ is cleared; those inside are waited for.
    std::unique_lock lock(mutex_);
    job_ = nullptr;
    if (inside_.load() > 0) {
      lock.unlock();
      spin_until([&] { return inside_.load(std::memory_order_relaxed) == 0; });
      lock.lock();
      done_.wait(lock, [&] { return inside_.load() == 0; });
    }
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  struct Turn {
    explicit Turn(std::atomic<bool>& busy) : busy(busy), mine(!busy.exchange(true)) {}
    ~Turn() {
      if (mine) busy.store(false);
    }
    std::atomic<bool>& busy;
    const bool mine;
  };

  // Each thread has a share of the chunks, the same one whenever there are as many, and helps the others when it is done: what it wrote
  // in one job it finds in its own caches in the next. Memory that another core wrote last takes longer to write.
  struct Job {
    struct alignas(64) Share {
      std::atomic<std::int64_t> next;
      std::int64_t end;
    };
    const std::function<void(std::int64_t)>& f;
    std::vector<Share> shares;
    std::mutex error_mutex{};
    std::exception_ptr error{};

    Job(const std::function<void(std::int64_t)>& f, std::int64_t chunks, int threads)
        : f(f), shares(static_cast<std::size_t>(threads)) {
      for (int i = 0; i < threads; ++i) {
        shares[static_cast<std::size_t>(i)].next = chunks * i / threads;
        shares[static_cast<std::size_t>(i)].end = chunks * (i + 1) / threads;
      }
    }
    void run(std::size_t thread) {
      for (std::size_t i = 0; i < shares.size(); ++i) {
        Share& share = shares[(thread + i) % shares.size()];
        for (std::int64_t chunk; (chunk = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
          try {
            f(chunk);
          } catch (...) {
            for (Share& other : shares) other.next.store(other.end, std::memory_order_relaxed);
            std::lock_guard lock(error_mutex);
            if (!error) error = std::current_exception();
          }
        }
      }
    }
  };

  void work(std::size_t thread) {
    std::uint64_t seen = 0;
    for (;;) {
      spin_until([&] { return generation_.load(std::memory_order_relaxed) != seen; });
      std::unique_lock lock(mutex_);
      if (generation_.load() == seen) {
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        sleepers_.fetch_sub(1);
      }
      if (stopping_) return;
      seen = generation_.load();
      Job* job = job_;
      if (!job) continue;  // it was finished before this thread arrived
      inside_.fetch_add(1);
      lock.unlock();
      job->run(thread);
      lock.lock();
      if (inside_.fetch_sub(1) == 1) done_.notify_all();
    }
  }

  void stop() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  std::atomic<bool> busy_{false};
  std::mutex mutex_;  // guards job_, stopping_ and every change of the counters below
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  bool stopping_ = false;
  std::atomic<std::uint64_t> generation_{0};  // counts jobs, so that a worker enters each at most once
  std::atomic<int> sleepers_{0}, inside_{0};
  std::vector<std::thread> workers_;
};

struct Process {
  std::mutex mutex;
  std::shared_ptr<ThreadPool> pool;
};

Process& process() {
  static Process process;
  return process;
}

thread_local bool inside_a_chunk = false;

}  // namespace

std::shared_ptr<ThreadPool> make_thread_pool(int threads) {
  check(threads >= 1, "a thread pool needs at least 1 thread, not {}", threads);
  try {
    return std::make_shared<Pool>(threads);
  } catch (const std::exception& error) {
    fail("a pool of {} threads cannot be started: {}", threads, error.what());
  }
}

void set_thread_pool(std::shared_ptr<ThreadPool> pool) {
  // The old pool is destroyed, and its threads joined, after the lock is gone.
  std::lock_guard lock(process().mutex);
  process().pool.swap(pool);
}

std::shared_ptr<ThreadPool> thread_pool() {
  std::lock_guard lock(process().mutex);
  auto& pool = process().pool;
  if (!pool) pool = make_thread_pool(std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  return pool;
}

void parallel_for(std::int64_t chunks, const std::function<void(std::int64_t)>& f) {
  if (chunks <= 1 || inside_a_chunk) {
    for (std::int64_t i = 0; i < chunks; ++i) f(i);
    return;
  }
  thread_pool()->run(chunks, [&](std::int64_t i) {
    struct Inside {
      Inside() : before(inside_a_chunk) { inside_a_chunk = true; }
      ~Inside() { inside_a_chunk = before; }
      bool before;
    } inside;
    f(i);
  });
}

}  // namespace graft
