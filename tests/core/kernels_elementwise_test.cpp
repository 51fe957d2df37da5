#include <cmath>
#include <limits>

#include "graft/tests/core/kernel_operands.h"

namespace graft {
namespace {

using namespace test;

struct Unary {
  UnaryOp op;
  double low, high;  // domain
  double p0 = 0, p1 = 0;
  double roundoffs = 4;  // of the result, at least 1 in size
};

// The bound of rsqrt, log and pow grows with how much they magnify the rounding of x.
const Unary unary_cases[] = {
    {UnaryOp::affine, -3, 3, 2.5, -0.75},
    {UnaryOp::abs, -3, 3},
    {UnaryOp::sign, -3, 3},
    {UnaryOp::exp, -3, 3},
    {UnaryOp::log, 0.1, 9},
    {UnaryOp::sqrt, 0, 9},
    {UnaryOp::rsqrt, 0.1, 9},
    {UnaryOp::sin, -6, 6},
    {UnaryOp::cos, -6, 6},
    {UnaryOp::tanh, -3, 3},
    {UnaryOp::sigmoid, -8, 8},
    {UnaryOp::silu, -8, 8},
    {UnaryOp::gelu, -5, 5},
    {UnaryOp::gelu_tanh, -5, 5, 0, 0, 8},
    {UnaryOp::relu, -3, 3},
    {UnaryOp::pow, 0.1, 3, 2.5, 0, 8},
    {UnaryOp::clamp, -3, 3, -1.5, 0.5},
    {UnaryOp::nonfinite, -3, 3},
};

TEST(KernelsElementwise, UnaryCasesCoverTheList) {
  EXPECT_EQ(std::size(unary_cases), static_cast<std::size_t>(UnaryOp::nonfinite) + 1);
  for (std::size_t i = 0; i < std::size(unary_cases); ++i) EXPECT_EQ(static_cast<std::size_t>(unary_cases[i].op), i);
}

TEST(KernelsElementwise, UnaryOnEveryFloatingDtypeLayoutAndIsa) {
  for (Isa isa : isas()) {
    const Pinned pinned(isa);
    for (const Unary& test : unary_cases)
      for (DType dtype : floating)
        for (Layout layout : layouts) {
          SCOPED_TRACE(fmt::format("{} {} layout {} {}", name(test.op), dtype, static_cast<int>(layout), name(isa)));
          const Guarded x = numbers(dtype, {3, 37, 11}, 1, layout), y = operand(dtype, {3, 37, 11}, layout);
          tested_kernels().unary(UnaryOp::affine, x.view(), x.view(), (test.high - test.low) / 2, (test.high + test.low) / 2);
          tested_kernels().unary(test.op, x.view(), y.view(), test.p0, test.p1);
          std::vector<double> wanted;
          for (double value : x.values())
            with_unary(test.op, [&]<class Op>() { wanted.push_back(Op::apply(value, test.p0, test.p1)); });
          expect_near(y, wanted, test.roundoffs);
        }
  }
}

const BinaryOp arithmetic[] = {BinaryOp::add,       BinaryOp::sub,       BinaryOp::mul,
                               BinaryOp::div,       BinaryOp::maximum,   BinaryOp::minimum,
                               BinaryOp::silu_grad, BinaryOp::gelu_grad, BinaryOp::gelu_tanh_grad,
                               BinaryOp::relu_grad};

TEST(KernelsElementwise, BinaryOnEveryFloatingDtypeAndLayout) {
  EXPECT_EQ(std::size(arithmetic), static_cast<std::size_t>(BinaryOp::equal));
  for (BinaryOp op : arithmetic)
    for (DType dtype : floating)
      for (Layout left : layouts)
        for (Layout right : layouts) {
          SCOPED_TRACE(fmt::format("{} {}", name(op), dtype));
          const Guarded a = numbers(dtype, {5, 41, 6}, 1, left, 3), b = numbers(dtype, {5, 41, 6}, 2, right),
                        y = operand(dtype, {5, 41, 6}, left);
          if (op == BinaryOp::div) tested_kernels().unary(UnaryOp::affine, b.view(), b.view(), 0.25, 1);
          tested_kernels().binary(op, a.view(), b.view(), y.view());
          const auto av = a.values(), bv = b.values();
          std::vector<double> wanted(av.size());
          with_binary(op, [&]<class Op>() {
            for (std::size_t i = 0; i < av.size(); ++i) wanted[i] = Op::apply(av[i], bv[i]);
          });
          expect_near(y, wanted, 6);
        }
}

TEST(KernelsElementwise, BroadcastsThroughStrideZero) {
  const Tensor rows = Tensor::from<float>({10, 20}, {2}), columns = Tensor::from<float>({1, 2, 3}, {3}),
               y = Tensor::empty({2, 3});
  tested_kernels().binary(BinaryOp::add, rows.alias({2, 3}, {1, 0}, 0).view(), columns.alias({2, 3}, {0, 1}, 0).view(), y.view());
  EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{11, 12, 13, 21, 22, 23}));
}

