// Runs of a row of the op table: its result and gradients, in any dtype and on any device.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "graft/autograd/ops.h"

#include "op_table.h"
#include "tensors.h"

namespace graft::test {

struct Outcome {
  Tensor y;
  std::vector<Tensor> gradients;
};

/// Copies with floating elements in `dtype`.
inline std::vector<Tensor> converted(const std::vector<Tensor>& inputs, DType dtype, Device device = tested_device()) {
  std::vector<Tensor> out;
  for (const Tensor& x : inputs)
    out.push_back(on(is_floating(x.dtype()) ? to(x.detach(), dtype) : x, device).set_requires_grad(x.requires_grad()));
  return out;
}

/// For a fixed dy, of the inputs that are differentiated.
inline std::vector<Tensor> gradients_of(const Tensor& y, const std::vector<Tensor>& inputs) {
  if (!y.requires_grad()) return {};
  std::vector<Tensor> wanted;
  for (const Tensor& x : inputs)
    if (x.requires_grad()) wanted.push_back(x);
  Generator generator{99, 0};
  const Tensor dy = to(uniform(y.shape(), 0.5, 1.5, generator, DType::f32, y.device()), y.dtype());
  return grad({&y, 1}, wanted, {&dy, 1});
}

inline Outcome run(const Row& row, const std::vector<Tensor>& inputs) {
  const Tensor y = row.op(inputs);
  return {y, gradients_of(y, inputs)};
}

/// Largest |a − b|, relative to the largest finite |b|.
inline double relative_distance(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    if (std::isfinite(b[i])) largest = std::max(largest, std::abs(b[i]));
    if (a[i] == b[i]) continue;
    const double d = std::abs(a[i] - b[i]);
    worst = std::max(worst, std::isnan(d) ? std::numeric_limits<double>::infinity() : d);
  }
  return worst == 0 ? 0 : worst / std::max(largest, 1e-300);
}

inline double relative_distance(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  return relative_distance(a.to_vector<double>(), b.to_vector<double>());
}

}  // namespace graft::test
