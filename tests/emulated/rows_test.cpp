#include <gtest/gtest.h>

#include <algorithm>

#include "graft/core/cpu/attention_dots.h"
#include "graft/core/cpu/gemm.h"
#include "graft/core/isa.h"
#include "graft/quant/cpu/dots.h"
#include "graft/quant/kernels.h"

namespace graft::quant {
namespace {

TEST(Emulated, ThisProgramHasTheRowsAndRunsThem) {
  EXPECT_EQ(best_isa(), Isa::avx512_dot);
  EXPECT_NE(unit_avx512(), nullptr);
  EXPECT_NE(bf16_dots_avx512_dot(), nullptr);
  EXPECT_NE(int8_dots_avx512_dot(), nullptr);
  EXPECT_NE(cpu::pair_kernels(best_isa()), nullptr);
  EXPECT_NE(cpu::attention_avx512_dot(), nullptr);
  EXPECT_EQ(std::ranges::count(rows(), Isa::avx512, &Row::isa), 2);
  EXPECT_EQ(std::ranges::count(rows(), Isa::avx512_dot, &Row::isa), 6);
}

}  // namespace
}  // namespace graft::quant
