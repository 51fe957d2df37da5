// Terms that join a product, row by row of a device's table, against the same row's plain product and the definition of Join. Operands are
// small whole numbers, so that the sums of a share are exact.
#pragma once

#include <gtest/gtest.h>

#include <cmath>

#include "graft/autograd/ops.h"
#include "graft/quant/kernels.h"
#include "graft/tests/quant/random_layer.h"

namespace graft::quant::test {

/// What terms make of a product's result.
inline Tensor joined(Tensor y, std::span<const LowRank> terms, std::span<const Tensor> shares) {
  for (std::size_t i = 0; i < terms.size(); ++i) {
    Tensor share = shares[i];
    if (terms[i].join == Join::rounded || terms[i].join == Join::scaled) share = to(share, y.dtype());
    if (terms[i].join == Join::scaled) share = share * terms[i].scale;
    const std::int64_t begin = terms[i].first_row, end = begin + share.dim(0);
    const Tensor own = to(to(slice(y, 0, begin, end), DType::f32) + to(share, DType::f32), y.dtype());
    y = concat(std::vector<Tensor>{slice(y, 0, 0, begin), own, slice(y, 0, end, y.dim(0))}, 0);
  }
  return y;
}

struct TermCase {
  std::int64_t rank;
  Join join;
  std::int64_t first_row, end_row;
  DType factors = DType::f32;
};
/// Of all rows, and of some.
inline std::vector<TermCase> rounded_terms(std::int64_t m) {
  return {{3, Join::added, 0, m},
          {19, Join::scaled, m / 3, m},
          {1, Join::rounded, 0, (m + 1) / 2},
          {2, Join::rounded, m / 2, m - m / 4}};
}

/// For x of m rows of `dtype`, all rows that support the problem; how many these are. Terms that are summed may be off by a sum's rounding.
template <class Rows>
int expect_joined(const Packed& weight, bool transposed, std::int64_t m, DType dtype, const Rows& rows,
                  const std::vector<TermCase>& cases) {
  const Device device = weight.device();
  const std::int64_t in = transposed ? weight.out : weight.in, out = transposed ? weight.in : weight.out;
  const Tensor x = to(whole_numbers({m, in}, dtype, 1), device), bias = to(whole_numbers({out}, dtype, 2), device);
  std::vector<Tensor> kept, shares;
  std::vector<LowRank> terms;
  for (const auto& [r, join, first, end, factors] : cases) {
    const Tensor u = whole_numbers({end - first, r}, DType::f32, 3), columns = whole_numbers({out, r}, DType::f32, 4);
    shares.push_back(matmul(u, columns.t()));
    // One factor by rows, the others by columns.
    const Tensor lying = to(to(columns, factors), device);
    kept.insert(kept.end(), {to(to(u, factors), device), join == Join::rounded ? lying.t().contiguous() : lying.t()});
    terms.push_back({kept.rbegin()[1].view(), kept.back().view(), join, 0.7, first});
  }
  int supported = 0;
  for (const auto& row : rows) {
    const auto product = [&](std::span<const LowRank> of) {
      const Tensor y = Tensor::empty({m, out}, dtype, device);
      const View in_view = x.view(), bias_view = bias.view(), y_view = y.view();
      const Problem problem{weight, transposed, in_view, transposed ? nullptr : &bias_view, y_view, of};
      if (row.supports(problem)) row.run(problem);
      return row.supports(problem) ? to(y, Device::cpu()) : Tensor();
    };
    const Tensor plain = product({}), y = product(terms);
    EXPECT_EQ(plain.defined(), y.defined()) << row.name;
    if (!y.defined()) continue;
    ++supported;
    const auto got = y.to_vector<float>(), wanted = joined(plain, terms, shares).template to_vector<float>();
    const auto what = fmt::format("{} {} {} m {}", row.name, transposed ? "backward" : "forward", dtype, m);
    if (cases.front().join != Join::summed) {
      EXPECT_EQ(got, wanted) << what;
      continue;
    }
    double worst = 0;
    for (std::size_t k = 0; k < wanted.size(); ++k) worst = std::max(worst, std::abs(static_cast<double>(got[k]) - wanted[k]));
    EXPECT_LE(worst, 1e-4) << what;
  }
  return supported;
}

}  // namespace graft::quant::test
