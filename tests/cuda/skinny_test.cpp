// Products of few rows with packed weights on a GPU, against sums in f64 over exact weights.
#include <gtest/gtest.h>

#include <cmath>

#include "graft/autograd/ops.h"
#include "graft/cuda/products.h"
#include "graft/quant/kernels.h"
#include "graft/quant/pack.h"
#include "graft/tests/cuda/device_tensors.h"
#include "graft/tests/quant/random_layer.h"

namespace graft::quant::test {
namespace {

using graft::test::gpu;
using graft::test::numbers;
using graft::test::on;

/// y = x W + bias + Σ u v and how far from it f32 sums of so many terms may be: some of the magnitude of all that is added up.
struct Wanted {
  std::vector<double> y, slack;
};
struct Added {
  Tensor bias;
  std::vector<std::pair<Tensor, Tensor>> terms;
};
Wanted wanted(const Packed& w, const Tensor& x, const Added& added) {
  const std::int64_t m = x.dim(0), in = w.in, out = w.out;
  std::vector<float> dense(static_cast<std::size_t>(in * out));
  dequantize(w, 0, out, dense.data());
  const auto a = x.to_vector<double>();
  Wanted result{std::vector<double>(static_cast<std::size_t>(m * out)), std::vector<double>(static_cast<std::size_t>(m * out))};
  const auto add = [&](std::int64_t i, std::int64_t n, double share, double size) {
    result.y[static_cast<std::size_t>(i * out + n)] += share;
    result.slack[static_cast<std::size_t>(i * out + n)] += size * 0x1p-19;
  };
  const std::vector<double> bias = added.bias.defined() ? added.bias.to_vector<double>() : std::vector<double>();
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t n = 0; n < out; ++n) {
      // Codes are fed raised by up to 2^bits: what a scale is multiplied with is at most three times the largest code.
      for (std::int64_t k = 0; k < in; ++k) {
        const double value = a[static_cast<std::size_t>(i * in + k)];
        add(i, n, value * dense[static_cast<std::size_t>(n * in + k)], std::abs(value) * 4.5);
      }
      if (!bias.empty()) add(i, n, bias[static_cast<std::size_t>(n)], 1);
    }
  for (const auto& [u, v] : added.terms) {
    const auto left = u.to_vector<double>(), right = v.to_vector<double>();
    const std::int64_t r = u.dim(1);
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t n = 0; n < out; ++n)
        for (std::int64_t j = 0; j < r; ++j)
          add(i, n, left[static_cast<std::size_t>(i * r + j)] * right[static_cast<std::size_t>(j * out + n)], 1);
  }
  return result;
}

void expect_near(const Tensor& got, const Wanted& wanted) {
  const double rounding = got.dtype() == DType::f32 ? 0x1p-24 : got.dtype() == DType::f16 ? 0x1p-11 : 0x1p-8;
  const auto y = got.to_vector<double>();
  ASSERT_EQ(y.size(), wanted.y.size());
  double worst = 0;  // error, of what is allowed
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double error = std::abs(y[i] - wanted.y[i]) / (rounding * std::abs(wanted.y[i]) + wanted.slack[i]);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  EXPECT_LE(worst, 1);
}

/// The name of the row that a problem is given to.
std::string_view row_of(const Problem& problem) {
  for (const graft::cuda::Product& row : graft::cuda::products())
    if (row.supports(problem)) return row.name;
  return "none";
}

/// The product by the row of few rows, from and to memory as it is described.
void multiply(const Packed& weight, const Tensor& x, const Tensor& y, const Added& added = {}) {
  const View in = x.view(), out = y.view();
  std::vector<Tensor> there;
  std::vector<LowRank> terms;
  for (const auto& [u, v] : added.terms) {
    there.push_back(on(u, gpu)), there.push_back(on(v.t(), gpu).t());  // v as QuantLinear has it, by columns
    terms.push_back({there.rbegin()[1].view(), there.back().view()});
  }
  const Tensor shift = added.bias.defined() ? on(added.bias, gpu) : Tensor();
  const View bias = shift.defined() ? shift.view() : View();
  const View* maybe = shift.defined() ? &bias : nullptr;
  EXPECT_EQ(row_of({.weight = weight, .x = in, .bias = maybe, .y = out, .terms = terms}), "few rows, weights streamed");
  forward(weight, in, maybe, out, terms);
}

Added everything(const Case& c, std::int64_t m, DType dtype) {
  return {numbers({c.out}, 3, dtype == DType::bf16 ? DType::f32 : DType::f64),
          {{numbers({m, 3}, 4, dtype), numbers({3, c.out}, 5, dtype)},
           {numbers({m, 19}, 6, DType::f32), numbers({19, c.out}, 7, DType::f16)}}};
}

void check_product(const Case& c, std::int64_t m, DType dtype, DType result, bool bare) {
  SCOPED_TRACE(fmt::format("{}, {} rows of {} to {}{}", to_string(c), m, dtype, result, bare ? "" : " with all that is added"));
  const auto here = pack(layer(c)), there = move_to(here, gpu);
  const Tensor x = numbers({m, c.in}, 1, dtype), y = Tensor::empty({m, c.out}, result, gpu);
  const Added added = bare ? Added{} : everything(c, m, dtype);
  multiply(*there, on(x, gpu), y, added);
  expect_near(y, wanted(*here, x, added));
}