TEST(KernelsElementwise, WorksInPlace) {
  const Guarded x = numbers(DType::f32, {40000}, 1), y = operand(DType::f32, {40000});
  tested_kernels().unary(UnaryOp::silu, x.view(), y.view(), 0, 0);
  tested_kernels().unary(UnaryOp::silu, x.view(), x.view(), 0, 0);
  EXPECT_EQ(x.values(), y.values());
  tested_kernels().binary(BinaryOp::add, x.view(), x.view(), x.view());
  tested_kernels().unary(UnaryOp::affine, y.view(), y.view(), 2, 0);
  EXPECT_EQ(x.values(), y.values());
}

TEST(KernelsElementwise, NanAndInfinity) {
  const double nan = std::nan(""), inf = INFINITY;
  const Tensor x = Tensor::from<float>({NAN, INFINITY, -INFINITY, -0.0f}, {4});
  const auto apply = [&](UnaryOp op, double p0 = 0, double p1 = 0) {
    const Tensor y = Tensor::empty({4});
    tested_kernels().unary(op, x.view(), y.view(), p0, p1);
    return y.to_vector<double>();
  };
  const auto same = [](const std::vector<double>& got, const std::vector<double>& wanted) {
    for (int i = 0; i < 4; ++i)
      EXPECT_TRUE(got[i] == wanted[i] || (std::isnan(got[i]) && std::isnan(wanted[i]))) << i << ": " << got[i];
  };
  same(apply(UnaryOp::exp), {nan, inf, 0, 1});
  same(apply(UnaryOp::tanh), {nan, 1, -1, 0});
  same(apply(UnaryOp::sigmoid), {nan, 1, 0, 0.5});
  same(apply(UnaryOp::relu), {nan, inf, 0, 0});
  same(apply(UnaryOp::nonfinite), {1, 1, 1, 0});
  same(apply(UnaryOp::clamp, -2, 2), {nan, 2, -2, 0});

  const Tensor a = Tensor::from<float>({NAN, 1, NAN}, {3}), b = Tensor::from<float>({1, NAN, NAN}, {3}), y = Tensor::empty({3});
  for (BinaryOp op : {BinaryOp::maximum, BinaryOp::minimum}) {
    tested_kernels().binary(op, a.view(), b.view(), y.view());
    for (double value : y.to_vector<double>()) EXPECT_TRUE(std::isnan(value));
  }
}

TEST(KernelsElementwise, ComparesEveryDtype) {
  for (DType dtype : all_dtypes) {
    const bool is_bool = dtype == DType::boolean;
    const Tensor a = Tensor::empty({3}, dtype), b = Tensor::empty({3}, dtype), y = Tensor::empty({3}, DType::boolean);
    tested_kernels().copy(Tensor::from<float>({0, 1, is_bool ? 1.0f : 5.0f}, {3}).view(), a.view());
    tested_kernels().copy(Tensor::from<float>({1, 1, 0}, {3}).view(), b.view());
    const auto compare = [&](BinaryOp op) {
      tested_kernels().binary(op, a.view(), b.view(), y.view());
      return y.to_vector<double>();
    };
    EXPECT_EQ(compare(BinaryOp::equal), (std::vector<double>{0, 1, 0})) << name(dtype);
    EXPECT_EQ(compare(BinaryOp::less), (std::vector<double>{1, 0, 0})) << name(dtype);
    EXPECT_EQ(compare(BinaryOp::less_equal), (std::vector<double>{1, 1, 0})) << name(dtype);
  }
}

TEST(KernelsElementwise, IntegersStayExact) {
  const std::int64_t large = (std::int64_t{1} << 60) + 1;
  const Tensor a = Tensor::from<std::int64_t>({large, -5, 7}, {3}), b = Tensor::from<std::int64_t>({1, 3, -7}, {3}),
               y = Tensor::empty({3}, DType::i64);
  const auto combined = [&](BinaryOp op) {
    tested_kernels().binary(op, a.view(), b.view(), y.view());
    return y.to_vector<std::int64_t>();
  };
  EXPECT_EQ(combined(BinaryOp::add), (std::vector<std::int64_t>{large + 1, -2, 0}));
  EXPECT_EQ(combined(BinaryOp::sub), (std::vector<std::int64_t>{large - 1, -8, 14}));
  EXPECT_EQ(combined(BinaryOp::mul), (std::vector<std::int64_t>{large, -15, -49}));
  EXPECT_EQ(combined(BinaryOp::maximum), (std::vector<std::int64_t>{large, 3, 7}));
  tested_kernels().unary(UnaryOp::affine, a.view(), y.view(), 2, -1);
  EXPECT_EQ(y.to_vector<std::int64_t>(), (std::vector<std::int64_t>{2 * large - 1, -11, 13}));
  tested_kernels().unary(UnaryOp::clamp, a.view(), y.view(), 0, INFINITY);
  EXPECT_EQ(y.to_vector<std::int64_t>(), (std::vector<std::int64_t>{large, 0, 7}));
}

