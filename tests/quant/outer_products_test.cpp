// Outer products, alone and beside a product's gradient, against sums in double.
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "graft/core/parallel.h"
#include "graft/quant/kernels.h"
#include "graft/quant/pack.h"
#include "graft/tests/quant/random_layer.h"
#include "graft/tests/quant/tested_rows.h"
#include "graft/tests/support/errors.h"
#include "graft/tests/support/guarded.h"
#include "graft/tests/support/tested.h"

namespace graft::quant {
namespace {

using namespace test;

struct Operands {
  Guarded a, b, product;
  Operands(std::int64_t m, std::int64_t i, std::int64_t j, DType a_dtype, DType b_dtype, bool columns_first,
           std::optional<DType> product_dtype = {})
      : a(a_dtype, {m, i}, columns_first ? std::vector<std::int64_t>{1, m + 1} : std::vector<std::int64_t>{i + 2, 1}),
        b(b_dtype, {m, j}, columns_first ? std::vector<std::int64_t>{1, m + 2} : std::vector<std::int64_t>{j + 3, 1}),
        product(product_dtype.value_or(a_dtype), {i, j}, columns_first ? std::vector<std::int64_t>{1, i + 1} : std::vector<std::int64_t>{j, 1}) {
    a.randomize(1), b.randomize(2);
  }
  Outer outer() const { return {a.view(), b.view(), product.view()}; }

  void expect_right(const std::string& what) const {
    const auto x = a.values(), w = b.values(), y = product.values();
    const auto [m, i, j] = std::tuple(a.view().sizes[0], a.view().sizes[1], b.view().sizes[1]);
    const DType dtype = product.view().dtype;
    const double step = dtype == DType::f64 ? 0x1p-50 : dtype == DType::f32 ? 0x1p-22 : dtype == DType::f16 ? 0x1p-10 : 0x1p-7;
    double worst = 0;
    for (std::int64_t at = 0; at < i * j; ++at) {
      double want = 0, size = 0;
      for (std::int64_t row = 0; row < m; ++row) {
        const double share = x[static_cast<std::size_t>(row * i + at / j)] * w[static_cast<std::size_t>(row * j + at % j)];
        want += share, size += std::abs(share);
      }
      const double error = std::abs(y[static_cast<std::size_t>(at)] - want) / (step * size + 1e-30);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
    EXPECT_LE(worst, 1) << what;
    EXPECT_TRUE(a.intact() && b.intact() && product.intact()) << what << " wrote outside";
  }
};

TEST(OuterProducts, BesideAGradientInEveryRowOfTheCpu) {
  int taken = 0;
  for (const auto& [in, out] : {std::pair{300, 70}, {128, 64}, {40, 520}, {1, 1}, {129, 127}}) {
    const auto packed = pack(layer({in, out, 4, 32, Grouping::in_order, in == 300}));
    for (const Row& row : rows()) {
      if (!includes(best_isa(), row.isa)) continue;
      for (const std::int64_t m : {1, 3, 4})
        for (const std::int64_t r : {1, 5, 16, 300})
          for (const DType dtype : {DType::f32, DType::bf16}) {
            Guarded dy(dtype, {m, out}, {out, 1}), dx(dtype, {m, in}, {in, 1});
            dy.randomize(3);
            const Operands A(m, r, in, DType::f32, dtype, false), B(m, out, r, dtype, DType::f32, false, DType::f32);
            const Outer outer[] = {A.outer(), B.outer()};
            const Problem problem{.weight = *packed, .transposed = true, .x = dy.view(), .y = dx.view(), .outer = outer};
            if (!row.takes_outer || !row.supports(problem)) continue;
            row.run(problem);
            ++taken;
            const auto what = fmt::format("{} {} × {} m {} r {} {}", row.name, in, out, m, r, dtype);
            A.expect_right(what), B.expect_right(what);
          }
    }
  }
  EXPECT_GT(taken, 0);
}

TEST(OuterProducts, OfEveryDtypeAndLayout) {
  const auto packed = pack(layer({96, 70, 4, 32}));
  for (const auto& [a, b] : {std::pair{DType::f32, DType::f32},
                             {DType::f32, DType::f16},
                             {DType::bf16, DType::bf16},
                             {DType::f16, DType::f32},
                             {DType::f64, DType::f64}})
    for (const bool columns_first : {false, true})
      for (const std::int64_t m : {0, 1, 4, 16, 17, 40}) {
        const DType dtype = a == DType::f64 ? DType::f64 : DType::f32;
        const auto what = fmt::format("{} {} {} m {}", a, b, columns_first ? "columns first" : "rows first", m);
        const Operands alone(m, 5, 96, a, b, columns_first), beside(m, 70, 5, a, b, columns_first);
        const Outer one[] = {alone.outer()}, other[] = {beside.outer()};
        tested_outer_products(one);
        alone.expect_right(what);
        Guarded dy(dtype, {m, 70}, {70, 1}), dx(dtype, {m, 96}, {96, 1});
        dy.randomize(3);
        tested_backward(*packed, dy.view(), dx.view(), other);
        beside.expect_right(what + " beside");
      }
}

TEST(OuterProducts, SameBitsForAnyNumberOfThreads) {
  const auto packed = pack(layer({700, 130, 4, 64}));
  for (const std::int64_t m : {1, 4, 9}) {
    std::vector<std::vector<double>> all;
    for (const int threads : {1, 2, 3, 7}) {
      set_thread_pool(make_thread_pool(threads));
      Guarded dy(DType::f32, {m, 130}, {130, 1}), dx(DType::f32, {m, 700}, {700, 1});
      dy.randomize(3);
      const Operands A(m, 6, 700, DType::f32, DType::f32, false);
      const Outer outer[] = {A.outer()};
      backward(*packed, dy.view(), dx.view(), {}, outer);
      all.push_back(A.product.values());
    }
    set_thread_pool(nullptr);
    for (const auto& values : all) EXPECT_EQ(values, all.front());
  }
}

TEST(OuterProducts, RefusesWhatDoesNotFit) {
  const auto packed = move_to(pack(layer({32, 8, 4, 32})), tested_device());
  const Operands good(2, 3, 4, DType::f32, DType::f32, false), rows(3, 3, 4, DType::f32, DType::f32, false);
  Outer outer = good.outer();
  outer.b = rows.outer().b;
  graft::test::expect_error<ValueError>(
      [&] {
        outer_products({&outer, 1}, tested_device());
      },
      "outer product: [2, 3] and [3, 4] do not make [3, 4]");
  Guarded dy(DType::f32, {3, 8}, {8, 1}), dx(DType::f32, {3, 32}, {32, 1});
  outer = good.outer();
  graft::test::expect_error<ValueError>(
      [&] {
        backward(*packed, dy.view(), dx.view(), {}, {&outer, 1});
      },
      "an outer product of 2 rows beside one of 3");
  // Before anything is written.
  const Guarded two(DType::f32, {2, 8}, {8, 1}), result(DType::f32, {2, 32}, {32, 1});
  const auto before = result.values();
  outer.product = rows.outer().a;
  graft::test::expect_error<ValueError>(
      [&] {
        backward(*packed, two.view(), result.view(), {}, {&outer, 1});
      },
      "outer product: [2, 3] and [2, 4] do not make [3, 3]");
  outer = good.outer();
  outer.b.dtype = DType::i64;
  graft::test::expect_error<TypeError>(
      [&] {
        backward(*packed, two.view(), result.view(), {}, {&outer, 1});
      },
      "outer product: i64 meets f32");
  EXPECT_EQ(result.values(), before);
}

}  // namespace
}  // namespace graft::quant
