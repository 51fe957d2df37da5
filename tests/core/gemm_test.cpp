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

/// In f64, each sum in the order of the depth; of rows of `b`, so that it goes through memory as it lies.
std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, std::int64_t m, std::int64_t n,
                            std::int64_t k) {
  std::vector<double> y(m * n);
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t d = 0; d < k; ++d)
      for (std::int64_t j = 0; j < n; ++j) y[i * n + j] += a[i * k + d] * b[d * n + j];
  return y;
}

struct Orders {
  std::vector<Order> a, b, y;
};

/// On every instruction set, in all combinations of orders. They hold the same numbers, which are drawn and multiplied here as rarely as
/// can be: that takes longer than what is tested.
void expect_products(DType dtype, std::int64_t m, std::int64_t n, std::int64_t k, const Orders& orders,
                     std::optional<DType> a_dtype = {}) {
  std::vector<double> want;
  for (Order b_order : orders.b) {
    Guarded b(dtype, {k, n}, strides(b_order, k, n));
    b.randomize(2);
    for (Order a_order : orders.a) {
      Guarded a(a_dtype.value_or(dtype), {m, k}, strides(a_order, m, k));
      a.randomize(1);
      if (want.empty()) want = product(a.values(), b.values(), m, n, k);
      for (Order y_order : orders.y)
        for (Isa isa : isas()) {
          Pinned pinned(isa);
          Guarded y(dtype, {m, n}, strides(y_order, m, n));
          cpu::matmul(a.view(), b.view(), y.view());
          const auto got = y.values();
          double worst = 0;  // error in units of what is allowed
          for (std::size_t i = 0; i < got.size(); ++i) {
            const double allowed = tolerance(dtype, k) + rounding(dtype) * (std::abs(want[i]) + tolerance(dtype, k));
            const double ratio = std::abs(got[i] - want[i]) / allowed;
            worst = std::isnan(ratio) ? INFINITY : std::max(worst, ratio);
          }
          const auto what =
              fmt::format("{} {}x{}x{} orders {}{}{} on {}", dtype, m, n, k, int(a_order), int(b_order), int(y_order), name(isa));
          EXPECT_LE(worst, 1) << what;
          EXPECT_TRUE(y.intact()) << what;
        }
    }
  }
}

constexpr auto rows = Order::rows, columns = Order::columns, gaps = Order::gaps, whole = Order::whole;

TEST(Gemm, RaggedShapesInEveryOrderOfStrides) {
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
      expect_products(dtype, m, n, k, {{rows, columns, gaps}, {rows, columns, gaps}, {rows, columns}});
}

TEST(Gemm, TilesPlusMinusOne) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (std::int64_t m : {5, 6, 7, 11, 12, 13, 47, 48, 49, 97})
      for (std::int64_t n : {1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 256, 257})
        expect_products(dtype, m, n, 31, {{rows}, {columns}, {rows}});
    for (std::int64_t k : {319, 320, 321, 639, 641}) expect_products(dtype, 9, 20, k, {{rows}, {columns}, {rows}});
  }
}

TEST(Gemm, NarrowResultsWithoutGaps) {
  for (DType dtype : dtypes)
    for (auto [m, n, k] : {std::tuple{300, 9, 40}, {300, 16, 33}, {33, 5, 400}, {600, 3, 70}, {77, 16, 12}})
      expect_products(dtype, m, n, k, {{rows, columns}, {rows, columns}, {whole}});
}

TEST(Gemm, FewColumnsOverALongDepth) {  // in several chains, or a stretch of the depth and some rows at a time
  for (DType dtype : dtypes)
    for (auto [m, n, k] : {std::tuple{1, 16, 2048},
                           {3, 9, 2500},
                           {4, 8, 501},
                           {2, 16, 1023},
                           {16, 16, 2100},
                           {1, 16, 4100},
                           {3, 200, 999},
                           {5, 64, 1030},
                           {21, 1, 1200},
                           {67, 24, 1025},
                           {300, 9, 1100}})
      expect_products(dtype, m, n, k, {{rows, columns}, {rows, columns}, {rows, columns}});
  expect_products(DType::f32, 2100, 5, 1030, {{rows}, {rows, columns}, {rows}});  // more rows than tasks have at least
  expect_products(DType::f32, 330, 64, 1030, {{rows}, {columns}, {rows}}, DType::bf16);
}

TEST(Gemm, ManyRoundsOfRows) {  // more left panels than fit in one round, and rows that need none
  expect_products(DType::f32, 231, 70, 33000, {{columns, rows}, {rows}, {rows}});
}

TEST(Gemm, FewRowsAreCutAlongTheirColumns) { expect_products(DType::f32, 8, 210, 9000, {{columns, rows}, {columns}, {rows}}); }

TEST(Gemm, FewRowsOfHalvesOverALongDepth) {  // which are widened in the tasks that read them
  for (DType left : {DType::bf16, DType::f16})
    for (auto [m, n, k] : {std::tuple{1, 16, 4100},
                           {3, 9, 2500},
                           {16, 16, 2100},
                           {8, 256, 1500},
                           {5, 601, 1000},
                           {6, 24, 2049},
                           {83, 20, 1130},
                           {13, 270, 1100}})
      expect_products(DType::f32, m, n, k, {{columns, rows, gaps}, {rows, columns}, {rows, columns}}, left);
}

TEST(Gemm, FewRowsOverALongDepth) {  // in stretches of it, or of the columns, a piece of which is near
  for (DType dtype : dtypes)
    for (auto [m, n, k] : {std::tuple{8, 256, 1500},
                           {5, 601, 1000},
                           {16, 1030, 200},
                           {15, 257, 33},
                           {6, 24, 2049},
                           {3, 2100, 40},
                           {4, 1030, 90},
                           {3, 4200, 40}})
      expect_products(dtype, m, n, k, {{columns, rows, gaps}, {rows}, {rows, columns}});
}

TEST(Gemm, FewRowsMeetLongColumnsWhileTheseAreNear) {
  for (DType dtype : dtypes)
    for (auto [m, n, k] : {std::tuple{5, 70, 1024}, {16, 33, 2500}, {9, 130, 1100}})
      expect_products(dtype, m, n, k, {{columns, rows, gaps}, {columns}, {rows, columns}});
}

TEST(Gemm, OuterProductsOfHalves) {  // as gradients of few tokens are; the left operand is widened along its columns
  for (DType left : {DType::bf16, DType::f16})
    for (auto [m, n, k] : {std::tuple{300, 16, 1}, {257, 20, 4}, {90, 300, 16}, {515, 16, 13}})
      expect_products(DType::f32, m, n, k, {{columns, rows, gaps}, {rows}, {rows, columns}}, left);
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
