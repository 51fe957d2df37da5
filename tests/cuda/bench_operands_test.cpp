// The cells of cuda_bench, small: what they run is checked as it is in the bench, and wrong answers do not pass.
#include <gtest/gtest.h>

#include <cmath>

#include "graft/bench/cuda/operands.h"

namespace graft::bench {
namespace {

struct Checked {
  std::string name;
  double error, allowed;
};

Checked check(const Cell& cell, const cuda::Product& product, std::size_t copy = 1) {
  const Weights& weights = weights_for(cell, 2);
  const Operands operands(cell);
  operands.poison();
  operands.run(product, weights, copy);
  return {name(cell), operands.error(weights), operands.largest_error()};
}

/// By every row that takes the cell.
void check_rows(const Cell& cell) {
  int rows = 0;
  for (const cuda::Product& product : cuda::products()) {
    if (!supports(product, cell)) continue;
    const auto [name, error, allowed] = check(cell, product);
    EXPECT_LE(error, allowed) << name << " by " << product.name;
    EXPECT_GT(error, 0) << name << " by " << product.name;
    ++rows;
  }
  EXPECT_GE(rows, 1);
}

TEST(BenchOperands, EveryRowOfEveryFormat) {
  for (const Format& format : formats())
    for (const bool backward : {false, true}) {
      check_rows({&format, DType::bf16, backward, 3, 256, 192});
      check_rows({&format, DType::f16, backward, 3, 256, 192, 16});
    }
}

TEST(BenchOperands, ManyRows) { check_rows({&format("gptq4g128"), DType::bf16, false, 70, 256, 192, 16}); }

TEST(BenchOperands, DenseOnes) {
  for (const bool backward : {false, true}) {
    const Cell cell{nullptr, DType::bf16, backward, 3, 256, 192};
    const auto& weights = dense_weights_for(cell, 1);
    const Operands operands(cell);
    operands.poison();
    EXPECT_TRUE(std::isnan(operands.error(weights)));
    operands.run_dense(weights, 0);
    EXPECT_LE(operands.error(weights), operands.largest_error());
  }
}

TEST(BenchOperands, WhatIsNotWrittenIsNoAnswer) {
  const cuda::Product nothing{"nothing", [](const quant::Problem&) { return true; }, [](const quant::Problem&) {}};
  EXPECT_TRUE(std::isnan(check({&format("gptq4g128"), DType::bf16, false, 3, 256, 192}, nothing).error));
}

TEST(BenchOperands, AWrongAnswerDoesNotPass) {
  // Without LoRA's terms.
  const cuda::Product bare{"bare", [](const quant::Problem&) { return true; },
                           [](const quant::Problem& problem) {
                             quant::Problem less{problem.weight, problem.transposed, problem.x, nullptr, problem.y};
                             cuda::chunked_product(less);
                           }};
  const auto [name, error, allowed] = check({&format("gptq4g128"), DType::bf16, false, 3, 256, 192, 16}, bare);
  EXPECT_GT(error, allowed);
}

}  // namespace
}  // namespace graft::bench
