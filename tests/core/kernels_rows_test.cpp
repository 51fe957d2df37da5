#include <cmath>
#include <numeric>

#include "graft/tests/core/kernel_operands.h"

namespace graft {
namespace {

using namespace test;

constexpr Sizes::value_type widths[] = {1, 7, 32, 100, 1030};

/// Calls f(row's first flat index) for rows of n.
template <class F>
void each_row(std::size_t count, std::int64_t n, F&& f) {
  for (std::size_t begin = 0; begin < count; begin += n) f(begin);
}

std::vector<double> softmax_reference(const std::vector<double>& x, std::int64_t n, bool log) {
  std::vector<double> y(x.size());
  each_row(x.size(), n, [&](std::size_t at) {
    const double largest = *std::max_element(&x[at], &x[at] + n);
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += std::exp(x[at + i] - largest);
    for (std::int64_t i = 0; i < n; ++i)
      y[at + i] = log ? x[at + i] - largest - std::log(sum) : std::exp(x[at + i] - largest) / sum;
  });
  return y;
}

TEST(KernelsRows, Softmax) {
  for (std::int64_t n : widths)
    for (DType dtype : floating)
      for (Layout layout : layouts)
        for (bool log : {false, true}) {
          SCOPED_TRACE(fmt::format("n {} {} layout {} log {}", n, dtype, static_cast<int>(layout), log));
          const Guarded x = numbers(dtype, {3, 5, n}, 1, layout, 8), y = operand(dtype, {3, 5, n}, layout);
          tested_kernels().softmax(x.view(), y.view(), log);
          expect_near(y, softmax_reference(x.values(), n, log), 8);

          const Guarded dy = numbers(dtype, {3, 5, n}, 2), dx = operand(dtype, {3, 5, n}, layout);
          tested_kernels().softmax_backward(y.view(), dy.view(), dx.view(), log);
          const auto yv = y.values(), dyv = dy.values();
          std::vector<double> wanted(yv.size());
          each_row(yv.size(), n, [&](std::size_t at) {
            double sum = 0;
            for (std::int64_t i = 0; i < n; ++i) sum += log ? dyv[at + i] : dyv[at + i] * yv[at + i];
            for (std::int64_t i = 0; i < n; ++i)
              wanted[at + i] = log ? dyv[at + i] - std::exp(yv[at + i]) * sum : yv[at + i] * (dyv[at + i] - sum);
          });
          expect_near(dx, wanted, is_half(dtype) ? 2 : 8 + std::sqrt(static_cast<double>(n)));
        }
}

TEST(KernelsRows, SoftmaxOfExtremesDoesNotOverflow) {
  const Tensor x = Tensor::from<float>({1e30f, -1e30f, 1e30f, 88, 89, -INFINITY}, {2, 3}), y = Tensor::empty({2, 3});
  tested_kernels().softmax(x.view(), y.view(), false);
  const auto values = y.to_vector<double>();
  EXPECT_EQ(values[0], 0.5);
  EXPECT_EQ(values[1], 0);
  EXPECT_NEAR(values[4], 1 / (1 + std::exp(-1)), 1e-7);
  EXPECT_EQ(values[5], 0);
}

TEST(KernelsRows, RmsNorm) {
  const double eps = 1e-5;
  for (std::int64_t n : widths)
    for (DType dtype : floating)
      for (Layout layout : layouts) {
        SCOPED_TRACE(fmt::format("n {} {} layout {}", n, dtype, static_cast<int>(layout)));
        const DType statistics = dtype == DType::f64 ? DType::f64 : DType::f32;
        const Guarded x = numbers(dtype, {2, 6, n}, 1, layout, 4), weight = numbers(dtype, {n}, 2, layout),
                      y = operand(dtype, {2, 6, n}, layout);
        const Guarded rstd = operand(statistics, {2, 6});
        tested_kernels().rms_norm(x.view(), weight.view(), eps, y.view(), rstd.view());
        const auto xv = x.values(), wv = weight.values();
        std::vector<double> wanted(xv.size()), scales;
        each_row(xv.size(), n, [&](std::size_t at) {
          long double square = 0;
          for (std::int64_t i = 0; i < n; ++i) square += static_cast<long double>(xv[at + i]) * xv[at + i];
          scales.push_back(static_cast<double>(1 / std::sqrt(square / n + eps)));
          for (std::int64_t i = 0; i < n; ++i) wanted[at + i] = xv[at + i] * scales.back() * wv[i];
        });
        expect_near(y, wanted, is_half(dtype) ? 3 : 8);
        expect_near(rstd, scales, 8);

        const Guarded dy = numbers(dtype, {2, 6, n}, 3), dx = operand(dtype, {2, 6, n}, layout),
                      dweight = operand(dtype, {n}, layout);
        tested_kernels().rms_norm_backward(x.view(), weight.view(), rstd.view(), dy.view(), dx.view(), dweight.view());
        const auto dyv = dy.values();
        std::vector<double> wanted_dx(xv.size()), wanted_dweight(n);
        each_row(xv.size(), n, [&](std::size_t at) {
          const double r = scales[at / n];
          long double sum = 0;
          for (std::int64_t i = 0; i < n; ++i) sum += static_cast<long double>(wv[i]) * dyv[at + i] * xv[at + i];
          for (std::int64_t i = 0; i < n; ++i) {
            wanted_dx[at + i] = r * wv[i] * dyv[at + i] - r * r * r * static_cast<double>(sum / n) * xv[at + i];
            wanted_dweight[i] += dyv[at + i] * xv[at + i] * r;
          }
        });
        // With one column the two terms of dx cancel; what is left is rounding of either, of size rstd.
        expect_near(dx, wanted_dx, 16, n == 1 ? *std::max_element(scales.begin(), scales.end()) : 1);
        expect_near(dweight, wanted_dweight, 16);
      }
}

TEST(KernelsRows, RmsNormRoundsOnce) {
  const Tensor x = Tensor::empty({1, 3}, DType::bf16), weight = Tensor::from<float>({1.5f, 1.25f, 3}, {3}),
               y = Tensor::empty({1, 3}, DType::bf16), rstd = Tensor::empty({1});
  tested_kernels().copy(Tensor::from<float>({1, 2, 3}, {1, 3}).view(), x.view());
  tested_kernels().rms_norm(x.view(), weight.view(), 0, y.view(), rstd.view());
  const float scale = 1 / std::sqrt(14.0f / 3);
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(static_cast<float>(y.data<bf16>()[i]),
              static_cast<float>(bf16(static_cast<float>(i + 1) * scale * weight.data<float>()[i])));
}

TEST(KernelsRows, RmsNormBackwardLeavesOutWhatIsNotWanted) {
  const Guarded x = numbers(DType::f32, {50, 9}, 1), weight = numbers(DType::f32, {9}, 2), dy = numbers(DType::f32, {50, 9}, 3);
  const Guarded y = operand(DType::f32, {50, 9}), rstd = operand(DType::f32, {50}), dx = operand(DType::f32, {50, 9}),
                dweight = operand(DType::f32, {9});
  tested_kernels().rms_norm(x.view(), weight.view(), 1e-5, y.view(), rstd.view());
  tested_kernels().rms_norm_backward(x.view(), weight.view(), rstd.view(), dy.view(), dx.view(), dweight.view());
  const Guarded only_dx = operand(DType::f32, {50, 9}), only_dweight = operand(DType::f32, {9});
  View nothing = dweight.view();
  nothing.data = nullptr;
  tested_kernels().rms_norm_backward(x.view(), weight.view(), rstd.view(), dy.view(), only_dx.view(), nothing);
  nothing = dx.view();
  nothing.data = nullptr;
  tested_kernels().rms_norm_backward(x.view(), weight.view(), rstd.view(), dy.view(), nothing, only_dweight.view());
  EXPECT_EQ(only_dx.values(), dx.values());
  EXPECT_EQ(only_dweight.values(), dweight.values());
}

TEST(KernelsRows, RmsNormBackwardOfNoRowsIsZero) {
  const Tensor x = Tensor::empty({0, 4}), weight = Tensor::ones({4}), rstd = Tensor::empty({0}), dweight = Tensor::ones({4});
  tested_kernels().rms_norm_backward(x.view(), weight.view(), rstd.view(), x.view(), x.view(), dweight.view());
  EXPECT_EQ(dweight.to_vector<float>(), (std::vector<float>{0, 0, 0, 0}));
}

TEST(KernelsRows, Rotary) {
  for (std::int64_t batches : {1, 2})
    for (DType dtype : floating)
      for (Layout layout : layouts)
        for (bool inverse : {false, true}) {
          const DType table = dtype == DType::f64 ? DType::f64 : DType::f32;
          const std::int64_t b = 2, h = 3, t = 5, half = 9;
          const Guarded x = numbers(dtype, {b, h, t, 2 * half}, 1, layout), y = operand(dtype, {b, h, t, 2 * half}, layout);
          const Guarded cos = numbers(table, {batches, t, half}, 2), sin = numbers(table, {batches, t, half}, 3, layout);
          tested_kernels().rotary(x.view(), cos.view(), sin.view(), y.view(), inverse);
          const auto xv = x.values(), cv = cos.values(), sv = sin.values();
          std::vector<double> wanted(xv.size());
          for (std::int64_t row = 0; row < b * h * t; ++row)
            for (std::int64_t i = 0; i < half; ++i) {
              const std::int64_t angle = ((batches == 1 ? 0 : row / t / h) * t + row % t) * half + i;
              const double c = cv[angle], s = inverse ? -sv[angle] : sv[angle];
              const double left = xv[row * 2 * half + i], right = xv[row * 2 * half + half + i];
              wanted[row * 2 * half + i] = left * c - right * s;
              wanted[row * 2 * half + half + i] = right * c + left * s;
            }
          expect_near(y, wanted, 4);
        }
}

// Heads that lie beside each other, as projections make them: those of a position share its angles.
TEST(KernelsRows, RotaryOfHeadsInRows) {
  const std::int64_t b = 2, t = 5, h = 3, width = 36;
  for (Isa isa : isas()) {
    const Pinned pinned(isa);
    const Guarded cos = numbers(DType::f32, {1, t, width / 2}, 2), sin = numbers(DType::f32, {1, t, width / 2}, 3);
    for (DType dtype : floating) {
      const Guarded x = numbers(dtype, {b, t, h, width}, 1), y = operand(dtype, {b, t, h, width});
      const auto heads_first = [](View view) {
        std::swap(view.sizes[1], view.sizes[2]);
        std::swap(view.strides[1], view.strides[2]);
        return view;
      };
      const Tensor dense = Tensor::empty({b, h, t, width}, dtype), wanted = Tensor::empty({b, h, t, width}, dtype);
      tested_kernels().copy(heads_first(x.view()), dense.view());
      for (bool inverse : {false, true}) {
        tested_kernels().rotary(heads_first(x.view()), cos.view(), sin.view(), heads_first(y.view()), inverse);
        tested_kernels().rotary(dense.view(), cos.view(), sin.view(), wanted.view(), inverse);
        const Tensor got = Tensor::empty({b, h, t, width}, dtype);
        tested_kernels().copy(heads_first(y.view()), got.view());
        EXPECT_EQ(got.to_vector<double>(), wanted.to_vector<double>()) << name(dtype) << " " << name(isa);
        EXPECT_TRUE(y.intact());
      }
    }
  }
}

TEST(KernelsRows, CrossEntropy) {
  for (std::int64_t n : {1, 10, 2500})
    for (DType dtype : floating)
      for (Layout layout : layouts) {
        SCOPED_TRACE(fmt::format("n {} {} layout {}", n, dtype, static_cast<int>(layout)));
        const DType statistics = dtype == DType::f64 ? DType::f64 : DType::f32;
        const Guarded logits = numbers(dtype, {4, 3, n}, 1, layout, 8), dlogits = operand(dtype, {4, 3, n}, layout);
        const Guarded losses = operand(statistics, {4, 3}), lse = operand(statistics, {4, 3}),
                      dlosses = numbers(statistics, {4, 3}, 2);
        const Tensor labels = Tensor::empty({4, 3}, DType::i64);
        for (std::int64_t row = 0; row < 12; ++row) labels.data<std::int64_t>()[row] = row == 5 ? -100 : (row * 37) % n;
        tested_kernels().cross_entropy(logits.view(), labels.view(), -100, losses.view(), lse.view());
        tested_kernels().cross_entropy_backward(logits.view(), labels.view(), -100, lse.view(), dlosses.view(), dlogits.view());
        const auto log_softmax = softmax_reference(logits.values(), n, true), logit = logits.values(), grad = dlosses.values();
        std::vector<double> wanted(12), wanted_lse(12), wanted_dlogits(12 * n);
        for (std::int64_t row = 0; row < 12; ++row) {
          const std::int64_t label = labels.data<std::int64_t>()[row];
          wanted_lse[row] = logit[row * n] - log_softmax[row * n];
          if (label < 0) continue;
          wanted[row] = -log_softmax[row * n + label];
          for (std::int64_t i = 0; i < n; ++i)
            wanted_dlogits[row * n + i] = (std::exp(log_softmax[row * n + i]) - (i == label ? 1 : 0)) * grad[row];
        }
        expect_near(losses, wanted, 16, 8);
        expect_near(lse, wanted_lse, 8, 8);
        expect_near(dlogits, wanted_dlogits, 24);
      }
}

TEST(KernelsRows, CrossEntropyRefusesLabelsOutsideTheClasses) {
  const Tensor logits = Tensor::zeros({2, 3}), losses = Tensor::empty({2}), lse = Tensor::empty({2});
  for (std::int64_t label : {std::int64_t{3}, std::int64_t{-1}}) {
    const Tensor labels = Tensor::from<std::int64_t>({0, label}, {2});
    const auto words = fmt::format("label {} is neither one of 3 classes nor the ignored label -100", label);
    expect_error<ValueError>(
        [&] { tested_kernels().cross_entropy(logits.view(), labels.view(), -100, losses.view(), lse.view()); }, words);
    expect_error<ValueError>(
        [&] {
          tested_kernels().cross_entropy_backward(logits.view(), labels.view(), -100, lse.view(), losses.view(), logits.view());
        },
        words);
  }
}

TEST(KernelsRows, RefuseIntegers) {
  const Tensor x = Tensor::zeros({2, 3}, DType::i32);
  expect_error<TypeError>([&] { tested_kernels().softmax(x.view(), x.view(), false); },
                          "softmax: needs floating elements, not i32");
}

TEST(KernelsRowsThreads, SameBitsForAnyThreadsAndIsa) {
  const auto compute = [] {
    const Guarded x = numbers(DType::f32, {300, 257}, 1), weight = numbers(DType::f32, {257}, 2),
                  dy = numbers(DType::f32, {300, 257}, 3);
    const Guarded y = operand(DType::f32, {300, 257}), rstd = operand(DType::f32, {300}), dx = operand(DType::f32, {300, 257}),
                  dweight = operand(DType::f32, {257}), soft = operand(DType::f32, {300, 257});
    tested_kernels().rms_norm(x.view(), weight.view(), 1e-5, y.view(), rstd.view());
    tested_kernels().rms_norm_backward(x.view(), weight.view(), rstd.view(), dy.view(), dx.view(), dweight.view());
    tested_kernels().softmax(x.view(), soft.view(), false);
    std::vector<double> all;
    for (const Guarded* each : {&y, &dx, &dweight, &soft}) {
      const auto values = each->values();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  expect_same_for_any_threads(compute);
  expect_same_for_any_isa(compute);
}

}  // namespace
}  // namespace graft
