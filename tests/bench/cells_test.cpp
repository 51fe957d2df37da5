#include "graft/bench/cuda/cells.h"

#include <gtest/gtest.h>

#include <set>

#include "../support/errors.h"

namespace graft::bench {
namespace {

Cell cell(std::int64_t m, std::int64_t k, std::int64_t n, std::string_view of = "gptq4g128") {
  return {of.empty() ? nullptr : &format(of), DType::bf16, false, m, k, n};
}

// Copies at 4.3 TB/s, products at 790 TFLOP/s: the figures of an H200 that kernels are designed by.
constexpr Limits limits{4.3e12, 790e12};
double floor_us(const Cell& c) { return 1e6 * floor_seconds(work(c), limits); }
double memory_us(const Cell& c) { return 1e6 * work(c).bytes / limits.bytes_per_second; }

TEST(Cells, FloorsOfFourBits) {
  struct {
    std::int64_t k, n, m;
    double memory, least, dense;
  } rows[] = {
      {4096, 4096, 1, 2.03, 2.03, 7.81},   {4096, 4096, 16, 2.09, 2.09, 7.86},    {4096, 4096, 64, 2.27, 2.72, 8.05},
      {4096, 4096, 256, 3.00, 10.9, 10.9}, {4096, 4096, 4096, 17.6, 174, 174},    {4096, 14336, 1, 7.10, 7.10, 27.3},
      {14336, 4096, 64, 7.64, 9.51, 27.9}, {8192, 8192, 1, 8.12, 8.12, 31.2},     {8192, 28672, 1, 28.4, 28.4, 109},
      {8192, 28672, 256, 32.8, 152, 152},  {28672, 8192, 4096, 98.6, 2436, 2436},
  };
  for (const auto& row : rows) {
    const Cell packed = cell(row.m, row.k, row.n), dense = cell(row.m, row.k, row.n, "");
    SCOPED_TRACE(name(packed));
    EXPECT_NEAR(memory_us(packed), row.memory, 0.005 * row.memory);
    EXPECT_NEAR(floor_us(packed), row.least, 0.005 * row.least);
    EXPECT_NEAR(floor_us(dense), row.dense, 0.005 * row.dense);
  }
}

TEST(Cells, FloorsOfOtherWidths) {
  EXPECT_NEAR(floor_us(cell(1, 8192, 28672, "gptq2g128")), 14.6, 0.1);
  EXPECT_NEAR(floor_us(cell(1, 8192, 28672, "gptq3g128")), 21.5, 0.1);
  EXPECT_NEAR(floor_us(cell(1, 8192, 28672, "gptq8g128")), 55.9, 0.1);
  EXPECT_DOUBLE_EQ(weight_bytes(cell(1, 256, 64, "eetq8")), 256 * 64 + 64 * 2);
  EXPECT_DOUBLE_EQ(weight_bytes(cell(1, 256, 64, "gptq4g128act")), 256 * 64 / 2 + 2 * 64 * 2.5 + 256 * 4);
}

TEST(Cells, BackwardMovesAsMuchAndItsGradientsMore) {
  Cell c = cell(16, 4096, 14336);
  const Work forward = work(c);
  c.backward = true;
  EXPECT_EQ(c.from(), 14336);
  EXPECT_EQ(c.to(), 4096);
  EXPECT_DOUBLE_EQ(work(c).bytes, forward.bytes);
  EXPECT_DOUBLE_EQ(work(c).operations, forward.operations);
  c.rank = 16;
  const double widths = 4096 + 14336;
  EXPECT_DOUBLE_EQ(work(c).operations, forward.operations + 2 * (2.0 * 16 * 16 * widths));
  EXPECT_DOUBLE_EQ(work(c).bytes, forward.bytes + 4 * (2 * 16 * widths + 16 * 16) + 2 * 16 * 4096);
}

TEST(Cells, Names) {
  Cell c = cell(16, 4096, 4096);
  EXPECT_EQ(name(c), "gptq4g128/bf16/fwd/M:16/cold");
  c = {&format("eetq8"), DType::f16, true, 1, 8192, 4096, 16};
  EXPECT_EQ(name(c), "eetq8/f16/bwd/M:1/cold/K:8192/N:4096/lora16");
  EXPECT_EQ(name(cell(1, 4096, 4096, "")), "dense/bf16/fwd/M:1/cold");
  EXPECT_EQ(slug("dequantized pieces and cuBLASLt"), "dequantized_pieces_and_cublaslt");
  EXPECT_EQ(slug(" wgmma, 64 × 128: "), "wgmma_64_128");
  test::expect_error<ValueError>([] { format("gptq5"); }, "format = \"gptq5\" is not one of gptq4g128, gptq4g32,");
}

TEST(Cells, TheCoreIsAPartOfAll) {
  std::set<std::string> all, core;
  for (const Cell& c : all_cells()) EXPECT_TRUE(all.insert(name(c)).second) << name(c);
  for (const Cell& c : core_cells()) {
    EXPECT_TRUE(core.insert(name(c)).second) << name(c);
    EXPECT_TRUE(all.contains(name(c))) << name(c);
  }
  EXPECT_GE(core.size(), 40u);
  EXPECT_LE(core.size(), 48u);
}

TEST(Cells, Plans) {
  EXPECT_EQ(copies_for(8.7e6), 31);
  EXPECT_EQ(copies_for(122e6), 3);
  EXPECT_EQ(copies_for(470e6), 1);
  for (const double floor : {1e-6, 30e-6, 2.5e-3})
    for (const std::int64_t copies : {1, 3, 60}) {
      const Plan plan = plan_for(floor, copies);
      const double graph = floor * static_cast<double>(copies * plan.rotations);
      EXPECT_GE(plan.rounds, 11);
      EXPECT_TRUE(graph >= 400e-6 || plan.rotations == 16);
      EXPECT_TRUE(plan.rounds == 11 || graph * static_cast<double>(plan.rounds) <= 0.15);
    }
}

TEST(Cells, Quantiles) {
  std::vector<double> values{5, 1, 4, 2, 3};
  EXPECT_EQ(quantile(values, 0), 1);
  EXPECT_EQ(quantile(values, 0.5), 3);
  EXPECT_EQ(quantile(values, 0.9), 5);
  std::vector<double> none;
  test::expect_error<ValueError>([&] { quantile(none, 0.5); }, "quantile: a share from 0 to 1 of some values is wanted");
}

}  // namespace
}  // namespace graft::bench
