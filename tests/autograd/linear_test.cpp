#include "graft/autograd/linear.h"

#include <gtest/gtest.h>

#include "graft/autograd/gradcheck.h"
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"

#include "../support/errors.h"
#include "../support/tensors.h"

namespace graft::linear_test {
namespace {

using test::expect_error;
using test::ones;

struct LowRank : testing::Test {
  Generator generator{11, 0};
  Tensor random(const Shape& shape, DType dtype = DType::f32) {
    return to(uniform(shape, -1, 1, generator, DType::f32, test::tested_device()), dtype);
  }
  LowRankTerm term(Rounding rounding, double scale, DType dtype = DType::f32) {
    return {.A = random({2, 6}, dtype), .B = random({4, 2}, dtype), .scale = scale, .rounding = rounding};
  }
  Tensor plain(const LowRankTerm& t, const Tensor& x) { return linear(linear(to(x, t.A.dtype()), t.A), t.B, t.bias); }
};

std::vector<double> values(const Tensor& x) { return x.to_vector<double>(); }

TEST_F(LowRank, DenseRoundsOnceAfterAllTerms) {
  const Tensor x = random({3, 5, 6}, DType::bf16), y0 = random({3, 5, 4}, DType::bf16);
  const LowRankTerm terms[] = {term(Rounding::once, 0.7), term(Rounding::once, 1.3)};
  const Tensor wide = to(y0, DType::f32) + plain(terms[0], x) * 0.7 + plain(terms[1], x) * 1.3;
  const Tensor y = low_rank_sum(y0, x, terms);
  EXPECT_EQ(y.dtype(), DType::bf16);
  EXPECT_EQ(values(y), values(to(wide, DType::bf16)));
}

TEST_F(LowRank, GptqRoundsAfterEveryAdapter) {
  const Tensor x = random({15, 6}, DType::bf16), y0 = random({15, 4}, DType::bf16);
  const LowRankTerm terms[] = {term(Rounding::per_adapter, 0.7), term(Rounding::per_adapter, 1.3)};
  Tensor wanted = y0;
  for (const LowRankTerm& t : terms) wanted = to(to(wanted, DType::f32) + plain(t, x) * t.scale, DType::bf16);
  const Tensor y = low_rank_sum(y0, x, terms);
  EXPECT_EQ(values(y), values(wanted));
  LowRankTerm once[] = {terms[0], terms[1]};
  for (LowRankTerm& t : once) t.rounding = Rounding::once;
  EXPECT_NE(values(y), values(low_rank_sum(y0, x, once))) << "the orders of rounding can be told apart here";
}

TEST_F(LowRank, AwqCastsBeforeItScales) {
  const Tensor x = random({15, 6}, DType::bf16), y0 = random({15, 4}, DType::bf16);
  const LowRankTerm t = term(Rounding::before_scale, 0.7);
  const Tensor wanted = y0 + to(plain(t, x), DType::bf16) * 0.7;
  EXPECT_EQ(wanted.dtype(), DType::bf16);
  EXPECT_EQ(values(low_rank_sum(y0, x, {&t, 1})), values(wanted));
}

TEST_F(LowRank, UnderAutocastGptqStillCastsAndAwqDoesNot) {
  const Tensor x = random({15, 6}, DType::f16), y0 = random({15, 4}, DType::f32);
  const autocast::Guard guard(test::tested_device().type, DType::bf16);
  const LowRankTerm awq = term(Rounding::before_scale, 0.7);
  EXPECT_EQ(values(low_rank_sum(y0, x, {&awq, 1})), values(y0 + linear(linear(x, awq.A), awq.B) * 0.7));
  LowRankTerm gptq = awq;
  gptq.rounding = Rounding::per_adapter;
  EXPECT_EQ(values(low_rank_sum(y0, x, {&gptq, 1})), values(y0 + linear(linear(to(x, DType::f32), gptq.A), gptq.B) * 0.7));
}

TEST_F(LowRank, ALaterTermSeesTheInputAfterEarlierCasts) {
  const Tensor x = random({15, 6}), y0 = random({15, 4});
  const LowRankTerm terms[] = {term(Rounding::once, 1, DType::bf16), term(Rounding::once, 1)};
  const Tensor lossy = to(x, DType::bf16);
  EXPECT_EQ(values(low_rank_sum(y0, x, terms)), values(y0 + plain(terms[0], lossy) + plain(terms[1], lossy)));
}

TEST_F(LowRank, BiasIsScaledAndOwnInputsAreUsed) {
  const Tensor x = random({15, 6}), y0 = random({15, 4});
  LowRankTerm t = term(Rounding::once, 0.5);
  t.bias = random({4});
  t.x = random({15, 6});
  EXPECT_EQ(values(low_rank_sum(y0, x, {&t, 1})), values(y0 + (linear(linear(t.x, t.A), t.B, t.bias)) * 0.5));
}

TEST_F(LowRank, RowsReceiveTheirTermOnly) {
  const Tensor x = random({2, 3, 6}), y0 = random({2, 3, 4});
  for (const bool own : {false, true}) {
    LowRankTerm t = term(Rounding::once, 2);
    t.rows = {{4, 5}, {1, 2}};
    if (own) t.x = index_select(reshape(x, {6, 6}), 0, row_numbers(t.rows, x.device()));
    const Tensor all = reshape(plain(t, x) * 2.0, {6, 4}), y = reshape(low_rank_sum(y0, x, {&t, 1}), {6, 4}),
                 before = reshape(y0, {6, 4});
    for (std::int64_t row = 0; row < 6; ++row) {
      const Tensor base = slice(before, 0, row, row + 1);
      const Tensor wanted = row == 4 || row == 1 ? base + slice(all, 0, row, row + 1) : base;
      EXPECT_EQ(values(slice(y, 0, row, row + 1)), values(wanted)) << row;
    }
  }
}

TEST_F(LowRank, IsDifferentiableInEverything) {
  std::vector<Tensor> inputs{random({2, 3, 6}, DType::f64), random({4, 6}, DType::f64), random({2, 6}, DType::f64),
                             random({4, 2}, DType::f64), random({4}, DType::f64)};
  for (Tensor& x : inputs) x.set_requires_grad();
  for (const Rounding rounding : {Rounding::once, Rounding::per_adapter, Rounding::before_scale})
    for (const bool some : {false, true}) {
      const auto f = [&](std::span<const Tensor> in) {
        LowRankTerm t{.A = in[2], .B = in[3], .bias = in[4], .scale = 0.5, .rounding = rounding};
        if (some) t.rows = {{4, 6}, {0, 1}};
        return Linear(in[1]).forward(in[0], {&t, 1});
      };
      const auto result = gradcheck(f, inputs, {.second_order = true});
      EXPECT_TRUE(result) << result.message;
    }
}

TEST_F(LowRank, IsDifferentiableBesideAFrozenWeight) {  // in one rule, for whichever of its inputs want a gradient
  const Linear frozen(random({4, 6}, DType::f64));
  for (int wanted = 1; wanted < 8; ++wanted) {
    std::vector<Tensor> inputs{random({2, 3, 6}, DType::f64), random({2, 6}, DType::f64), random({4, 2}, DType::f64)};
    for (int i = 0; i < 3; ++i) inputs[static_cast<std::size_t>(i)].set_requires_grad((wanted >> i & 1) != 0);
    const auto f = [&](std::span<const Tensor> in) {
      const LowRankTerm t{.A = in[1], .B = in[2], .scale = 0.5, .rounding = Rounding::once};
      return frozen.forward(in[0], {&t, 1});
    };
    const auto result = gradcheck(f, inputs, {.second_order = true});
    EXPECT_TRUE(result) << wanted << ": " << result.message;
  }
}

TEST_F(LowRank, GradientsBesideAFrozenWeightAreThoseOfTheOperations) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const std::int64_t rows : {0, 1, 3, 40})
      for (const double scale : {0.0, 0.5}) {
        const Linear frozen(random({24, 70}, dtype));
        Tensor x = random({rows, 70}, dtype), A = random({3, 70}), B = random({24, 3});
        const Tensor dy = random({rows, 24}, dtype);
        for (Tensor* leaf : {&x, &A, &B}) leaf->set_requires_grad();
        const LowRankTerm t{.A = A, .B = B, .scale = scale, .rounding = Rounding::once};
        const auto gradients = [&](const Tensor& y) { return grad({&y, 1}, std::vector{x, A, B}, {&dy, 1}); };
        const auto got = gradients(frozen.forward(x, {&t, 1})), wanted = gradients(low_rank_sum(frozen.forward(x), x, {&t, 1}));
        for (std::size_t i = 0; i < got.size(); ++i) {
          EXPECT_EQ(got[i].dtype(), wanted[i].dtype());
          ASSERT_EQ(got[i].shape(), wanted[i].shape());
          // Of x, both roundings: the operations have three.
          const double unit = i > 0 || dtype == DType::f32 ? 1e-5 : dtype == DType::bf16 ? 0x1p-7 : 0x1p-10;
          const auto a = values(got[i]), b = values(wanted[i]);
          for (std::size_t j = 0; j < a.size(); ++j)
            EXPECT_NEAR(a[j], b[j], unit * (2 + std::abs(b[j]))) << name(dtype) << " " << rows << " " << scale << " " << i;
        }
      }
}

