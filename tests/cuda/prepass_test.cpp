// What a product makes of its operand before it begins (cuda/prepass.cu), by every row of the GPU's list that begins so. Operands are small whole
// numbers, so that every sum is exact, whatever its order.
#include <gtest/gtest.h>

#include "graft/quant/pack.h"
#include "graft/tests/cuda/placed.h"
#include "graft/tests/quant/random_layer.h"

namespace graft::quant::test {
namespace {

using graft::cuda::Product;
using graft::test::gpu;
using graft::test::numbers;
using graft::test::on;

struct Factor {
  std::int64_t rank;
  double scale = 1;
  std::int64_t first_row = 0, end_row = -1;  // −1: x's last
  std::int64_t group = 1;
};
struct Run {
  Case layer;
  std::int64_t m;
  DType dtype = DType::bf16;
  std::vector<Factor> factors = {{3}};
  Lie lie = Lie::rows;
  bool transposed = false;
  DType A = DType::f32, u = DType::f32;
  std::string_view only = {};  // a row's name: others would take long to interpret
};

/// By each row u is x Aᵀ, and nothing beside it is written; and y is what it is when u was given. How many rows.
int check(const Run& r) {
  SCOPED_TRACE(fmt::format("{}, m {}, {} by {} to {}, lying {}{}", to_string(r.layer), r.m, r.dtype, r.A, r.u, int(r.lie),
                           r.transposed ? ", transposed" : ""));
  const auto weight = move_to(pack(layer(r.layer)), gpu);
  const std::int64_t in = r.transposed ? r.layer.out : r.layer.in, out = r.transposed ? r.layer.in : r.layer.out;
  const Tensor x = whole_numbers({r.m, in}, r.dtype, 1);
  const Placed there(x, r.lie);
  const auto values = x.to_vector<double>();

  std::vector<Placed> As, vs, us, given;
  std::vector<LowRank> terms, with_u;
  for (std::size_t i = 0; i < r.factors.size(); ++i) {
    const auto& [rank, scale, first, last, group] = r.factors[i];
    const std::int64_t end = last < 0 ? r.m : last;
    const Tensor A = whole_numbers({rank, in / group}, r.A, 2 + i);
    const auto a = A.to_vector<double>();
    std::vector<float> u;
    for (std::int64_t row = first; row < end; ++row)
      for (std::int64_t j = 0; j < rank; ++j) {
        double sum = 0;
        for (std::int64_t k = 0; k < in; ++k)
          sum += values[static_cast<std::size_t>(row * in + k)] * a[static_cast<std::size_t>(j * (in / group) + k / group)];
        u.push_back(static_cast<float>(scale * sum));
      }
    const Tensor wanted = Tensor::from(u, {end - first, rank}).to(r.u);
    const DType v = r.dtype == DType::f64 ? DType::f64 : DType::f32;
    As.emplace_back(A, r.lie), vs.emplace_back(whole_numbers({rank, out}, v, 40 + i), Lie::rows);
    given.emplace_back(wanted, r.lie), us.emplace_back(Tensor::full(wanted.shape(), untouched, r.u), r.lie);
  }
  const Join join = is_half(r.dtype) ? Join::added : Join::summed;
  for (std::size_t i = 0; i < r.factors.size(); ++i) {
    terms.push_back({.u = us[i].view, .v = vs[i].view, .join = join, .first_row = r.factors[i].first_row});
    with_u.push_back(terms.back()), with_u.back().u = given[i].view;
    terms.back().A = As[i].view, terms.back().u_scale = r.factors[i].scale, terms.back().group = r.factors[i].group;
  }
  const auto product = [&](const Product& row, std::span<const LowRank> of) {
    const Tensor y = Tensor::empty({r.m, out}, r.dtype, gpu);
    const View y_view = y.view();
    row.run({*weight, r.transposed, there.view, nullptr, y_view, of});
    return y.to_vector<double>();
  };
  const Tensor any = Tensor::empty({r.m, out}, r.dtype, gpu);
  const View any_view = any.view();
  int rows = 0;
  for (const Product& row : rows_for({*weight, r.transposed, there.view, nullptr, any_view, terms}, r.only)) {
    for (const Placed& u : us) runtime(gpu).kernels().fill(u.memory.view(), untouched);
    const auto y = product(row, terms);
    for (std::size_t i = 0; i < us.size(); ++i)
      EXPECT_EQ(us[i].memory.to_vector<double>(), given[i].memory.to_vector<double>()) << row.name << ", term " << i;
    EXPECT_EQ(y, product(row, with_u)) << row.name;
    ++rows;
  }
  EXPECT_GT(rows, 0);
  return rows;
}

Case shape(std::int64_t in, Grouping grouping = Grouping::in_order) { return {in, 24, 4, 32, grouping}; }

TEST(GpuPrepass, EveryNumberOfRows) {
  for (const std::int64_t m : {1, 3, 4, 17, 33, 130, 200})
    for (const Grouping grouping : {Grouping::in_order, Grouping::shuffled})
      EXPECT_GE(check({shape(150, grouping), m, m % 2 ? DType::bf16 : DType::f16}), 2);
}

TEST(GpuPrepass, EveryRank) {
  for (const std::int64_t rank : {1, 2, 3, 5, 8, 15, 16, 17, 32, 33, 64}) {
    check({shape(200, Grouping::shuffled), 5, DType::bf16, {{rank, 0.75}}});
    check({shape(600), 1, DType::f16, {{rank}}});
  }
  check({shape(300), 130, DType::bf16, {{33, 0.5}}});
}

// Columns beyond the last whole piece of 4, of 8 and of 128, and beyond what is copied at a time.
TEST(GpuPrepass, EveryNumberOfColumns) {
  for (const std::int64_t in : {1, 3, 4, 7, 127, 128, 129, 256, 515, 1030}) check({shape(in), 3, DType::bf16, {{4}}});
  check({shape(2200), 130, DType::bf16, {{2}}});
}

// QA-LoRA's: beside terms that take every column, and where no kernel of the pre-pass does it.
TEST(GpuPrepass, SumsOfGroups) {
  for (const std::int64_t group : {2, 3, 4, 5, 8, 10, 32, 160, 480})
    check({shape(480, Grouping::shuffled), 5, DType::bf16, {{.rank = 7, .scale = 0.75, .group = group}, {3}}});
  check({shape(2200), 130, DType::f16, {{.rank = 2, .group = 8}}});
  check(
      {.layer = shape(96), .m = 9, .dtype = DType::f64, .factors = {{.rank = 4, .group = 6}}, .A = DType::f64, .u = DType::f64});
  check({.layer = shape(96),
         .m = 9,
         .dtype = DType::bf16,
         .factors = {{.rank = 4, .group = 16}},
         .A = DType::bf16,
         .u = DType::bf16});
}

TEST(GpuPrepass, SeveralTermsOfSomeRows) {
  const std::vector<Factor> some = {{7, 0.75, 0, 3}, {1, 2, 2, 9}, {16, 1, 9, 17}, {5, -1.5, 16, 17}};
  for (const Grouping grouping : {Grouping::in_order, Grouping::shuffled}) check({shape(300, grouping), 17, DType::bf16, some});
  check({shape(300, Grouping::shuffled), 150, DType::f16, {{7, 0.75, 0, 3}, {3, 1, 15, 16}, {9, 1, 100, 150}, {2}}});
  std::vector<Factor> each;
  for (std::int64_t row = 0; row < 32; ++row) each.push_back({1 + row % 3, 1 + 0.25 * static_cast<double>(row), row, row + 1});
  check({shape(150), 32, DType::bf16, each});
  each.push_back({2, 1, 3, 30});
  check({shape(150), 40, DType::bf16, each});
}

TEST(GpuPrepass, EveryTypeAndStride) {
  for (const Lie lie : {Lie::rows, Lie::columns, Lie::gaps}) {
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32})
      check({shape(150, Grouping::shuffled), 9, dtype, {{3, 0.5}, {4}}, lie});
    check({shape(70), 5, DType::f64, {{3, 0.5}}, lie, false, DType::f64, DType::f64});
    check({shape(70), 5, DType::f32, {{3, 0.5}}, lie, false, DType::bf16, DType::f32});
    check({shape(70), 5, DType::bf16, {{3, 0.5}}, lie, false, DType::f16, DType::f32});
  }
  check({shape(150), 130, DType::f32, {{3}, {6, 0.25}}});
  check({shape(150), 9, DType::bf16, {{5}}, Lie::rows, true});
}

