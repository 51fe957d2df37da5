#include "graft/core/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
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
  explicit Pool(int threads) : shares_(static_cast<std::size_t>(threads)), offers_(static_cast<std::size_t>(threads - 1)) {
    workers_.reserve(offers_.size());
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(static_cast<std::size_t>(i)); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Pool() override { stop(); }

  int size() const override { return static_cast<int>(shares_.size()); }

  void run(std::int64_t chunks, const std::function<void(std::int64_t)>& f) override {
    // One job at a time: whoever arrives meanwhile, from another host thread or from inside a chunk, does its work alone,
    // which cannot deadlock.
    const Turn turn(busy_);
    if (!turn.mine || workers_.empty()) {
      for (std::int64_t i = 0; i < chunks; ++i) f(i);
      return;
    }
    for (int i = 0; i < size(); ++i) {
      Share& share = shares_[static_cast<std::size_t>(i)];
      share.next.store(chunks * i / size(), std::memory_order_relaxed);
      share.end = chunks * (i + 1) / size();
    }
    Job job{f};
    const auto offered = reinterpret_cast<std::uintptr_t>(&job);
    for (Offer& offer : offers_) offer.job.store(offered);
    if (sleepers_.load() > 0) {
      const std::lock_guard lock(mutex_);  // none is between its last look and its sleep
      wake_.notify_all();
    }
    take_part(job, 0);
    for (Offer& offer : offers_)  // taken back, or waited for
      if (std::uintptr_t untaken = offered; !offer.job.compare_exchange_strong(untaken, none)) wait_for(offer);
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
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
  };
  struct Job {
    const std::function<void(std::int64_t)>& f;
    std::mutex error_mutex{};
    std::exception_ptr error{};
  };
  // To one worker: the job it may take, that it has taken one, or nothing. A line of its own, and all that both sides write for a job,
  // since a lock that one holds when the other comes costs more than many a job.
  struct alignas(64) Offer {
    std::atomic<std::uintptr_t> job{none};
  };
  static constexpr std::uintptr_t none = 0, taken = 1;

  void take_part(Job& job, std::size_t thread) {
    for (std::size_t i = 0; i < shares_.size(); ++i) {
      Share& share = shares_[(thread + i) % shares_.size()];
      for (std::int64_t chunk; (chunk = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
        try {
          job.f(chunk);
        } catch (...) {
          for (Share& other : shares_) other.next.store(other.end, std::memory_order_relaxed);
          std::lock_guard lock(job.error_mutex);
          if (!job.error) job.error = std::current_exception();
        }
      }
    }
  }

  void wait_for(const Offer& offer) {
    const auto is_done = [&] { return offer.job.load() == none; };
    spin_until(is_done);
    if (is_done()) return;
    std::unique_lock lock(mutex_);
    waits_.exchange(true);
    done_.wait(lock, is_done);
    waits_.store(false);
  }

  void work(std::size_t thread) {
    Offer& offer = offers_[thread - 1];
    const auto is_offered = [&] { return offer.job.load() > taken; };
    for (;;) {
      spin_until(is_offered);
      if (!is_offered()) {
        std::unique_lock lock(mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return stopping_ || is_offered(); });
        sleepers_.fetch_sub(1);
        if (stopping_) return;
      }
      std::uintptr_t job = offer.job.load();
      if (job <= taken || !offer.job.compare_exchange_strong(job, taken)) continue;  // it was taken back
      take_part(*reinterpret_cast<Job*>(job), thread);
      offer.job.exchange(none);
      if (waits_.load()) {
        const std::lock_guard lock(mutex_);
        done_.notify_all();
      }
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  // Whoever is about to sleep says so before its last look, and whoever changes what it looks at does so before asking: all of these are
  // sequentially consistent, so that one of both sees the other. Where that decides whether anybody wakes, changes are exchanges: qemu lets
  // a load pass a sequentially consistent store before it, and a job's caller slept for ever.
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> waits_{false};
  std::mutex mutex_;  // of stopping_ and of both sleeps
  std::condition_variable wake_, done_;
  bool stopping_ = false;
  alignas(64) std::atomic<bool> busy_{false};
  std::vector<Share> shares_;
  std::vector<Offer> offers_;
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