TEST_F(LowRank, HalvesMeetF32AsThoughWidenedBefore) {
  for (const DType half : {DType::bf16, DType::f16})
    for (const std::int64_t m : {1, 3, 12, 40})
      for (const bool wide_weight : {true, false}) {
        Tensor x = random({m, 70}, wide_weight ? half : DType::f32), weight = random({9, 70}, wide_weight ? DType::f32 : half);
        const Tensor dy = random({m, 9});
        const auto run = [&](bool widened) {
          for (Tensor* operand : {&x, &weight}) operand->set_requires_grad();
          const Tensor y = widened ? linear(to(x, DType::f32), to(weight, DType::f32)) : linear(x, weight);
          EXPECT_EQ(y.dtype(), DType::f32);
          std::vector<Tensor> all = grad({&y, 1}, std::vector{x, weight}, {&dy, 1});
          all.push_back(y);
          return all;
        };
        const std::vector<Tensor> got = run(false), want = run(true);
        for (std::size_t i = 0; i < got.size(); ++i) {
          EXPECT_EQ(got[i].dtype(), want[i].dtype());
          const double step = got[i].dtype() == DType::bf16 ? 0x1p-7 : got[i].dtype() == DType::f16 ? 0x1p-10 : 0x1p-21;
          const std::vector<double> a = values(got[i]), b = values(want[i]);
          double largest = 0;
          for (const double value : b) largest = std::max(largest, std::abs(value));
          for (std::size_t j = 0; j < a.size(); ++j)
            EXPECT_NEAR(a[j], b[j], step * largest) << i << ", " << m << " rows of " << name(half);
        }
      }
}

