// Low-rank terms of half-precision layers on any device: fused, they have the bits of the same orders of rounding composed of operations.
// Operands are small whole numbers, so that every sum of a share is exact and only the orders of rounding are compared.
#pragma once

#include <gtest/gtest.h>

#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"
#include "graft/quant/quant_linear.h"
#include "graft/tests/quant/random_layer.h"

namespace graft::quant::test {

inline constexpr Rounding orders[] = {Rounding::per_adapter, Rounding::before_scale, Rounding::after_scale};

struct Adapters {
  Tensor x, dy;
  std::vector<Tensor> factors;  // A, B, A, B, …
  std::vector<LowRankTerm> terms;

  Adapters(const QuantLinear& layer, const Shape& leading, DType dtype, int count, int first_order, DType factor = DType::f32) {
    Shape in = leading, out = leading;
    in.push_back(layer.in_features()), out.push_back(layer.out_features());
    const Device device = layer.device();
    x = to(whole_numbers(in, dtype, 1), device);
    dy = to(whole_numbers(out, dtype, 2), device);
    x.set_requires_grad();
    for (int i = 0; i < count; ++i) {
      const std::int64_t r = 2 + 3 * i;
      factors.push_back(to(whole_numbers({r, layer.in_features()}, factor, static_cast<std::uint64_t>(3 + i)), device));
      factors.push_back(to(whole_numbers({layer.out_features(), r}, factor, static_cast<std::uint64_t>(13 + i)), device));
    }
    for (Tensor& factor : factors) factor.set_requires_grad();
    constexpr double scales[] = {0.75, 0.5, 2.75};  // of a power of two the order does not matter
    for (int i = 0; i < count; ++i)
      terms.push_back({.A = factors[static_cast<std::size_t>(2 * i)],
                       .B = factors[static_cast<std::size_t>(2 * i + 1)],
                       .scale = scales[i % 3],
                       .rounding = orders[(first_order + i) % 3]});
  }

  std::vector<Tensor> wanted() const {
    std::vector<Tensor> all{x};
    all.insert(all.end(), factors.begin(), factors.end());
    return all;
  }
  /// The result, and the gradients of x and of the factors.
  std::vector<Tensor> run(const Tensor& y, const BackwardOptions& options = {}) const {
    std::vector<Tensor> all = grad({&y, 1}, wanted(), {&dy, 1}, options);
    all.insert(all.begin(), y);
    return all;
  }
};

inline void expect_same_bits(const std::vector<Tensor>& got, const std::vector<Tensor>& want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].dtype(), want[i].dtype());
    EXPECT_EQ(got[i].to_vector<float>(), want[i].to_vector<float>()) << i << ", " << what;
  }
}

/// Factors of x's type, or lowered to it: one term, and without gradients several, one of them in f32.
inline void expect_halves_fused(const QuantLinear& layer) {
  for (const DType dtype : {DType::bf16, DType::f16})
    for (const Shape& leading : {Shape{1}, Shape{2, 9}, Shape{40}})
      for (int order = 0; order < 3; ++order) {
        const auto composed = [&](const Adapters& a) { return low_rank_sum(layer.forward(a.x), a.x, a.terms); };
        const auto what = fmt::format("{} {} order {}", dtype, leading, order);
        const Adapters one(layer, leading, dtype, 1, order, dtype);
        expect_same_bits(one.run(layer.forward(one.x, one.terms)), one.run(composed(one)), what);
        Adapters several(layer, leading, dtype, 3, order, dtype);
        expect_same_bits(several.run(layer.forward(several.x, several.terms)), several.run(composed(several)), what);
        {
          const autocast::Guard guard(layer.device().type, dtype);
          for (const int count : {1, 2}) {
            const Adapters wide(layer, leading, dtype, count, order);
            expect_same_bits(wide.run(layer.forward(wide.x, wide.terms)), wide.run(composed(wide)), what + " under autocast");
          }
        }
        const NoGrad no_grad;
        several.terms[1].A = to(several.terms[1].A, DType::f32), several.terms[1].B = to(several.terms[1].B, DType::f32);
        expect_same_bits({layer.forward(several.x, several.terms)}, {composed(several)}, what + " without gradients");
      }
}

/// Terms of some rows, as a mixed batch has them.
inline void expect_rows_fused(const QuantLinear& layer) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    Adapters adapters(layer, {9}, dtype, 3, 2);
    const std::vector<RowRange> rows[] = {{{0, 1}, {4, 6}, {8, 9}}, {{1, 3}}, {{6, 8}, {3, 4}}};
    for (std::size_t i = 0; i < 3; ++i) adapters.terms[i].rows = rows[i], adapters.terms[i].rounding = Rounding::after_scale;
    const auto fused = [&] { return layer.forward(adapters.x, adapters.terms); };
    const Tensor composed = low_rank_sum(layer.forward(adapters.x), adapters.x, adapters.terms);
    expect_same_bits(adapters.run(fused()), adapters.run(composed), "with gradients");
    const NoGrad no_grad;
    expect_same_bits({fused()}, {composed}, "without");
  }
}

/// Terms of means of neighbours, as QA-LoRA has them: the product makes these itself where nobody differentiates.
inline void expect_pools_fused(const QuantLinear& layer) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const std::int64_t m : {1, 3, 40})
      for (const std::int64_t group : {1, 4, 16}) {
        Adapters adapters(layer, {m}, dtype, 3, 2);
        for (LowRankTerm& term : adapters.terms) {
          term.A = slice(term.A, 1, 0, layer.in_features() / group).clone();
          term.group = group, term.pooling = 3;
        }
        const auto what = fmt::format("{} rows of {}, groups of {}", m, dtype, group);
        const auto composed = [&] { return low_rank_sum(layer.forward(adapters.x), adapters.x, adapters.terms); };
        const auto expect_composed = [&] {
          const Tensor fused = layer.forward(adapters.x, adapters.terms), want = composed();
          if (is_half(dtype)) return expect_same_bits({fused}, {want}, what);
          // In f32 the sums are the product's own, whose order is another.
          const auto a = fused.to_vector<double>(), b = want.to_vector<double>();
          for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-6 * std::max(1e3, std::abs(b[i]))) << what;
        };
        std::vector<Tensor> wanted{adapters.x, adapters.terms[0].B};
        const auto gradients = [&](const Tensor& y) { return grad({&y, 1}, wanted, {&adapters.dy, 1}); };
        if (is_half(dtype)) expect_same_bits(gradients(layer.forward(adapters.x, adapters.terms)), gradients(composed()), what);
        const NoGrad no_grad;
        expect_composed();
        adapters.terms[1].rows = {{0, 1}}, adapters.terms[1].rounding = Rounding::after_scale;
        expect_composed();
        // Means in half precision are rounded, and those of autocast are of what it has not lowered yet.
        if (!is_half(dtype) || group == 1) continue;
        const std::vector<LowRankTerm> wide = adapters.terms;
        for (LowRankTerm& term : adapters.terms) term.A = to(term.A, dtype), term.B = to(term.B, dtype);
        expect_composed();
        adapters.terms = wide;
        const autocast::Guard guard(layer.device().type, dtype);
        expect_composed();
      }
}

}  // namespace graft::quant::test
