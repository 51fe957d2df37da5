// Products through tiles that are dequantized in shared memory, row by row of the list of products, against the CPU's.
#include <gtest/gtest.h>

#include <cmath>

#include "graft/cuda/backend.h"
#include "graft/cuda/products.h"
#include "graft/quant/kernels.h"
#include "graft/quant/pack.h"
#include "graft/tests/cuda/device_tensors.h"
#include "graft/tests/quant/random_layer.h"

namespace graft::quant::test {
namespace {

using graft::cuda::Product;
using graft::test::gpu;
using graft::test::numbers;
using graft::test::on;

/// The rows that this file is about, as far as this GPU has them.
std::vector<Product> tiled_products() {
  std::vector<Product> found;
  const int capability = graft::cuda::properties().capability;
  for (const Product& product : graft::cuda::products())
    if ((product.name == "tiles through mma.sync" && capability >= 80) ||
        (product.name == "tiles through wgmma" && capability == 90))
      found.push_back(product);
  return found;
}

/// How operands lie: as they come, or with strides that no kernel reads directly.
enum class Lie { rows, columns, every_second };
struct Placed {
  Tensor memory;
  View view;
  Placed(Tensor all, std::int64_t rows, std::int64_t columns, Lie lie) : memory(std::move(all)), view(memory.view()) {
    view.rank = 2;
    view.sizes[0] = rows, view.sizes[1] = columns;
    view.strides[0] = lie == Lie::columns ? 1 : lie == Lie::rows ? columns : 2 * columns + 1;
    view.strides[1] = lie == Lie::columns ? rows : lie == Lie::rows ? 1 : 2;
  }
  static std::int64_t elements(std::int64_t rows, std::int64_t columns) { return rows * (2 * columns + 1); }
};

struct Run {
  Case layer;
  std::int64_t m;
  DType x = DType::bf16, y = DType::bf16;
  bool backward = false, bias = false;
  int terms = 0;
  std::int64_t rank = 3;
  Lie lie = Lie::rows;
  DType term = DType::f32;
};

/// What the product gives, on the CPU (without one) or by a row of the GPU's.
std::vector<double> result(const Run& r, const std::shared_ptr<const Packed>& weight, const Product* product) {
  const Device device = weight->device();
  const std::int64_t from = r.backward ? weight->out : weight->in, to = r.backward ? weight->in : weight->out;
  const auto operand = [&](std::int64_t rows, std::int64_t columns, std::uint64_t seed, DType dtype) {
    return Placed(on(numbers({Placed::elements(rows, columns)}, seed, dtype), device), rows, columns, r.lie);
  };
  const Placed x = operand(r.m, from, 1, r.x), y = operand(r.m, to, 2, r.y), bias = operand(1, to, 3, r.term);
  std::vector<Placed> factors;
  std::vector<LowRank> terms;
  for (int t = 0; t < r.terms; ++t) {
    factors.push_back(operand(r.m, r.rank, 4, r.term));
    factors.push_back(operand(r.rank, to, 5 + static_cast<std::uint64_t>(t), r.term));
  }
  for (int t = 0; t < r.terms; ++t)
    terms.push_back({factors[2 * static_cast<std::size_t>(t)].view, factors[2 * static_cast<std::size_t>(t) + 1].view});
  View shift = bias.view;
  shift.rank = 1, shift.sizes[0] = to, shift.strides[0] = bias.view.strides[1];
  const Problem problem{*weight, r.backward, x.view, r.bias ? &shift : nullptr, y.view, terms};
  if (product) product->run(problem);
  else if (r.backward) backward(*weight, x.view, y.view, terms);
  else forward(*weight, x.view, problem.bias, y.view, terms);
  // What lies between the results, too: nobody may have written there.
  return y.memory.to_vector<double>();
}

std::string describe(const Run& r) {
  return fmt::format("{}, m {}, {} to {}, {}, bias {}, {} terms, lying {}", to_string(r.layer), r.m, name(r.x), name(r.y),
                     r.backward ? "backward" : "forward", r.bias, r.terms, static_cast<int>(r.lie));
}

void check(const Run& r) {
  SCOPED_TRACE(describe(r));
  const auto here = pack(layer(r.layer)), there = move_to(here, gpu);
  const auto wanted = result(r, here, nullptr);
  // Sums of products up to two in another order, with weights and results rounded to half types.
  const double tolerance = (r.x == DType::f16 ? 0x1p-10 : 0x1p-7) * static_cast<double>(r.backward ? r.layer.out : r.layer.in);
  for (const Product& product : tiled_products()) {
    const auto got = result(r, there, &product);
    double worst = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const double error = std::abs(got[i] - wanted[i]);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
    EXPECT_LE(worst, tolerance) << product.name;
  }
}

TEST(GpuTiled, EveryWidthAndGrouping) {
  for (const int bits : {2, 3, 4, 5, 8})
    for (const Grouping grouping : {Grouping::in_order, Grouping::shuffled, Grouping::irregular})
      for (const bool affine : {false, true})
        for (const bool backward : {false, true}) {
          const DType dtype = (bits + affine) % 2 ? DType::bf16 : DType::f16;
          check({{150, 70, bits, 32, grouping, affine}, 5, dtype, dtype, backward});
        }
}

TEST(GpuTiled, EveryTypeAndStride) {
  for (const DType x : {DType::bf16, DType::f16})
    for (const DType y : {DType::bf16, DType::f16, DType::f32})
      for (const Lie lie : {Lie::rows, Lie::columns, Lie::every_second})
        for (const bool backward : {false, true})
          check({{70, 50, 4, 32, Grouping::shuffled}, 3, x, y, backward, !backward, 2, 19, lie, y});
}

// Rows and results beyond one tile, and both sizes of tiles, whole and ragged.
TEST(GpuTiled, SeveralTiles) {
  for (const bool backward : {false, true}) {
    check({{136, 192, 4, 64}, 70, DType::bf16, DType::bf16, backward, false, 1});
    check({{200, 264, 3, 32, Grouping::irregular}, 270, DType::f16, DType::f16, backward});
  }
}

TEST(GpuTiled, WideTilesOfEveryType) {
  for (const DType dtype : {DType::bf16, DType::f16})
    for (const bool backward : {false, true})
      check({{72, 80, 4, 64, Grouping::shuffled}, 195, dtype, dtype, backward, false, 1, 17, Lie::rows, dtype});
}

// Factors of x's type are multiplied by the tensor cores: ranks that fill no step of these, and more than a stage holds; 16-byte pieces and
// not; v along its ranks and along its columns.
TEST(GpuTiled, FactorsInHalfPrecision) {
  for (const std::int64_t rank : {1, 7, 16, 20, 40, 64, 72, 130})
    for (const bool backward : {false, true})
      for (const Lie lie : {Lie::rows, Lie::columns}) {
        const DType dtype = (rank % 8 == 0) == backward ? DType::bf16 : DType::f16;
        check({{40, 48, 4, 16, Grouping::shuffled}, 70, dtype, DType::f32, backward, !backward, 2, rank, lie, dtype});
      }
}

TEST(GpuTiled, FewRowsWithManyTerms) {
  check({{150, 70, 4, 32, Grouping::shuffled}, 5, DType::bf16, DType::bf16, false, true, 9});
  check({{150, 70, 4, 32}, 32, DType::f16, DType::f16, false, true, 16});
}

// Long sums are cut, and the parts added up.
TEST(GpuTiled, PartsOfASum) {
  check({{1100, 40, 4, 128}, 2, DType::bf16, DType::bf16, false, true, 1});
  check({{40, 1100, 4, 32}, 2, DType::f16, DType::f32, true, false, 1});
}

// Which products are theirs, and which go to others.
TEST(GpuTiled, Chosen) {
  const auto weight = move_to(pack(layer({64, 64, 4, 32})), gpu);
  const auto chosen = [&](std::int64_t m, DType dtype, bool backward, int terms = 0) {
    const Tensor x = Tensor::empty({m, 64}, dtype, gpu), y = Tensor::empty({m, 64}, dtype, gpu);
    const View in = x.view(), out = y.view();
    const Tensor u = Tensor::empty({m, 1}, dtype, gpu), v = Tensor::empty({1, 64}, dtype, gpu);
    const std::vector<LowRank> shares(static_cast<std::size_t>(terms), {u.view(), v.view()});
    const Problem problem{*weight, backward, in, nullptr, out, shares};
    for (const Product& product : graft::cuda::products())
      if (product.supports(problem)) return std::string(product.name);
    return std::string();
  };
  const std::string first(tiled_products().front().name), dense = "dequantized pieces and cuBLASLt";
  for (const DType dtype : {DType::bf16, DType::f16}) {
    EXPECT_EQ(chosen(33, dtype, false), first);
    EXPECT_EQ(chosen(4095, dtype, false), first);
    EXPECT_EQ(chosen(4096, dtype, false), dense);
    EXPECT_EQ(chosen(1, dtype, true), first);
    EXPECT_EQ(chosen(4095, dtype, true), first);
    EXPECT_EQ(chosen(4096, dtype, true), dense);
    EXPECT_NE(chosen(32, dtype, false), first);
    EXPECT_EQ(chosen(32, dtype, false, 33), dense) << "more terms than a kernel's argument holds";
  }
  EXPECT_EQ(chosen(64, DType::bf16, true, 32), first);
  EXPECT_EQ(chosen(64, DType::bf16, true, 33), dense);
  for (const DType dtype : {DType::f32, DType::f64}) {
    EXPECT_EQ(chosen(64, dtype, false), dense);
    EXPECT_EQ(chosen(64, dtype, true), dense);
  }
}

}  // namespace
}  // namespace graft::quant::test
