#include "graft/core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "graft/tests/support/errors.h"

namespace graft {
namespace {

struct PoolScope {
  explicit PoolScope(int threads) { set_thread_pool(make_thread_pool(threads)); }
  ~PoolScope() { set_thread_pool(nullptr); }
};

TEST(ParallelThreads, RunsEveryChunkOnce) {
  for (int threads : {1, 2, 3, 7}) {
    const PoolScope scope(threads);
    EXPECT_EQ(thread_pool()->size(), threads);
    for (std::int64_t chunks : {0, 1, 2, 5, 1000}) {
      std::vector<int> runs(chunks);
      parallel_for(chunks, [&](std::int64_t i) { ++runs[i]; });
      EXPECT_EQ(runs, std::vector<int>(chunks, 1));
    }
  }
}

TEST(ParallelThreads, ManySmallJobs) {
  const PoolScope scope(3);
  std::int64_t total = 0;
  for (int job = 0; job < 5000; ++job) {
    std::int64_t parts[4] = {};
    parallel_for(4, [&](std::int64_t i) { parts[i] = i + job; });
    total += std::accumulate(parts, parts + 4, std::int64_t{0});
  }
  EXPECT_EQ(total, 4 * (5000 * 4999 / 2) + 5000 * 6);
}

TEST(ParallelThreads, WakesWorkersThatSleep) {
  const PoolScope scope(2);
  for (int job = 0; job < 3; ++job) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> started{0};
    parallel_for(2, [&](std::int64_t) {
      ++started;
      while (started < 2) std::this_thread::yield();  // both chunks must run at once
    });
    EXPECT_EQ(started, 2);
  }
}

TEST(ParallelThreads, WaitsForAWorkerThatTakesLong) {  // longer than anybody looks on before it sleeps
  for (int job = 0; job < 3; ++job) {
    const PoolScope scope(3);
    std::atomic<int> started{0}, done{0};
    parallel_for(3, [&](std::int64_t chunk) {
      for (++started; started < 3;) std::this_thread::yield();
      if (chunk > 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ++done;
    });
    EXPECT_EQ(done, 3);
  }
}

TEST(ParallelThreads, JobsWhileWorkersFallAsleep) {  // some are taken, others taken back
  const PoolScope scope(4);
  for (int job = 0; job < 300; ++job) {
    std::atomic<int> runs{0};
    parallel_for(5, [&](std::int64_t) { ++runs; });
    EXPECT_EQ(runs, 5);
    if (job % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(job * 7));
  }
}

TEST(ParallelThreads, ThrowsWhatAWorkerThrewWhileTheCallerWaits) {
  const PoolScope scope(2);
  std::atomic<int> started{0};
  test::expect_error<std::runtime_error>(
      [&] {
        parallel_for(2, [&](std::int64_t chunk) {
          for (++started; started < 2;) std::this_thread::yield();
          if (chunk == 0) return;
          std::this_thread::sleep_for(std::chrono::milliseconds(10));
          throw std::runtime_error("from a worker");
        });
      },
      "from a worker");
  std::atomic<int> runs{0};
  parallel_for(2, [&](std::int64_t) { ++runs; });
  EXPECT_EQ(runs, 2);
}

TEST(ParallelThreads, AThreadBeginsWithTheSameChunksEachTime) {
  const PoolScope scope(3);
  std::vector<std::thread::id> before;
  for (int job = 0; job < 20; ++job) {
    std::vector<std::thread::id> ran(3);
    std::atomic<int> started{0};
    parallel_for(3, [&](std::int64_t i) {
      ran[static_cast<std::size_t>(i)] = std::this_thread::get_id();
      ++started;
      while (started < 3) std::this_thread::yield();
    });
    EXPECT_TRUE(job == 0 || ran == before);
    before = ran;
  }
}

TEST(ParallelThreads, WhoIsDoneHelpsTheOthers) {
  const PoolScope scope(2);
  std::atomic<int> left{7};
  parallel_for(8, [&](std::int64_t i) {
    if (i > 0) --left;
    else
      while (left > 0) std::this_thread::yield();  // its thread's other chunks are for somebody else
  });
  EXPECT_EQ(left, 0);
}

TEST(ParallelThreads, NestedCallsRunInline) {
  const PoolScope scope(4);
  std::vector<std::int64_t> sums(8);
  parallel_for(8, [&](std::int64_t i) {
    const auto outer = std::this_thread::get_id();
    parallel_for(100, [&](std::int64_t j) {
      if (std::this_thread::get_id() == outer) sums[i] += j;
    });
  });
  EXPECT_EQ(sums, std::vector<std::int64_t>(8, 4950));
}

TEST(ParallelThreads, TheOnlyChunkOfACallMayBeParallelInside) {
  const PoolScope scope(2);
  std::atomic<int> started{0};
  parallel_for(1, [&](std::int64_t) {
    parallel_for(2, [&](std::int64_t) {
      ++started;
      while (started < 2) std::this_thread::yield();
    });
  });
  EXPECT_EQ(started, 2);
}

TEST(ParallelThreads, ExceptionsReachTheCaller) {
  for (int threads : {1, 4}) {
    const PoolScope scope(threads);
    test::expect_error<ValueError>(
        [] {
          parallel_for(100, [](std::int64_t i) {
            if (i == 17) fail("chunk {} is unlucky", i);
          });
        },
        "chunk 17 is unlucky");
    int after = 0;
    parallel_for(1, [&](std::int64_t) { ++after; });
    std::atomic<int> runs{0};
    parallel_for(10, [&](std::int64_t) { ++runs; });
    EXPECT_EQ(runs, 10);
  }
}

TEST(ParallelThreads, HostThreadsMayCallAtOnce) {
  const PoolScope scope(2);
  std::vector<std::int64_t> totals(4);
  std::vector<std::thread> hosts;
  for (int host = 0; host < 4; ++host)
    hosts.emplace_back([&, host] {
      for (int job = 0; job < 200; ++job) {
        std::vector<std::int64_t> parts(16);
        parallel_for(16, [&](std::int64_t i) { parts[i] = i; });
        totals[host] += std::accumulate(parts.begin(), parts.end(), std::int64_t{0});
      }
    });
  for (auto& host : hosts) host.join();
  EXPECT_EQ(totals, std::vector<std::int64_t>(4, 200 * 120));
}

TEST(ParallelThreads, ThePoolIsReplaceable) {
  struct Backwards final : ThreadPool {
    int size() const override { return 1; }
    void run(std::int64_t chunks, const std::function<void(std::int64_t)>& f) override {
      for (std::int64_t i = chunks; i-- > 0;) f(i);
    }
  };
  set_thread_pool(std::make_shared<Backwards>());
  std::vector<std::int64_t> order;
  parallel_for(3, [&](std::int64_t i) { order.push_back(i); });
  EXPECT_EQ(order, (std::vector<std::int64_t>{2, 1, 0}));
  set_thread_pool(nullptr);
  EXPECT_EQ(thread_pool()->size(), std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
}

TEST(ParallelThreads, RangesCoverEverything) {
  std::vector<std::pair<std::int64_t, std::int64_t>> pieces(4);
  parallel_ranges(10, 3, [&](std::int64_t begin, std::int64_t end) { pieces[begin / 3] = {begin, end}; });
  EXPECT_EQ(pieces, (std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 3}, {3, 6}, {6, 9}, {9, 10}}));
  parallel_ranges(0, 3, [&](std::int64_t, std::int64_t) { FAIL(); });
}

TEST(ParallelThreads, RefusesAnEmptyPool) {
  test::expect_error<ValueError>([] { make_thread_pool(0); }, "a thread pool needs at least 1 thread, not 0");
}

#if defined(__GLIBC__)
TEST(ParallelThreads, RefusesWhatTheSystemDoesNotStart) {
  pthread_attr_t usual, vast;
  ASSERT_EQ(pthread_getattr_default_np(&usual), 0);
  ASSERT_EQ(pthread_attr_init(&vast), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&vast, std::size_t{1} << 48), 0);  // no address space has room for such a stack
  ASSERT_EQ(pthread_setattr_default_np(&vast), 0);
  test::expect_error<ValueError>([] { make_thread_pool(3); }, "a pool of 3 threads cannot be started: ");
  ASSERT_EQ(pthread_setattr_default_np(&usual), 0);
  pthread_attr_destroy(&vast);
  pthread_attr_destroy(&usual);
  EXPECT_EQ(make_thread_pool(3)->size(), 3);
}
#endif

}  // namespace
}  // namespace graft
