// Runs the tests on a GPU, or counts every one as skipped.
#include <gtest/gtest.h>

#include "graft/core/device.h"

namespace {

struct NeedsGpu final : testing::Environment {
  void SetUp() override {
    if (graft::cuda_device_count() == 0) GTEST_SKIP() << "no GPU";
  }
};

}  // namespace

int main(int argc, char** argv) {
  GTEST_FLAG_SET(filter, "-" GRAFT_HOST_ONLY);  // unless the command line has another
  testing::InitGoogleTest(&argc, argv);
  testing::AddGlobalTestEnvironment(new NeedsGpu);
  return RUN_ALL_TESTS();
}