// Rows of x that do not fit into shared memory are arranged from memory; more rows than blocks can be counted are two launches.
TEST(GpuPrepass, WhatIsTooLarge) {
  check({.layer = {29400, 8, 8, 2048, Grouping::shuffled}, .m = 3, .factors = {{2}}, .only = "tiles through mma.sync"});
  check({.layer = {16, 1, 8, 16}, .m = 32768 + 5, .dtype = DType::f32, .factors = {{1}, {2, 1, 32760, 32770}}});
}

TEST(GpuPrepass, SumsHaveOneOrder) {
  const auto weight = move_to(pack(layer(shape(600))), gpu);
  for (const std::int64_t m : {3, 130}) {
    const Tensor x = on(numbers({m, 600}, 1, DType::bf16), gpu), A = on(numbers({6, 600}, 2, DType::f32), gpu),
                 v = on(numbers({6, 24}, 3, DType::f32), gpu), y = Tensor::empty({m, 24}, DType::bf16, gpu);
    std::vector<float> first;
    for (int time = 0; time < 2; ++time) {
      const Tensor u = Tensor::empty({m, 6}, DType::f32, gpu);
      const LowRank term{.u = u.view(), .v = v.view(), .join = Join::added, .A = A.view()};
      forward(*weight, x.view(), nullptr, y.view(), {&term, 1});
      if (time == 0) first = u.to_vector<float>();
      EXPECT_EQ(u.to_vector<float>(), first);
    }
  }
}

}  // namespace
}  // namespace graft::quant::test
