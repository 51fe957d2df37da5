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

TEST(Storage, OnAGpuIsAClearErrorWithoutOne) {
  if (cuda_device_count() > 0) GTEST_SKIP() << "this machine has a GPU";
  test::expect_error<CudaError>([] { Storage::allocate(1, Device::cuda()); }, "device cuda:0 was asked for, but ");
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
