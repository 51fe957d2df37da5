#include <gtest/gtest.h>

#include <algorithm>

#include "graft/core/isa.h"
#include "graft/quant/cpu/units.h"
#include "graft/quant/kernels.h"

namespace graft::quant {
namespace {

TEST(Emulated, ThisProgramHasTheRowsAndRunsThem) {
  EXPECT_EQ(best_isa(), Isa::avx512);
  EXPECT_NE(unit_avx512(), nullptr);
  EXPECT_EQ(std::ranges::count(rows(), Isa::avx512, &Row::isa), 2);
}

}  // namespace
}  // namespace graft::quant
