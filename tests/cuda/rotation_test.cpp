// A rotation of a product's operand (cuda/rotation.cu), by every row of the GPU's list. Operands are small whole numbers, so that every sum is exact,
// whatever its order.
#include <gtest/gtest.h>

#include "graft/quant/pack.h"
#include "graft/tests/cuda/placed.h"
#include "graft/tests/quant/random_layer.h"

namespace graft::quant::test {
namespace {

using graft::test::gpu;

struct Turned {
  std::int64_t in, b, m;
  bool shared = false;
  DType from = DType::bf16, blocks = DType::f32, x = from;
  Grouping grouping = Grouping::in_order;
  Lie lie = Lie::rows;
  bool with_term = false;
  std::string_view only = {};
};

/// from · R, summed exactly and rounded once.
Tensor turned(const Turned& t, const Tensor& from, const Tensor& blocks) {
  const auto x = from.to_vector<double>(), R = blocks.to_vector<double>();
  std::vector<double> result(x.size());
  for (std::int64_t row = 0; row < t.m; ++row)
    for (std::int64_t column = 0; column < t.in; ++column) {
      const std::int64_t block = column / t.b, first = row * t.in + block * t.b;
      for (std::int64_t k = 0; k < t.b; ++k)
        result[static_cast<std::size_t>(row * t.in + column)] +=
            x[static_cast<std::size_t>(first + k)] *
            R[static_cast<std::size_t>(((t.shared ? 0 : block) * t.b + k) * t.b + column % t.b)];
    }
  return Tensor::from(result, {t.m, t.in}).to(t.x);
}

/// By each row y is the product of the rotated operand, and nothing beside that operand is written. Whether it was written is told, if one row
/// was asked for.
bool check(const Turned& t) {
  SCOPED_TRACE(fmt::format("{} channels in {} blocks of {}, m {}, {} by {} to {}, order {}, lying {}{}", t.in,
                           t.shared ? "shared" : "own", t.b, t.m, t.from, t.blocks, t.x, int(t.grouping), int(t.lie),
                           t.with_term ? ", with a term" : ""));
  const auto weight = move_to(pack(layer({t.in, 24, 4, 32, t.grouping})), gpu);
  const Tensor values = whole_numbers({t.m, t.in}, t.from, 1),
               R = whole_numbers({t.shared ? 1 : t.in / t.b, t.b, t.b}, t.blocks, 2);
  const Placed from(values, t.lie), wanted(turned(t, values, R), t.lie);
  const Tensor blocks = graft::test::on(R, gpu);
  const Placed A(whole_numbers({3, t.in}, DType::f32, 3), Lie::rows), v(whole_numbers({3, 24}, DType::f32, 4), Lie::rows);
  bool written = true;
  const auto product = [&](const graft::cuda::Product& row, const View& x, const Rotated* rotated) {
    const Tensor y = Tensor::empty({t.m, 24}, t.x, gpu), u = Tensor::empty({t.m, 3}, DType::f32, gpu);
    const View y_view = y.view();
    const LowRank term{.u = u.view(), .v = v.view, .join = is_half(t.x) ? Join::added : Join::summed, .A = A.view};
    row.run({.weight = *weight, .x = x, .y = y_view, .terms = std::span(&term, t.with_term ? 1 : 0), .rotated = rotated});
    return y.to_vector<double>();
  };
  const Tensor any = Tensor::empty({t.m, 24}, t.x, gpu);
  const View any_view = any.view();
  int rows = 0;
  for (const graft::cuda::Product& row : rows_for({.weight = *weight, .x = wanted.view, .y = any_view}, t.only)) {
    const Placed x(Tensor::full({t.m, t.in}, untouched, t.x), t.lie);
    const Rotated rotated{from.view, blocks.view()};
    EXPECT_EQ(product(row, x.view, &rotated), product(row, wanted.view, nullptr)) << row.name;
    const auto memory = x.memory.to_vector<double>();
    written = memory == wanted.memory.to_vector<double>();
    if (!written) {
      EXPECT_EQ(memory, std::vector<double>(memory.size(), untouched)) << row.name;
    }
    ++rows;
  }
  EXPECT_GT(rows, 0);
  return written;
}

TEST(GpuRotation, EveryNumberOfRows) {
  for (const std::int64_t m : {1, 3, 4, 5, 17, 33, 65, 130})
    for (const Grouping grouping : {Grouping::in_order, Grouping::shuffled})
      check({.in = 160, .b = 8, .m = m, .from = m % 2 ? DType::bf16 : DType::f16, .grouping = grouping});
}

// The last ones are not the kernels'.
TEST(GpuRotation, EveryBlock) {
  for (const std::int64_t b : {4, 8, 12, 16, 32, 48, 64, 96, 128, 1, 2, 3, 6, 192})
    for (const bool shared : {false, true}) {
      check({.in = 384, .b = b, .m = 3, .shared = shared});
      check({.in = 384, .b = b, .m = 9, .shared = shared, .from = DType::f16, .grouping = Grouping::shuffled});
    }
}

// Parts that are not whole, and channels enough for several.
TEST(GpuRotation, EveryNumberOfColumns) {
  for (const std::int64_t in : {8, 16, 248, 256, 264, 1032, 1096}) {
    check({.in = in, .b = 8, .m = 3});
    check({.in = in, .b = 8, .m = 66, .grouping = Grouping::shuffled, .only = "tiles through mma.sync"});
  }
}

TEST(GpuRotation, EveryTypeAndStride) {
  for (const Lie lie : {Lie::rows, Lie::columns, Lie::gaps})
    for (const Grouping grouping : {Grouping::in_order, Grouping::shuffled})
      for (const std::int64_t m : {5, 66}) {
        if (m > 5 && lie == Lie::gaps) continue;
        const auto run = [&](DType from, DType blocks, DType x) {
          check({.in = 96, .b = 16, .m = m, .from = from, .blocks = blocks, .x = x, .grouping = grouping, .lie = lie});
        };
        for (const DType half : {DType::bf16, DType::f16})
          run(half, DType::f32, half), run(half, DType::f32, DType::f32), run(half, half, half);
        run(DType::f32, DType::f32, DType::f32);
        if (m == 5) run(DType::f64, DType::f64, DType::f64);
      }
}

// Rows that blocks have whole go straight to the packed order: not too few of them, nor where somebody else reads them in theirs.
TEST(GpuRotation, IsArrangedOnTheWay) {
  const Turned tiles{.in = 160, .b = 8, .m = 9, .grouping = Grouping::shuffled, .only = "tiles through mma.sync"};
  EXPECT_FALSE(check(tiles));
  Turned other = tiles;
  other.m = 3;
  EXPECT_TRUE(check(other)) << "a single block";
  other = tiles, other.with_term = true;
  EXPECT_TRUE(check(other)) << "a term meets it";
  other = tiles, other.grouping = Grouping::in_order;
  EXPECT_TRUE(check(other)) << "the order is its own";
}

TEST(GpuRotation, TermsMeetWhatIsRotated) {
  for (const std::int64_t m : {5, 70})
    for (const DType dtype : {DType::bf16, DType::f32})
      check({.in = 160, .b = 8, .m = m, .from = dtype, .grouping = Grouping::shuffled, .with_term = true});
}

}  // namespace
}  // namespace graft::quant::test