TEST_F(LowRank, AHalfMatrixMeetsABatchInF32) {
  Tensor a = random({5, 7}, DType::bf16), b = random({3, 7, 2}), wide = to(a, DType::f32);
  for (Tensor* operand : {&a, &b, &wide}) operand->set_requires_grad();
  const Tensor y = matmul(a, b), wanted = matmul(wide, b), dy = random(y.shape());
  EXPECT_EQ(values(y), values(wanted));
  const auto got = grad({&y, 1}, std::vector{a, b}, {&dy, 1}), want = grad({&wanted, 1}, std::vector{wide, b}, {&dy, 1});
  EXPECT_EQ(values(got[0]), values(to(want[0], DType::bf16)));
  EXPECT_EQ(values(got[1]), values(want[1]));
}

TEST(Linear, HoldsItsParameters) {
  Linear layer(ones({4, 6}), ones({4}));
  EXPECT_EQ(print(layer), "Linear(in_features=6, out_features=4, bias=True)");
  const auto parameters = named_parameters(layer);
  ASSERT_EQ(parameters.size(), 2u);
  EXPECT_EQ(parameters[0].name, "weight");
  EXPECT_EQ(parameters[1].name, "bias");
  EXPECT_EQ(values(layer.forward(ones({2, 6}))), std::vector<double>(8, 7));
  Linear plain(ones({4, 6}));
  EXPECT_EQ(named_parameters(plain).size(), 1u);
  EXPECT_FALSE(plain.bias().defined());
}

/// Whole numbers from 0 to 7, whose sums here are exact in f32 and too long for a half.
Tensor whole_numbers(const Shape& shape, DType dtype, std::uint64_t seed) {
  Generator generator{seed, 0};
  std::vector<double> numbers = uniform(shape, 0, 8, generator, DType::f64).to_vector<double>();
  for (double& number : numbers) number = std::floor(number);
  return to(test::from(numbers, shape), dtype);
}

TEST_F(LowRank, WithoutGradientsADenseLayerRoundsAsItsOperationsDo) {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16})
    for (const std::int64_t rows : {0, 1, 2, 40}) {
      SCOPED_TRACE(fmt::format("{} rows of {}", rows, name(dtype)));
      const DType wide = dtype == DType::f64 ? DType::f64 : DType::f32;
      const Linear layer(whole_numbers({70, 300}, dtype, 1));
      const LowRankTerm t{.A = whole_numbers({5, 300}, wide, 2), .B = whole_numbers({70, 5}, wide, 3), .scale = 0.03125};
      const Tensor x = whole_numbers({rows, 2, 300}, dtype, 4), composed = low_rank_sum(layer.forward(x), x, {&t, 1});
      const NoGrad no_grad;
      const Tensor fused = layer.forward(x, {&t, 1});
      EXPECT_EQ(fused.shape(), composed.shape());
      EXPECT_EQ(fused.dtype(), dtype);
      EXPECT_EQ(values(fused), values(composed));
      if (!is_half(dtype) || rows == 0) continue;
      const Tensor exact = linear(to(x, wide), to(layer.weight(), wide)) + plain(t, x) * t.scale;
      EXPECT_NE(values(fused), values(to(exact, dtype))) << "one rounding can be told apart here";
    }
}