TEST(KernelsElementwise, IntegersRefuseWhatNeedsFractions) {
  const Tensor x = Tensor::zeros({3}, DType::i32);
  expect_error<TypeError>([&] { tested_kernels().unary(UnaryOp::exp, x.view(), x.view(), 0, 0); },
                          "exp: needs floating elements, not i32");
  expect_error<TypeError>([&] { tested_kernels().binary(BinaryOp::div, x.view(), x.view(), x.view()); },
                          "div: needs floating elements, not i32");
  expect_error<ValueError>([&] { tested_kernels().unary(UnaryOp::affine, x.view(), x.view(), 0.5, 0); },
                           "affine: 0.5 is not an integer, and the elements are i32");
}

// Side by side, bf16 is computed in one pass.
TEST(KernelsElementwise, Bf16HasTheBitsOfF32BetweenConversions) {
  constexpr std::int64_t n = 1003;
  for (Isa isa : isas()) {
    const Pinned pinned(isa);
    const Tensor x[] = {Tensor::empty({n}, DType::bf16), Tensor::empty({n}, DType::bf16)}, got = Tensor::empty({n}, DType::bf16);
    const Tensor wide[] = {Tensor::empty({n}), Tensor::empty({n})}, result = Tensor::empty({n}),
                 wanted = Tensor::empty({n}, DType::bf16);
    for (int i = 0; i < 2; ++i) {
      tested_kernels().draw(Draw::normal, 1, i, x[i].view(), 0, 2);
      const float special[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 1e-40f, 3e38f, 100, -100};
      for (std::size_t j = 0; j < std::size(special); ++j) x[i].data<bf16>()[j * (i + 1)] = bf16(special[j]);
      tested_kernels().copy(x[i].view(), wide[i].view());
    }
    const auto compare = [&](const char* op) {
      tested_kernels().copy(result.view(), wanted.view());
      const auto left = got.to_vector<float>(), right = wanted.to_vector<float>();
      for (std::int64_t j = 0; j < n; ++j)
        ASSERT_TRUE(got.data<bf16>()[j].bits == wanted.data<bf16>()[j].bits || (std::isnan(left[j]) && std::isnan(right[j])))
            << op << " " << name(isa) << " element " << j << ": " << left[j] << " instead of " << right[j];
    };
    for (const Unary& test : unary_cases) {
      tested_kernels().unary(test.op, x[0].view(), got.view(), test.p0, test.p1);
      tested_kernels().unary(test.op, wide[0].view(), result.view(), test.p0, test.p1);
      compare(name(test.op));
    }
    for (BinaryOp op : arithmetic) {
      tested_kernels().binary(op, x[0].view(), x[1].view(), got.view());
      tested_kernels().binary(op, wide[0].view(), wide[1].view(), result.view());
      compare(name(op));
      tested_kernels().copy(x[1].view(), got.view());  // in place
      tested_kernels().binary(op, x[0].view(), got.view(), got.view());
      compare(name(op));
    }
  }
}

TEST(KernelsElementwise, GatedSiluAndItsGradients) {
  if (!tested_kernels().silu_mul) GTEST_SKIP() << "composed of operations on this device";
  for (Isa isa : isas()) {
    const Pinned pinned(isa);
    for (DType dtype : floating)
      for (Layout layout : layouts)
        for (double size : {4, 120}) {
          SCOPED_TRACE(fmt::format("{} layout {} {} up to {}", dtype, static_cast<int>(layout), name(isa), size));
          const Sizes sizes{3, 37, 31};
          const Guarded gate = numbers(dtype, sizes, 1, layout, size), x = numbers(dtype, sizes, 2),
                        dy = numbers(dtype, sizes, 3, layout);
          const Guarded y = operand(dtype, sizes, layout), dgate = operand(dtype, sizes), dx = operand(dtype, sizes, layout);
          tested_kernels().silu_mul(gate.view(), x.view(), y.view());
          tested_kernels().silu_mul_backward(gate.view(), x.view(), dy.view(), dgate.view(), dx.view());
          const auto gv = gate.values(), xv = x.values(), dyv = dy.values();
          std::vector<double> wanted(gv.size()), wanted_dgate(gv.size()), wanted_dx(gv.size());
          for (std::size_t i = 0; i < gv.size(); ++i) {
            const double s = 1 / (1 + std::exp(-gv[i]));
            wanted[i] = gv[i] * s * xv[i];
            wanted_dx[i] = gv[i] * s * dyv[i];
            wanted_dgate[i] = dyv[i] * xv[i] * s * (1 + gv[i] * (1 - s));
          }
          expect_near(y, wanted, 4);
          expect_near(dx, wanted_dx, 4);
          expect_near(dgate, wanted_dgate, is_half(dtype) ? 4 : 16);  // 1 + g (1 − s) cancels
        }
  }
}