constexpr std::int64_t some_rows[] = {1, 5, 8, 17, 32};
constexpr std::int64_t group_sizes[] = {16, 32, 48, 64, 128, 1000};

// Each with another number of rows, group size and result.
TEST(GpuSkinny, EveryWidthAndGrouping) {
  int at = 0;
  for (const int bits : {2, 3, 4, 5, 8})
    for (const DType dtype : {DType::bf16, DType::f16})
      for (const Grouping grouping : {Grouping::in_order, Grouping::shuffled, Grouping::irregular})
        for (const bool affine : {false, true}) {
          const std::int64_t m = some_rows[at % 5], group_size = group_sizes[at % 6];
          check_product({150, 70, bits, group_size, grouping, affine}, m, dtype, at % 4 ? dtype : DType::f32, at % 3 > 0);
          ++at;
        }
}

TEST(GpuSkinny, EveryNumberOfRows) {
  for (const std::int64_t m : {1, 2, 7, 8, 9, 16, 17, 24, 31, 32})
    check_product({70, 40, 4, 32}, m, DType::bf16, DType::bf16, true);
}

// Shares that begin and end inside slabs, slabs that several blocks meet in, warps without columns, x staged in several parts.
TEST(GpuSkinny, BlocksShareTheUnits) {
  for (const int bits : {2, 3, 4, 8})
    for (const std::int64_t m : {1, 12, 32}) check_product({600, 330, bits, 128}, m, DType::bf16, DType::f32, m == 12);
  check_product({2200, 20, 2, 2200}, 3, DType::f16, DType::f16, false);
  check_product({30, 1100, 4, 16}, 1, DType::f16, DType::f16, false);  // more slabs than units in each
}

// The order of the blocks' sums does not depend on which block is last, and what counts them is left as it was.
TEST(GpuSkinny, IsTheSameEveryTime) {
  const Case c{600, 330, 4, 32, Grouping::shuffled};
  const auto there = move_to(pack(layer(c)), gpu);
  const Tensor x = on(numbers({5, c.in}, 1, DType::bf16), gpu), y = Tensor::empty({5, c.out}, DType::f32, gpu),
               again = Tensor::empty({5, c.out}, DType::f32, gpu);
  multiply(*there, x, y);
  multiply(*there, x, again);
  EXPECT_EQ(y.to_vector<float>(), again.to_vector<float>());
}

TEST(GpuSkinny, OperandsOfAnyStride) {
  const Case c{150, 70, 4, 32};
  const auto here = pack(layer(c)), there = move_to(here, gpu);
  const Tensor x = numbers({5, c.in}, 1, DType::f16);
  const Wanted right = wanted(*here, x, {});
  const Tensor by_columns = on(x.t(), gpu).t(), wide = Tensor::empty({5, c.in + 8}, DType::f16, gpu);
  slice(wide, 1, 8, c.in + 8).copy_(on(x, gpu));
  const Tensor odd = Tensor::empty({5, c.in + 3}, DType::f16, gpu);
  slice(odd, 1, 3, c.in + 3).copy_(on(x, gpu));
  for (const Tensor& each : {by_columns, slice(wide, 1, 8, c.in + 8), slice(odd, 1, 3, c.in + 3)}) {
    const Tensor y = Tensor::empty({c.out, 5}, DType::f16, gpu).t();
    multiply(*there, each, y);
    expect_near(y, right);
  }
}

// x that is far from 0 on average: what the codes were raised by is large then, and is taken off again.
TEST(GpuSkinny, LargeMeansAreTakenOff) {
  const Case c{512, 64, 4, 128};
  const auto here = pack(layer(c)), there = move_to(here, gpu);
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Tensor x = Tensor::full({3, c.in}, 7.0, dtype), y = Tensor::empty({3, c.out}, DType::f32, gpu);
    multiply(*there, on(x, gpu), y);
    expect_near(y, wanted(*here, x, {}));
  }
}

TEST(GpuSkinny, OtherProblemsAreNotItsOwn) {
  const Case c{64, 64, 4, 32};
  const auto there = move_to(pack(layer(c)), gpu);
  const auto is_its = [&](std::int64_t m, DType dtype, bool transposed = false, std::size_t terms = 0) {
    const Tensor x = Tensor::empty({m, 64}, dtype, gpu), y = Tensor::empty({m, 64}, dtype, gpu);
    const View in = x.view(), out = y.view();
    const std::vector<LowRank> shares(terms, {in, out});
    return row_of({.weight = *there, .transposed = transposed, .x = in, .y = out, .terms = shares}) ==
           "few rows, weights streamed";
  };
  EXPECT_TRUE(is_its(32, DType::bf16));
  EXPECT_TRUE(is_its(1, DType::f16, false, 32));
  EXPECT_FALSE(is_its(33, DType::bf16));
  EXPECT_FALSE(is_its(4, DType::f32));
  EXPECT_FALSE(is_its(4, DType::f64));
  EXPECT_FALSE(is_its(4, DType::f16, true));
  EXPECT_FALSE(is_its(4, DType::bf16, false, 33)) << "more terms than the kernel's argument holds";
}

}  // namespace
}  // namespace graft::quant::test
