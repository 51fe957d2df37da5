#include "graft/core/cpu/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "graft/core/parallel.h"
#include "graft/tests/support/guarded.h"

namespace graft {
namespace {

constexpr DType dtypes[] = {DType::f64, DType::f32, DType::f16, DType::bf16};

// |error| of a sum of `depth` products of numbers up to one, accumulated in f32 (f64).
double tolerance(DType dtype, std::int64_t depth) {
  return (dtype == DType::f64 ? 0x1p-53 : 0x1p-24) * (4 + 2 * static_cast<double>(depth));
}

// Of a number's one rounding to the dtype, relative.
double rounding(DType dtype) { return dtype == DType::f16 ? 0x1p-11 : dtype == DType::bf16 ? 0x1p-8 : 0; }

enum class Order { rows, columns, gaps, whole };

std::vector<std::int64_t> strides(Order order, std::int64_t rows, std::int64_t columns) {
  switch (order) {
    case Order::rows: return {columns + 3, 1};
    case Order::columns: return {1, rows + 5};
    case Order::whole: return {columns, 1};
    default: return {columns * 3 + 1, 3};
  }
}

void expect_product(DType dtype, std::int64_t m, std::int64_t n, std::int64_t k, Order a_order, Order b_order, Order y_order,
                    std::optional<DType> a_dtype = {}) {
  Guarded a(a_dtype.value_or(dtype), {m, k}, strides(a_order, m, k)), b(dtype, {k, n}, strides(b_order, k, n)),
      y(dtype, {m, n}, strides(y_order, m, n));
  a.randomize(1);
  b.randomize(2);
  cpu::matmul(a.view(), b.view(), y.view());
  const auto av = a.values(), bv = b.values(), yv = y.values();
  double worst = 0;  // error in units of what is allowed
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double want = 0;
      for (std::int64_t d = 0; d < k; ++d) want += av[i * k + d] * bv[d * n + j];
      const double allowed = tolerance(dtype, k) + rounding(dtype) * (std::abs(want) + tolerance(dtype, k));
      const double ratio = std::abs(yv[i * n + j] - want) / allowed;
      worst = std::isnan(ratio) ? INFINITY : std::max(worst, ratio);
    }
  EXPECT_LE(worst, 1) << name(dtype) << " " << m << "x" << n << "x" << k << " orders " << int(a_order) << int(b_order)
                      << int(y_order) << " on " << name(isa());
  EXPECT_TRUE(y.intact()) << name(dtype) << " " << m << "x" << n << "x" << k << " on " << name(isa());
}

TEST(Gemm, RaggedShapesInEveryOrderOfStrides) {
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    for (DType dtype : dtypes)
      for (auto [m, n, k] : {std::tuple{1, 1, 1},
                             {2, 3, 5},
                             {4, 17, 33},
                             {5, 16, 7},
                             {6, 32, 8},
                             {7, 31, 19},
                             {13, 65, 257},
                             {37, 2, 29},
                             {3, 129, 300},
                             {9, 40, 1},  // shallow
                             {31, 13, 2},
                             {5, 70, 3},
                             {14, 257, 4},
                             {18, 300, 16},
                             {7, 300, 1},
                             {33, 16, 9}})
        for (Order a : {Order::rows, Order::columns, Order::gaps})
          for (Order b : {Order::rows, Order::columns, Order::gaps})
            for (Order y : {Order::rows, Order::columns}) expect_product(dtype, m, n, k, a, b, y);
  }
}

TEST(Gemm, TilesPlusMinusOne) {
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    for (DType dtype : {DType::f32, DType::bf16}) {
      for (std::int64_t m : {5, 6, 7, 11, 12, 13, 47, 48, 49, 97})
        for (std::int64_t n : {1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 256, 257})
          expect_product(dtype, m, n, 31, Order::rows, Order::columns, Order::rows);
      for (std::int64_t k : {319, 320, 321, 639, 641}) expect_product(dtype, 9, 20, k, Order::rows, Order::columns, Order::rows);
    }
  }
}

TEST(Gemm, NarrowResultsWithoutGaps) {
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    for (DType dtype : dtypes)
      for (auto [m, n, k] : {std::tuple{300, 9, 40}, {300, 16, 33}, {33, 5, 400}, {600, 3, 70}, {77, 16, 12}})
        for (Order a : {Order::rows, Order::columns})
          for (Order b : {Order::rows, Order::columns}) expect_product(dtype, m, n, k, a, b, Order::whole);
  }
}

TEST(Gemm, FewColumnsOverALongDepth) {  // in several chains, or a stretch of the left side at a time
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    for (DType dtype : dtypes)
      for (auto [m, n, k] :
           {std::tuple{1, 16, 2048}, {3, 9, 2500}, {4, 8, 501}, {2, 16, 1023}, {16, 16, 2100}, {1, 16, 4100}, {3, 200, 999}})
        for (Order a : {Order::rows, Order::columns}) expect_product(dtype, m, n, k, a, Order::rows, Order::rows);
  }
}

TEST(Gemm, ManyRoundsOfRows) {  // more left panels than fit in one round, and rows that need none
  for (Order a : {Order::columns, Order::rows}) expect_product(DType::f32, 231, 9, 33000, a, Order::rows, Order::rows);
}

TEST(Gemm, FewRowsAreCutAlongTheirColumns) {
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    for (Order a : {Order::columns, Order::rows}) expect_product(DType::f32, 8, 210, 9000, a, Order::columns, Order::rows);
  }
}

