#include "graft/core/isa.h"

#include <gtest/gtest.h>

#include "graft/core/error.h"

namespace graft {
namespace {

TEST(Isa, IsTheBestUnlessPinned) {
  EXPECT_EQ(isa(), best_isa());
  pin_isa(Isa::scalar);
  EXPECT_EQ(isa(), Isa::scalar);
  pin_isa(std::nullopt);
  EXPECT_EQ(isa(), best_isa());
}

TEST(Isa, HasNames) {
  EXPECT_EQ(name(Isa::scalar), "scalar");
  EXPECT_EQ(name(Isa::avx2), "avx2");
  EXPECT_EQ(name(Isa::avx512), "avx512");
  EXPECT_EQ(name(Isa::avx512_dot), "avx512_dot");
}

TEST(Isa, RefusesWhatTheProcessorLacks) {
  if (best_isa() == Isa::avx512_dot) GTEST_SKIP() << "this processor has every set";
  try {
    pin_isa(Isa::avx512_dot);
    FAIL() << "pinned a set that the processor lacks";
  } catch (const ValueError& error) {
    EXPECT_EQ(std::string(error.what()), fmt::format("pin_isa: this processor offers {}, not avx512_dot", name(best_isa())));
  }
  EXPECT_EQ(isa(), best_isa());
}

}  // namespace
}  // namespace graft
