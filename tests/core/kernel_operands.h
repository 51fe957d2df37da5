// Operands for the tests of kernels: guarded views in several layouts, and the settings under which results must be the same bits.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "graft/core/elementwise.h"
#include "graft/core/parallel.h"
#include "graft/core/tensor.h"
#include "graft/tests/support/errors.h"
#include "graft/tests/support/guarded.h"
#include "graft/tests/support/tested.h"

namespace graft::test {

using Sizes = std::vector<std::int64_t>;

enum class Layout { dense, transposed, gaps };
inline constexpr Layout layouts[] = {Layout::dense, Layout::transposed, Layout::gaps};

/// Strides that store `sizes` row-major, with the dimensions reversed, or row-major with holes between elements and rows.
inline Sizes strides_of(const Sizes& sizes, Layout layout) {
  Sizes strides(sizes.size());
  std::int64_t step = layout == Layout::gaps ? 2 : 1;
  const auto n = static_cast<int>(sizes.size());
  for (int i = 0; i < n; ++i) {
    const int d = layout == Layout::transposed ? i : n - 1 - i;
    strides[d] = step;
    step = step * std::max<std::int64_t>(sizes[d], 1) + (layout == Layout::gaps ? 3 : 0);
  }
  return strides;
}

inline Guarded operand(DType dtype, const Sizes& sizes, Layout layout = Layout::dense) {
  return Guarded(dtype, sizes, strides_of(sizes, layout));
}

/// A guarded operand with numbers of [-1, 1), times `scale`.
inline Guarded numbers(DType dtype, const Sizes& sizes, std::uint64_t seed, Layout layout = Layout::dense, double scale = 1) {
  Guarded x = operand(dtype, sizes, layout);
  x.randomize(seed);
  if (scale != 1) tested_kernels().unary(UnaryOp::affine, x.view(), x.view(), scale, 0);
  return x;
}

inline double unit_roundoff(DType dtype) {
  return dtype == DType::f64 ? 0x1p-53 : dtype == DType::f32 ? 0x1p-24 : dtype == DType::f16 ? 0x1p-11 : 0x1p-8;
}

/// |got − wanted| ≤ roundoffs · unit roundoff · max(|wanted|, floor) for every element, and the guards are whole.
inline void expect_near(const Guarded& got, const std::vector<double>& wanted, double roundoffs, double floor = 1) {
  const auto values = got.values();
  ASSERT_EQ(values.size(), wanted.size());
  EXPECT_TRUE(got.intact());
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(wanted[i])) {
      EXPECT_TRUE(std::isnan(values[i])) << "element " << i;
    } else if (std::isinf(wanted[i])) {
      EXPECT_EQ(values[i], wanted[i]) << "element " << i;
    } else {
      const double bound = roundoffs * unit_roundoff(got.view().dtype) * std::max(std::abs(wanted[i]), floor);
      EXPECT_LE(std::abs(values[i] - wanted[i]), bound) << "element " << i << ": " << values[i] << " instead of " << wanted[i];
      if (std::abs(values[i] - wanted[i]) > bound) return;
    }
  }
}

inline constexpr DType floating[] = {DType::f64, DType::f32, DType::f16, DType::bf16};
inline constexpr DType all_dtypes[] = {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64,
                                       DType::i32, DType::i16, DType::i8,  DType::u8,   DType::boolean};

/// The values that `compute` returns must be the same for 1, 2, 3 and 7 threads.
inline void expect_same_for_any_threads(const std::function<std::vector<double>()>& compute) {
  set_thread_pool(make_thread_pool(1));
  const auto alone = compute();
  for (int threads : {2, 3, 7}) {
    set_thread_pool(make_thread_pool(threads));
    EXPECT_EQ(compute(), alone) << threads << " threads";
  }
  set_thread_pool(nullptr);
}

/// And for every instruction set.
inline void expect_same_for_any_isa(const std::function<std::vector<double>()>& compute) {
  std::vector<double> scalar;
  for (Isa isa : isas()) {
    const Pinned pinned(isa);
    if (isa == Isa::scalar) scalar = compute();
    EXPECT_EQ(compute(), scalar) << name(isa);
  }
}

}  // namespace graft::test
