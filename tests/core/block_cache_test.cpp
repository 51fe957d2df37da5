#include "graft/core/block_cache.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "graft/core/parallel.h"
#include "graft/core/tensor.h"

namespace graft {
namespace {

// A source that counts what is out, and has room for so much.
std::size_t out = 0, room = 0, calls = 0;

void* allocate(std::size_t bytes) {
  if (out + bytes > room) return nullptr;
  ++calls;
  out += bytes;
  return std::malloc(bytes);
}
void release(void* data, std::size_t bytes) noexcept {
  out -= bytes;
  std::free(data);
}

class BlockCacheTest : public testing::Test {
 protected:
  BlockCacheTest() {
    room = 1 << 20;
    calls = 0;
  }
  ~BlockCacheTest() override {
    cache.clear();
    EXPECT_EQ(out, 0u);
  }
  BlockCache cache{{allocate, release}};
};

TEST_F(BlockCacheTest, GivesTheSameBlockToTheNextOfLikeSize) {
  void* a = cache.take(1000);
  cache.give(a, 1000);
  EXPECT_EQ(cache.kept_bytes(), 1024u);
  EXPECT_EQ(cache.take(961), a);  // 960 is the next size below
  EXPECT_EQ(cache.kept_bytes(), 0u);
  void* b = cache.take(1000);
  EXPECT_NE(b, a);
  EXPECT_EQ(calls, 2u);
  cache.give(a, 961);
  cache.give(b, 1000);
}

TEST_F(BlockCacheTest, NeverHoldsMoreThanWasInUseAtMost) {
  void *a = cache.take(4096), *b = cache.take(8192);
  cache.give(a, 4096);
  cache.give(b, 8192);
  EXPECT_EQ(out, 12288u);
  void* c = cache.take(10240);  // fits neither, and both would be too much beside it
  EXPECT_EQ(out, 10240u);
  cache.give(c, 10240);
  void* d = cache.take(2048);  // beside the one that is kept
  EXPECT_EQ(out, 12288u);
  cache.give(d, 2048);
  cache.clear();
  EXPECT_EQ(out, 0u);
}

TEST_F(BlockCacheTest, KeptBlocksMakeRoomWhenThereIsNone) {
  void *a = cache.take(512 << 10), *b = cache.take(256 << 10);
  cache.give(a, 512 << 10);
  cache.give(b, 256 << 10);
  void* c = cache.take(640 << 10);
  ASSERT_NE(c, nullptr);
  EXPECT_EQ(cache.take(512 << 10), nullptr);
  EXPECT_EQ(out, std::size_t{640} << 10);
  cache.give(c, 640 << 10);
}

TEST(BlockCacheThreads, ManyThreadsTakeAndGive) {
  room = std::size_t{1} << 30;
  BlockCache cache({[](std::size_t bytes) { return std::malloc(bytes); }, [](void* data, std::size_t) noexcept { std::free(data); }});
  set_thread_pool(make_thread_pool(4));
  parallel_for(4, [&](std::int64_t thread) {
    for (std::size_t i = 0; i < 2000; ++i) {
      const std::size_t bytes = 1000 * (1 + (i + static_cast<std::size_t>(thread)) % 7);
      auto* data = static_cast<unsigned char*>(cache.take(bytes));
      data[0] = data[bytes - 1] = static_cast<unsigned char>(thread);
      ASSERT_EQ(data[0], data[bytes - 1]);
      cache.give(data, bytes);
    }
  });
  set_thread_pool(nullptr);
}

TEST(ReleaseUnused, TensorsThatAreThereStay) {
  const Tensor kept = Tensor::full({1 << 18}, 3);
  { const Tensor gone = Tensor::zeros({1 << 18}); }
  memory::release_unused();
  EXPECT_EQ(kept.to_vector<float>().back(), 3);
}

}  // namespace
}  // namespace graft
