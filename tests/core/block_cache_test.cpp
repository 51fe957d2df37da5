#include "graft/core/cpu/block_cache.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <thread>

#include "graft/core/rng.h"

namespace graft::cpu {
namespace {

constexpr std::size_t mega = std::size_t{1} << 20;

TEST(BlockCache, GivesTheNewestBlockOfASizeBack) {
  BlockCache cache(0, 0);
  void *a = cache.take(mega), *b = cache.take(mega), *other = cache.take(8 * mega);
  EXPECT_NE(a, b);
  cache.give(a, mega);
  cache.give(b, mega);
  EXPECT_EQ(cache.kept_bytes(), 2 * mega);
  EXPECT_EQ(cache.take(mega - 100), b);
  EXPECT_EQ(cache.take(mega), a);
  EXPECT_EQ(cache.kept_bytes(), 0u);
  cache.give(a, mega);
  cache.give(b, mega - 100);
  cache.give(other, 8 * mega);
}

TEST(BlockCache, BlocksAreWholeAndAligned) {
  BlockCache cache(0, 0);
  for (std::size_t bytes : {std::size_t{1}, std::size_t{65537}, mega + 1, 4 * mega, 5 * mega + 7, 37 * mega}) {
    void* block = cache.take(bytes);
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block) % 4096, 0u);
    std::memset(block, 1, bytes);
    cache.give(block, bytes);
  }
}

TEST(BlockCache, NeverMakesTheProcessLargerThanItHasBeen) {
  BlockCache cache(0, 0);
  void *a = cache.take(mega), *b = cache.take(2 * mega);
  cache.give(a, mega);
  cache.give(b, 2 * mega);
  EXPECT_EQ(cache.kept_bytes(), 3 * mega);
  void* c = cache.take(mega + mega / 2);  // three MB were taken at once: the oldest goes, then 1.5 + 2 are still too many
  EXPECT_EQ(cache.kept_bytes(), 0u);
  void* d = cache.take(8 * mega);
  cache.give(d, 8 * mega);
  EXPECT_EQ(cache.kept_bytes(), 8 * mega);
  void* e = cache.take(mega);
  EXPECT_EQ(cache.kept_bytes(), 0u);  // 1.5 + 1 + 8 are more than 9.5
  cache.give(c, mega + mega / 2);
  cache.give(e, mega);
  cache.clear();
  EXPECT_EQ(cache.kept_bytes(), 0u);
}

TEST(BlockCache, KeepsWhatIsToSpareBeyondThat) {
  BlockCache cache(4 * mega, 0);
  for (std::size_t size : {mega, 2 * mega, 3 * mega, 4 * mega}) cache.give(cache.take(size), size);
  EXPECT_EQ(cache.kept_bytes(), 7 * mega);  // 4 + 4 are allowed: 1 and 2 are gone
}

TEST(BlockCache, KeepsAShareOfTheLargestSize) {
  BlockCache cache(0, 0.25);
  cache.give(cache.take(16 * mega), 16 * mega);
  cache.give(cache.take(4 * mega), 4 * mega);
  EXPECT_EQ(cache.kept_bytes(), 20 * mega);
  cache.give(cache.take(mega), mega);
  EXPECT_EQ(cache.kept_bytes(), 5 * mega);  // the oldest is gone
}

TEST(BlockCache, WhatCannotBeHadIsNull) {
  BlockCache cache(0, 0);
  void* a = cache.take(mega);
  cache.give(a, mega);
  EXPECT_EQ(cache.take(std::size_t{1} << 62), nullptr);
  a = cache.take(mega);
  EXPECT_NE(a, nullptr);
  cache.give(a, mega);
}

TEST(BlockCacheThreads, NobodyGetsWhatAnotherHolds) {
  BlockCache cache(0, 0);
  std::vector<std::thread> threads;
  std::vector<int> overwritten(8);
  for (std::size_t t = 0; t < overwritten.size(); ++t)
    threads.emplace_back([&, t] {
      std::vector<std::pair<char*, std::size_t>> mine;
      const auto give = [&] {
        const auto [block, bytes] = mine.back();
        for (std::size_t i = 0; i < bytes; i += 1000) overwritten[t] += block[i] != static_cast<char>(t);
        cache.give(block, bytes);
        mine.pop_back();
      };
      for (std::uint64_t i = 0; i < 1000; ++i) {
        const std::uint32_t drawn = random_block(5, t, i)[0];
        if (drawn % 2 && !mine.empty()) {
          give();
        } else if (mine.size() < 8) {
          const std::size_t bytes = (1 + drawn % 5) << 16;
          mine.emplace_back(static_cast<char*>(cache.take(bytes)), bytes);
          std::memset(mine.back().first, static_cast<char>(t), bytes);
        }
      }
      while (!mine.empty()) give();
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(overwritten, std::vector<int>(8));
}

}  // namespace
}  // namespace graft::cpu
