// Every operation of the op table on a GPU: the same values and gradients as on the CPU, in every dtype that the row takes.
#include "../support/op_table.h"

#include <gtest/gtest.h>

#include <cmath>

#include "graft/autograd/ops.h"

namespace graft::test {
namespace {

struct OpTableOnGpu : testing::TestWithParam<Row> {
  const Row& row = GetParam();
};

struct Outcome {
  Tensor y;
  std::vector<Tensor> gradients;
};

Outcome run(const Row& row, const std::vector<Tensor>& made, DType dtype, Device device) {
  std::vector<Tensor> inputs, wanted;
  for (const Tensor& x : made) {
    inputs.push_back(to(is_floating(x.dtype()) ? to(x.detach(), dtype) : x, device).detach());
    if (x.requires_grad()) wanted.push_back(inputs.back().set_requires_grad());
  }
  Outcome outcome{row.op(inputs), {}};
  if (outcome.y.requires_grad()) {
    Generator generator{99, 0};
    const Tensor dy = to(to(uniform(outcome.y.shape(), 0.5, 1.5, generator, DType::f32), outcome.y.dtype()), outcome.y.device());
    outcome.gradients = grad({&outcome.y, 1}, wanted, {&dy, 1});
  }
  return outcome;
}

// Largest |a − b|, relative to the largest finite |b|.
double distance(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  EXPECT_EQ(a.dtype(), b.dtype());
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    if (std::isfinite(y[i])) largest = std::max(largest, std::abs(y[i]));
    if (x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i]))) continue;
    const double d = std::abs(x[i] - y[i]);
    worst = std::max(worst, std::isnan(d) ? std::numeric_limits<double>::infinity() : d);
  }
  return worst == 0 ? 0 : worst / std::max(largest, 1e-300);
}

TEST_P(OpTableOnGpu, AgreesWithTheCpu) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    if (is_half(dtype) && !row.halves) continue;
    SCOPED_TRACE(name(dtype));
    // Sums run in another order than on the CPU.
    const double roundoff = dtype == DType::f64   ? 0x1p-53
                            : dtype == DType::f32 ? 0x1p-24
                            : dtype == DType::f16 ? 0x1p-11
                                                  : 0x1p-8;
    const double tolerance = (is_half(dtype) ? 4 : 64) * roundoff * row.slack;
    const auto made = make_inputs(row, 2);
    const Outcome there = run(row, made, dtype, Device::cuda()), here = run(row, made, dtype, Device::cpu());
    EXPECT_LE(distance(there.y, here.y), tolerance);
    ASSERT_EQ(there.gradients.size(), here.gradients.size());
    for (std::size_t i = 0; i < here.gradients.size(); ++i) {
      ASSERT_EQ(there.gradients[i].defined(), here.gradients[i].defined());
      if (!here.gradients[i].defined()) continue;
      EXPECT_LE(distance(there.gradients[i], here.gradients[i]), tolerance) << "gradient " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, OpTableOnGpu, testing::ValuesIn(op_table()), [](const auto& info) { return info.param.label(); });

}  // namespace
}  // namespace graft::test
