// Runs the tests on a GPU, or counts every one as skipped.
#include <gtest/gtest.h>

#include "graft/core/device.h"

namespace {

// Not an Environment: one that skips leaves the tests out of all counts.
struct NeedsGpu final : testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo&) override {
    if (graft::cuda_device_count() == 0) GTEST_SKIP() << "no GPU";
  }
};

}  // namespace

int main(int argc, char** argv) {
  GTEST_FLAG_SET(filter, "-" GRAFT_HOST_ONLY);  // unless the command line has another
  testing::InitGoogleTest(&argc, argv);
  testing::UnitTest::GetInstance()->listeners().Append(new NeedsGpu);
  return RUN_ALL_TESTS();
}
