// The gradients of y = x Wᵀ, narrow and not, against sums in f64.
#include "kernel_operands.h"

namespace graft {
namespace {

using namespace test;

/// Σ over d of a's (i, d) and b's (d, j), for matrices given by their values and strides.
struct Matrix {
  const std::vector<double>& values;
  std::int64_t row_step, column_step;
};
std::vector<double> product(std::int64_t rows, std::int64_t columns, std::int64_t depth, const Matrix& a, const Matrix& b) {
  std::vector<double> y(static_cast<std::size_t>(rows * columns));
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j)
      for (std::int64_t d = 0; d < depth; ++d)
        y[static_cast<std::size_t>(i * columns + j)] += a.values[static_cast<std::size_t>(i * a.row_step + d * a.column_step)] *
                                                        b.values[static_cast<std::size_t>(d * b.row_step + j * b.column_step)];
  return y;
}

struct Run {
  std::int64_t m, n, k;  // y [m, n], x [m, k]
  DType dtype;
  Layout layout = Layout::dense;
  DType result;
  DType x = dtype, weight = x;  // where they are not dy's
};

void check(const Run& r) {
  SCOPED_TRACE(fmt::format("m {} n {} k {} {} to {} layout {}", r.m, r.n, r.k, name(r.dtype), name(r.result), int(r.layout)));
  const Guarded dy = numbers(r.dtype, {r.m, r.n}, 1, r.layout), x = numbers(r.x, {r.m, r.k}, 2, r.layout),
                weight = numbers(r.weight, {r.n, r.k}, 3, r.layout);
  const Guarded dx = operand(r.result, {r.m, r.k}, r.layout), dweight = operand(r.result, {r.n, r.k}, r.layout);
  const auto g = dy.values(), u = x.values(), w = weight.values();
  const auto wanted_dx = product(r.m, r.k, r.n, {g, r.n, 1}, {w, r.k, 1});
  const auto wanted_dweight = product(r.n, r.k, r.m, {g, 1, r.n}, {u, r.k, 1});
  // Sums of so many products are kept in f32 or f64 and rounded once.
  const double sum = r.dtype == DType::f64 ? 0x1p-53 : 0x1p-24;
  const auto near = [&](const Guarded& got, const std::vector<double>& wanted, std::int64_t depth) {
    const double roundoff = unit_roundoff(r.result);
    expect_near(got, wanted, 1 + sum / roundoff * (4 + 2 * static_cast<double>(depth)));
  };
  const Kernels& kernels = tested_kernels();
  kernels.linear_backward(dy.view(), x.view(), weight.view(), dx.view(), dweight.view());
  near(dx, wanted_dx, r.n);
  near(dweight, wanted_dweight, r.m);

  const Guarded only_dx = operand(r.result, {r.m, r.k}, r.layout), only_dweight = operand(r.result, {r.n, r.k}, r.layout);
  kernels.linear_backward(dy.view(), {}, weight.view(), only_dx.view(), {});
  kernels.linear_backward(dy.view(), x.view(), {}, {}, only_dweight.view());
  near(only_dx, wanted_dx, r.n);
  near(only_dweight, wanted_dweight, r.m);
}

TEST(KernelsLinear, NarrowInputsOfEveryTypeAndLayout) {
  for (const DType dtype : floating)
    for (const Layout layout : layouts)
      for (const std::int64_t k : {1, 4, 16, 19, 40, 65})
        check({.m = 7, .n = 75, .k = k, .dtype = dtype, .layout = layout, .result = dtype});
}

// Those of an adapter's other factor.
TEST(KernelsLinear, NarrowResults) {
  for (const DType dtype : floating)
    for (const std::int64_t n : {2, 16, 33}) check({.m = 9, .n = n, .k = 150, .dtype = dtype, .result = dtype});
}

// More rows and columns than a device may take at once, whole and ragged.
TEST(KernelsLinear, LargeSums) {
  check({.m = 256, .n = 128, .k = 16, .dtype = DType::bf16, .result = DType::bf16});
  check({.m = 530, .n = 200, .k = 8, .dtype = DType::f16, .result = DType::f16});
  check({.m = 260, .n = 70, .k = 64, .dtype = DType::bf16, .result = DType::bf16});
  check({.m = 513, .n = 100, .k = 32, .dtype = DType::f32, .result = DType::f32});
  check({.m = 40, .n = 1000, .k = 8, .dtype = DType::f32, .result = DType::f32});
  check({.m = 3, .n = 1500, .k = 24, .dtype = DType::bf16, .result = DType::bf16});
  check({.m = 300, .n = 4, .k = 270, .dtype = DType::f32, .result = DType::f32});
  check({.m = 300, .n = 12, .k = 270, .dtype = DType::f16, .result = DType::f16});
}

TEST(KernelsLinear, HalvesMayGiveF32) {
  for (const DType dtype : {DType::bf16, DType::f16})
    for (const std::int64_t m : {5, 300}) check({.m = m, .n = 90, .k = 10, .dtype = dtype, .result = DType::f32});
}

// Both gradients of an adapter in f32 on a layer in half precision, whose activations are widened as they are read; and ranks that no kernel has.
TEST(KernelsLinear, HalvesMeetF32) {
  constexpr DType f32 = DType::f32;
  for (const DType half : {DType::bf16, DType::f16}) {
    for (const Layout layout : layouts)
      for (const std::int64_t k : {1, 8, 16, 19, 32, 40})
        check({.m = 7, .n = 150, .k = k, .dtype = half, .layout = layout, .result = f32, .x = f32});
    for (const std::int64_t n : {2, 16, 30, 33})
      check({.m = 9, .n = n, .k = 150, .dtype = f32, .result = f32, .x = half, .weight = f32});
    check({.m = 530, .n = 130, .k = 8, .dtype = half, .result = half, .x = f32});
    check({.m = 257, .n = 71, .k = 24, .dtype = half, .result = f32, .x = f32});
    check({.m = 3, .n = 1500, .k = 16, .dtype = half, .result = f32, .x = f32});
    check({.m = 300, .n = 12, .k = 270, .dtype = f32, .result = f32, .x = half});
    check({.m = 20, .n = 6, .k = 90, .dtype = half, .result = f32, .x = f32});
  }
}

TEST(KernelsLinear, TypesMayDiffer) {
  const Guarded dy = numbers(DType::f32, {6, 40}, 1), x = numbers(DType::bf16, {6, 3}, 2),
                weight = numbers(DType::f16, {40, 3}, 3);
  const Guarded dx = operand(DType::f16, {6, 3}), dweight = operand(DType::bf16, {40, 3});
  tested_kernels().linear_backward(dy.view(), x.view(), weight.view(), dx.view(), dweight.view());
  const auto g = dy.values(), u = x.values(), w = weight.values();
  expect_near(dx, product(6, 3, 40, {g, 40, 1}, {w, 3, 1}), 2, 4);
  expect_near(dweight, product(40, 3, 6, {g, 1, 40}, {u, 3, 1}), 2, 4);
}

// The same bits each time: who is first does not matter.
TEST(KernelsLinear, SumsHaveOneOrder) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Guarded dy = numbers(dtype, {300, 130}, 1), x = numbers(dtype, {300, 8}, 2), weight = numbers(dtype, {130, 8}, 3);
    std::vector<double> first;
    for (int time = 0; time < 2; ++time) {
      const Guarded dx = operand(DType::f32, {300, 8}), dweight = operand(DType::f32, {130, 8});
      tested_kernels().linear_backward(dy.view(), x.view(), weight.view(), dx.view(), dweight.view());
      auto all = dx.values();
      const auto more = dweight.values();
      all.insert(all.end(), more.begin(), more.end());
      if (time == 0) first = all;
      EXPECT_EQ(all, first);
    }
  }
}

}  // namespace
}  // namespace graft
