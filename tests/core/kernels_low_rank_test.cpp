// A dense layer's product with an adapter's share, against sums in f64 and the rounding in between.
#include "kernel_operands.h"

namespace graft {
namespace {

using namespace test;

struct LowRankRun {
  std::int64_t m, n, k, r;
  DType dtype;
  Layout layout = Layout::dense;
  bool turned = false;  // factors are transposes of what lies there, as those of the gradient are, and u is wanted
};

/// Row by row, of a matrix [rows, columns] that lies as its transpose.
std::vector<double> turned_values(const Guarded& matrix, std::int64_t rows, std::int64_t columns) {
  const std::vector<double> from = matrix.values();
  std::vector<double> to;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j) to.push_back(from[static_cast<std::size_t>(j * rows + i)]);
  return to;
}

/// Row i of a times row j of b, for rows of length k.
double dot(const std::vector<double>& a, std::int64_t i, const std::vector<double>& b, std::int64_t j, std::int64_t k) {
  double sum = 0;
  for (std::int64_t d = 0; d < k; ++d) sum += a[static_cast<std::size_t>(i * k + d)] * b[static_cast<std::size_t>(j * k + d)];
  return sum;
}

void check(const LowRankRun& run) {
  const std::int64_t m = run.m, n = run.n, k = run.k, r = run.r;
  const DType dtype = run.dtype;
  const Layout layout = run.layout;
  const bool turned = run.turned;
  SCOPED_TRACE(fmt::format("m {} n {} k {} r {} {} layout {} turned {}", m, n, k, r, name(dtype), int(layout), turned));
  const DType wide = dtype == DType::f64 ? DType::f64 : DType::f32;
  constexpr double scale = 0.75;
  const auto factor = [&](DType type, std::int64_t rows, std::int64_t columns, int seed) {
    return turned ? numbers(type, {columns, rows}, seed, layout) : numbers(type, {rows, columns}, seed, layout);
  };
  const auto view = [&](const Guarded& x) { return turned ? transposed(x.view()) : x.view(); };
  const auto values = [&](const Guarded& x, std::int64_t rows, std::int64_t columns) {
    return turned ? turned_values(x, rows, columns) : x.values();
  };
  const Guarded x = numbers(dtype, {m, k}, 1, layout), weight = factor(dtype, n, k, 2), A = factor(wide, r, k, 3),
                B = factor(wide, n, r, 4), y = operand(dtype, {m, n}, layout), narrow = operand(wide, {m, r});
  tested_kernels().low_rank_linear(x.view(), view(weight), view(A), view(B), scale, y.view(), turned ? narrow.view() : View());
  const auto x_values = x.values(), w = values(weight, n, k), a = values(A, r, k), b = values(B, n, r);
  std::vector<double> u, wanted;
  double largest = 4;  // of what is rounded, where that is a deep product
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < r; ++j) u.push_back(scale * dot(x_values, i, a, j, k));
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      const double product = dot(x_values, i, w, j, k);
      if (k > 100) largest = std::max(largest, std::abs(product));
      wanted.push_back(product + dot(u, i, b, j, r));
    }
  if (turned) expect_near(narrow, u, static_cast<double>(8 + 2 * k), 4);
  // Both roundings, and in f32 or f64 the sums'.
  expect_near(y, wanted, 2.5 + unit_roundoff(wide) / unit_roundoff(dtype) * static_cast<double>(8 + 2 * k + 2 * r), largest);
}

TEST(KernelsLowRank, ResultsOfEveryTypeAndLayout) {
  for (const DType dtype : floating)
    for (const Layout layout : layouts)
      for (const std::int64_t m : {1, 3, 4, 5, 9})
        for (const bool turned : {false, true})
          check({.m = m, .n = 75, .k = 70, .r = 6, .dtype = dtype, .layout = layout, .turned = turned});
}

// Forward both products are tasks of one round; turned, each has its own.
TEST(KernelsLowRank, FewRowsOverALongDepth) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t m : {1, 4})
      for (const std::int64_t r : {0, 5, 16, 70})
        for (const bool turned : {false, true}) check({.m = m, .n = 1100, .k = 1031, .r = r, .dtype = dtype, .turned = turned});
  for (const DType dtype : {DType::f64, DType::f16})
    check({.m = 3, .n = 1100, .k = 1031, .r = 16, .dtype = dtype, .turned = true});
}

