#include "graft/core/storage.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

#include "../support/errors.h"

namespace graft {
namespace {

TEST(Storage, IsAlignedAndItsOwnAtEverySize) {
  std::vector<std::shared_ptr<Storage>> blocks;
  const std::int64_t before = memory::live_bytes();
  std::int64_t total = 0;
  for (std::int64_t bytes : {0, 1, 63, 64, 4096, 65535, 65536, 65537, 131072, 1 << 20, (64 << 20) + 1}) {
    blocks.push_back(Storage::allocate(bytes));
    EXPECT_EQ(blocks.back()->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks.back()->data()) % 64, 0u) << bytes;
    std::memset(blocks.back()->data(), static_cast<int>(blocks.size()), static_cast<std::size_t>(bytes));
    total += bytes;
  }
  EXPECT_EQ(memory::live_bytes(), before + total);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const auto* data = static_cast<const unsigned char*>(blocks[i]->data());
    const auto size = static_cast<std::size_t>(blocks[i]->bytes());
    EXPECT_EQ(std::vector<unsigned char>(data, data + size), std::vector<unsigned char>(size, static_cast<unsigned char>(i + 1)));
  }
  blocks.clear();
  EXPECT_EQ(memory::live_bytes(), before);
}

TEST(Storage, WrapsNothingThatNobodyOwns) {
  const std::int64_t before = memory::live_bytes();
  auto bytes = std::make_shared<std::vector<unsigned char>>(64, 7);
  test::expect_error<ValueError>([&] { Storage::wrap(bytes->data(), 64, nullptr, false); },
                                 "wrapped memory needs an owner that keeps it alive");
  EXPECT_EQ(*bytes, std::vector<unsigned char>(64, 7)) << "the memory is the caller's";
  Storage::wrap(bytes->data(), 64, bytes, false);
  EXPECT_EQ(memory::live_bytes(), before);
  EXPECT_EQ(bytes.use_count(), 1);
}

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // these have allocators of their own
TEST(Storage, EmptyCacheGivesMemoryBack) {
  const auto resident = [] {  // bytes
    std::int64_t all = 0, pages = 0;
    std::ifstream("/proc/self/statm") >> all >> pages;
    return pages * ::sysconf(_SC_PAGESIZE);
  };
  constexpr std::int64_t bytes = 64 << 20;
  const auto write = [] { std::memset(Storage::allocate(bytes)->data(), 1, bytes); };
  write();
  const std::int64_t kept = resident();
  write();
  EXPECT_LT(resident() - kept, bytes / 4);
  memory::empty_cache();
  EXPECT_GT(kept - resident(), bytes / 4 * 3);
}
#endif

}  // namespace
}  // namespace graft