TEST(Gemm, FewRowsOfHalvesOverALongDepth) {  // which are widened in the tasks that read them
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    for (DType left : {DType::bf16, DType::f16})
      for (auto [m, n, k] : {std::tuple{1, 16, 4100}, {3, 9, 2500}, {16, 16, 2100}, {8, 256, 1500}, {5, 601, 1000}, {6, 24, 2049}})
        for (Order a : {Order::columns, Order::rows, Order::gaps})
          expect_product(DType::f32, m, n, k, a, Order::rows, Order::rows, left);
  }
}

TEST(Gemm, FewRowsOverALongDepth) {  // in stretches of it, or of the columns, a piece of which is near
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    for (DType dtype : dtypes)
      for (auto [m, n, k] : {std::tuple{8, 256, 1500}, {5, 601, 1000}, {16, 1030, 200}, {15, 257, 33}, {6, 24, 2049}})
        for (Order a : {Order::columns, Order::rows, Order::gaps})
          for (Order y : {Order::rows, Order::columns}) expect_product(dtype, m, n, k, a, Order::rows, y);
  }
}

TEST(Gemm, NoDepthGivesZeros) {
  Guarded a(DType::f32, {3, 0}, {1, 1}), b(DType::f32, {0, 4}, {4, 1}), y(DType::f32, {3, 4}, {4, 1});
  y.randomize(1);
  cpu::matmul(a.view(), b.view(), y.view());
  EXPECT_EQ(y.values(), std::vector<double>(12, 0.0));
}

TEST(Gemm, NoRowsTouchNothing) {
  Guarded a(DType::f32, {0, 5}, {5, 1}), b(DType::f32, {5, 4}, {4, 1}), y(DType::f32, {0, 4}, {4, 1});
  cpu::matmul(a.view(), b.view(), y.view());
  EXPECT_TRUE(y.intact());
}

TEST(Gemm, BatchesWithBroadcastOperands) {
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    const std::int64_t m = 5, n = 9, k = 6;
    Guarded a(DType::f32, {2, 3, m, k}, {m * k, 0, k, 1});  // the same for each of the three
    Guarded b(DType::f32, {2, 3, k, n}, {0, k * n, 1, k}), y(DType::f32, {2, 3, m, n}, {3 * m * n, m * n, n, 1});
    a.randomize(3);
    b.randomize(4);
    cpu::matmul(a.view(), b.view(), y.view());
    const auto av = a.values(), bv = b.values(), yv = y.values();
    for (std::int64_t batch = 0; batch < 6; ++batch)
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < n; ++j) {
          double want = 0;
          for (std::int64_t d = 0; d < k; ++d) want += av[(batch * m + i) * k + d] * bv[(batch * k + d) * n + j];
          EXPECT_NEAR(yv[(batch * m + i) * n + j], want, tolerance(DType::f32, k));
        }
    EXPECT_TRUE(y.intact());
  }
}

TEST(Gemm, HalfResultsAreRoundedOnce) {
  // 2048 + 1 is a tie in f16: one rounding of the f32 sum 2049.5 gives 2050, rounding after each term would stay at 2048.
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    for (std::int64_t m : {1, 8}) {
      const std::int64_t k = 3;
      std::vector<f16> a(m * k), b{f16(2048.f), f16(1.f), f16(0.5f)}, y(m);
      for (auto& v : a) v = f16(1.f);
      View va{a.data(), DType::f16, 2, {m, k}, {k, 1}}, vb{b.data(), DType::f16, 2, {k, 1}, {1, 1}},
          vy{y.data(), DType::f16, 2, {m, 1}, {1, 1}};
      cpu::matmul(va, vb, vy);
      for (f16 value : y) EXPECT_EQ(static_cast<float>(value), 2050.f);
    }
  }
}

TEST(Gemm, SameBitsForAnyNumberOfThreads) {
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    for (auto [m, n, k] :
         {std::tuple{1, 700, 513}, {3, 130, 1000}, {130, 300, 700}, {700, 5, 90}, {700, 5, 20}, {700, 300, 3}, {2, 16, 5000}, {8, 300, 4000}})
      for (const auto& order : {std::vector<std::int64_t>{1, k}, std::vector<std::int64_t>{n, 1}}) {
        Guarded a(DType::f32, {m, k}, {k, 1}), b(DType::f32, {k, n}, order), y(DType::f32, {m, n}, {n, 1});
        a.randomize(5);
        b.randomize(6);
        std::vector<double> first;
        for (int threads : {1, 2, 3, 7}) {
          set_thread_pool(make_thread_pool(threads));
          cpu::matmul(a.view(), b.view(), y.view());
          if (first.empty()) first = y.values();
          EXPECT_EQ(std::memcmp(first.data(), y.values().data(), first.size() * sizeof(double)), 0)
              << threads << " threads on " << name(isa);
        }
        set_thread_pool(nullptr);
      }
  }
}

TEST(Gemm, RefusesIntegersAndMixedDoubles) {
  const auto message = [](DType a, DType y) {
    std::int64_t storage[4] = {};
    View va{storage, a, 2, {1, 1}, {1, 1}}, vy{storage, y, 2, {1, 1}, {1, 1}};
    try {
      cpu::matmul(va, va, vy);
    } catch (const TypeError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message(DType::i32, DType::i32), "matmul: does not take elements of type i32");
  EXPECT_EQ(message(DType::boolean, DType::f32), "matmul: does not take elements of type bool");
  EXPECT_EQ(message(DType::f64, DType::f32), "matmul: f64 meets f32");
  EXPECT_EQ(message(DType::f32, DType::f64), "matmul: f64 meets f32");
}

}  // namespace
}  // namespace graft