// More columns than a task has, and ranks that are no multiple of anything.
TEST(KernelsLowRank, RanksAndColumns) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t r : {0, 1, 16, 37}) {
      check({.m = 2, .n = 1100, .k = 33, .r = r, .dtype = dtype});
      check({.m = 1, .n = 1100, .k = 33, .r = r, .dtype = dtype, .turned = true});
      check({.m = 20, .n = 1030, .k = 16, .r = r, .dtype = dtype});
      check({.m = 103, .n = 300, .k = 16, .r = r, .dtype = dtype, .turned = true});
    }
}

TEST(KernelsLowRank, NothingIsReadOrWrittenOfNoRows) {
  for (const DType dtype : floating) {
    const DType wide = dtype == DType::f64 ? DType::f64 : DType::f32;
    const Guarded weight = numbers(dtype, {5, 8}, 1), A = numbers(wide, {2, 8}, 2), B = numbers(wide, {5, 2}, 3),
                  y = operand(dtype, {0, 5});
    View x = weight.view();
    x.data = nullptr, x.sizes[0] = 0;
    tested_kernels().low_rank_linear(x, weight.view(), A.view(), B.view(), 1, y.view(), {});
    EXPECT_TRUE(y.intact());
  }
}

// 257 + 1 in bf16, whose neighbours of 256 are 2 apart: the product is rounded to 256 first, and 257 once more. 258 would be one rounding.
TEST(KernelsLowRank, TheProductIsRoundedBeforeTheShareJoins) {
  for (const std::int64_t m : {1, 7}) {
    const auto filled = [](DType dtype, const Sizes& sizes, double value) {
      Guarded x = operand(dtype, sizes);
      tested_kernels().fill(x.view(), value);
      return x;
    };
    const Guarded x = filled(DType::bf16, {m, 257}, 1), weight = filled(DType::bf16, {70, 257}, 1),
                  A = filled(DType::f32, {1, 257}, 0x1p-8), B = filled(DType::f32, {70, 1}, 256),
                  y = operand(DType::bf16, {m, 70});
    tested_kernels().low_rank_linear(x.view(), weight.view(), A.view(), B.view(), 1.0 / 257, y.view(), {});
    EXPECT_EQ(y.values(), std::vector<double>(static_cast<std::size_t>(m * 70), 256));
  }
}

TEST(KernelsLowRank, NoDepthGivesZeros) {
  for (const std::int64_t m : {2, 6}) check({.m = m, .n = 70, .k = 0, .r = 3, .dtype = DType::f32});
}

// The same bits each time, whatever the threads.
TEST(KernelsLowRank, SumsHaveOneOrder) {
  for (const std::int64_t m : {2, 6}) {
    const Guarded x = numbers(DType::bf16, {m, 700}, 1), weight = numbers(DType::bf16, {130, 700}, 2),
                  A = numbers(DType::f32, {9, 700}, 3), B = numbers(DType::f32, {130, 9}, 4);
    expect_same_for_any_threads([&] {
      const Guarded y = operand(DType::bf16, {m, 130});
      tested_kernels().low_rank_linear(x.view(), weight.view(), A.view(), B.view(), 0.5, y.view(), {});
      return y.values();
    });
  }
  const Guarded x = numbers(DType::bf16, {2, 2100}, 1), weight = numbers(DType::bf16, {2100, 4100}, 2),
                A = numbers(DType::f32, {2100, 16}, 3), B = numbers(DType::f32, {16, 4100}, 4);
  expect_same_for_any_threads([&] {  // as gradients are
    const Guarded y = operand(DType::bf16, {2, 4100});
    tested_kernels().low_rank_linear(x.view(), transposed(weight.view()), transposed(A.view()), transposed(B.view()), 0.5,
                                     y.view(), {});
    return y.values();
  });
}

TEST(KernelsLowRank, RefusesTypesThatDoNotMeet) {
  const Guarded x = numbers(DType::f32, {1, 4}, 1), weight = numbers(DType::f32, {3, 4}, 2), A = numbers(DType::f64, {2, 4}, 3),
                B = numbers(DType::f64, {3, 2}, 4), y = operand(DType::f32, {1, 3});
  expect_error<TypeError>([&] { tested_kernels().low_rank_linear(x.view(), weight.view(), A.view(), B.view(), 1, y.view(), {}); },
                          "f64 meets");
}

}  // namespace
}  // namespace graft