TEST_F(LowRank, WithoutGradientsOtherTermsOfADenseLayerAreOperations) {
  const Tensor x = random({2, 6}, DType::bf16), weight = random({4, 6}, DType::bf16);
  LowRankTerm t = term(Rounding::once, 0.7), biased = t, own = t, pooling = t, half = term(Rounding::once, 0.7, DType::bf16);
  biased.bias = random({4});
  own.x = random({2, 6});
  pooling.pooling = 3;
  const NoGrad no_grad;
  const auto expect_composed = [&](const Linear& layer, std::vector<LowRankTerm> terms) {
    EXPECT_EQ(values(layer.forward(x, terms)), values(low_rank_sum(layer.forward(x), x, terms)));
  };
  const Linear layer(weight);
  expect_composed(layer, {t, t});
  for (const LowRankTerm& other : {biased, own, pooling, half}) expect_composed(layer, {other});
  expect_composed(Linear(weight, random({4}, DType::bf16)), {t});
  expect_composed(Linear(to(weight, DType::f32)), {t});
  const autocast::Guard guard(x.device().type, DType::f16);
  expect_composed(layer, {t});
}

TEST_F(LowRank, PoolsItsInput) {
  const Tensor x = random({2, 3, 6}), y0 = random({2, 3, 4});
  LowRankTerm t = term(Rounding::once, 0.5);
  t.pooling = 3;
  EXPECT_EQ(values(low_rank_sum(y0, x, {&t, 1})), values(y0 + linear(linear(x * 3.0, t.A) * 0.5, t.B)));
  t.group = 3, t.A = random({2, 2});
  constexpr int last[] = {-1};
  const Tensor pooled = mean(reshape(x, {2, 3, 2, 3}), last) * 3.0;
  EXPECT_EQ(values(low_rank_sum(y0, x, {&t, 1})), values(y0 + linear(linear(pooled, t.A) * 0.5, t.B)));
  for (const std::int64_t group : {0, 4}) {
    t.group = group;
    expect_error<ValueError>(
        [&] {
          low_rank_sum(y0, x, {&t, 1});
        },
        fmt::format("groups of {} do not divide an input of shape [2, 3, 6]", group));
  }
}

TEST_F(LowRank, WithoutGradientsADenseLayerRefusesWhatDoesNotFit) {
  const NoGrad no_grad;
  const Linear layer(random({4, 6}));
  const LowRankTerm narrow{.A = random({2, 5}), .B = random({4, 2})}, other{.A = random({2, 6}), .B = random({4, 3})};
  const auto run = [&](const LowRankTerm& t, const Shape& shape) { layer.forward(ones(shape), {&t, 1}); };
  expect_error<ValueError>([&] { run(narrow, {3, 6}); },
                           "an input of shape [3, 6] and a term of [2, 5] and [4, 2] do not fit a weight of shape [4, 6]");
  expect_error<ValueError>([&] { run(other, {3, 6}); }, "a term of [2, 6] and [4, 3] do not fit");
  expect_error<ValueError>([&] { run(term(Rounding::once, 1), {3, 7}); }, "an input of shape [3, 7]");
  LowRankTerm deep = term(Rounding::once, 1);
  deep.A = random({2, 6, 1});
  expect_error<ValueError>([&] { run(deep, {3, 6}); }, "a term of [2, 6, 1] and [4, 2] do not fit");
}

TEST(Linear, RefusesWhatDoesNotFit) {
  expect_error<ValueError>([] { Linear(ones({4})); }, "Linear: wants a floating weight [out, in], not f32[4]");
  expect_error<ValueError>([] { Linear(ones({4, 6}, DType::i8)); }, "Linear: wants a floating weight [out, in], not i8[4, 6]");
  expect_error<ValueError>([] { Linear(ones({4, 6}), ones({6})); }, "Linear: wants a floating bias [4] or none, not f32[6]");
  expect_error<ValueError>(
      [] {
        Linear(ones({4, 6})).forward(ones({2, 5}));
      },
      "linear: an input of shape [2, 5] does not fit a weight of shape [4, 6]");
}

}  // namespace
}  // namespace graft::linear_test