TEST(KernelsElementwise, Selects) {
  for (DType dtype : all_dtypes) {
    const Tensor a = Tensor::full({2, 3}, 1, dtype), b = Tensor::full({3, 2}, 0, dtype), y = Tensor::empty({2, 3}, dtype);
    const Tensor condition = Tensor::empty({3}, DType::boolean);
    tested_kernels().copy(Tensor::from<float>({1, 0, 1}, {3}).view(), condition.view());
    tested_kernels().select(condition.alias({2, 3}, {0, 1}, 0).view(), a.view(), b.alias({2, 3}, {1, 2}, 0).view(), y.view());
    EXPECT_EQ(y.to_vector<double>(), (std::vector<double>{1, 0, 1, 1, 0, 1})) << name(dtype);
  }
}

TEST(KernelsElementwiseThreads, SameBitsForAnyThreadsAndIsa) {
  const auto compute = [] {
    const Guarded x = numbers(DType::f32, {300, 401}, 1, Layout::dense, 5),
                  y = operand(DType::f32, {300, 401}, Layout::transposed);
    std::vector<double> all;
    for (UnaryOp op : {UnaryOp::exp, UnaryOp::silu, UnaryOp::gelu, UnaryOp::gelu_tanh, UnaryOp::tanh}) {
      tested_kernels().unary(op, x.view(), y.view(), 0, 0);
      const auto values = y.values();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  expect_same_for_any_threads(compute);
  expect_same_for_any_isa(compute);
}

// ---- the functions that are our own: error in units of the last place of the exact result, over the whole range ----

struct Reference {
  UnaryOp op;
  double (*exact)(double);
  double low;  // where the range that is checked begins; it ends at 128, where every function has reached its limit
  double ulps;
};

const Reference references[] = {
    {UnaryOp::exp, [](double x) { return std::exp(x); }, -128, 1},
    {UnaryOp::tanh, [](double x) { return std::tanh(x); }, -128, 2},
    // Below, e^-x is infinite and the subnormal results become 0.
    {UnaryOp::sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -88, 2.5},
    // On the positive side gelu shows the error of erf; on the other 1 + erf cancels.
    {UnaryOp::gelu, [](double x) { return x / 2 * (1 + std::erf(x * 0.70710678118654752440)); }, 0, 2.5},
};

double error_in_ulps(float got, double exact) {
  const auto rounded = static_cast<float>(exact);
  if (std::isinf(rounded)) return got == rounded ? 0 : INFINITY;
  const int exponent = std::max(exact == 0 ? -126 : std::ilogb(exact), -126);
  return std::abs(static_cast<double>(got) - exact) / std::ldexp(1.0, exponent - 23);
}

TEST(KernelsElementwise, FunctionsOfOurOwnAreWithinTheirBounds) {
  // Every 997th float of both signs, and the neighbours of overflow and underflow.
  std::vector<float> all = {88.72283f, 88.72284f, -87.33654f, -87.33655f, -103.2789f, -103.97207f, -103.97208f, -104.0f, -127.0f};
  for (std::uint32_t bits = 0; bits <= std::bit_cast<std::uint32_t>(128.0f); bits += 997)
    for (float sign : {1.0f, -1.0f}) all.push_back(sign * std::bit_cast<float>(bits));
  for (const Reference& reference : references) {
    std::vector<float> inputs;
    std::copy_if(all.begin(), all.end(), std::back_inserter(inputs), [&](float x) { return x >= reference.low; });
    const auto n = static_cast<std::int64_t>(inputs.size());
    const Tensor x = Tensor::from(inputs, {n}), y = Tensor::empty({n});
    tested_kernels().unary(reference.op, x.view(), y.view(), 0, 0);
    double worst = 0;
    std::int64_t where = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const double error = error_in_ulps(y.data<float>()[i], reference.exact(inputs[i]));
      if (error > worst) worst = error, where = i;
    }
    EXPECT_LE(worst, reference.ulps) << name(reference.op) << " of " << inputs[where] << " is " << y.data<float>()[where];
    RecordProperty(name(reference.op), fmt::format("{:.3f} ulp", worst));
  }
}

}  // namespace
}  // namespace graft
