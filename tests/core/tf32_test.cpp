#include "graft/core/tf32.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>

#include "graft/core/kernels.h"
#include "graft/core/tensor.h"

namespace graft {
namespace {

TEST(Tf32, IsOffUntilAGuardAllowsItForAScope) {
  EXPECT_FALSE(tf32::allowed());
  {
    const tf32::Guard on;
    EXPECT_TRUE(tf32::allowed());
    {
      const tf32::Guard off(false);
      EXPECT_FALSE(tf32::allowed());
    }
    EXPECT_TRUE(tf32::allowed());
    EXPECT_THROW(
        {
          const tf32::Guard off(false);
          throw std::runtime_error("");
        },
        std::runtime_error);
    EXPECT_TRUE(tf32::allowed());
  }
  EXPECT_FALSE(tf32::allowed());
}

TEST(Tf32Threads, EachHasItsOwn) {
  const tf32::Guard on;
  bool there = true;
  std::thread([&] { there = tf32::allowed(); }).join();
  EXPECT_FALSE(there);
}

TEST(Tf32, TheCpuNeverRounds) {
  const Tensor a = Tensor::full({1, 1}, 1 + 0x1p-20), b = Tensor::ones({1, 1}), y = Tensor::empty({1, 1});
  const tf32::Guard on;
  cpu_kernels().matmul(a.view(), b.view(), y.view());
  EXPECT_EQ(y.item(), 1 + 0x1p-20);
}

}  // namespace
}  // namespace graft
