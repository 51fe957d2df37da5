// Low-rank terms that join a rounded product, by every row of the GPU's list, and layers with them: the very tests of the CPU's.
#include "graft/cuda/products.h"
#include "graft/quant/pack.h"
#include "graft/tests/cuda/device_tensors.h"
#include "graft/tests/quant/fused_terms.h"
#include "graft/tests/quant/joined_terms.h"
#include "graft/tests/support/errors.h"

namespace graft::quant::test {
namespace {

using graft::test::gpu;
using graft::test::on;

int expect_rows(const Case& c, bool transposed, std::int64_t m, DType dtype) {
  SCOPED_TRACE(to_string(c));
  return expect_joined(*move_to(pack(layer(c)), gpu), transposed, m, dtype, graft::cuda::products(), rounded_terms(m));
}

TEST(GpuJoins, EveryWidthAndDirection) {
  for (const int bits : {2, 3, 4, 5, 8})
    for (const Grouping grouping : {Grouping::in_order, Grouping::shuffled})
      for (const bool transposed : {false, true}) {
        const DType dtype = (bits + transposed) % 2 ? DType::bf16 : DType::f16;
        EXPECT_GE(expect_rows({150, 70, bits, 32, grouping}, transposed, grouping == Grouping::shuffled ? 3 : 9, dtype), 2);
      }
}

// Slabs that several blocks share, tiles that do, and both sizes of tiles.
TEST(GpuJoins, RaggedShapes) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    expect_rows({600, 330, 4, 128}, false, 1, dtype);
    expect_rows({600, 330, 3, 128}, false, 32, dtype);
    for (const bool transposed : {false, true}) expect_rows({136, 192, 4, 64, Grouping::shuffled}, transposed, 195, dtype);
  }
}

// Ranks that fill no step of the tensor cores, and more than a stage holds, of all rows and of some; a term of f32 factors beside them.
TEST(GpuJoins, FactorsInHalfPrecision) {
  for (const DType dtype : {DType::bf16, DType::f16})
    for (const bool transposed : {false, true})
      for (const std::int64_t m : {40, 195}) {
        const std::vector<TermCase> cases = {{1, Join::added, 0, m, dtype},
                                             {7, Join::scaled, m / 3, m, dtype},
                                             {16, Join::rounded, 0, (m + 1) / 2, dtype},
                                             {3, Join::added, 2, m},
                                             {20, Join::rounded, m / 2, m - m / 4, dtype},
                                             {40, Join::scaled, m - 3, m, dtype},
                                             {72, Join::rounded, 0, m, dtype}};
        const auto weight = move_to(pack(layer({64, 136, 4, 32, transposed ? Grouping::shuffled : Grouping::in_order})), gpu);
        EXPECT_GE(expect_joined(*weight, transposed, m, dtype, graft::cuda::products(), cases), 2);
      }
}

// As many terms as a kernel's argument holds: every row has one of its own.
TEST(GpuJoins, ATermForEveryRow) {
  const auto weight = move_to(pack(layer({150, 300, 4, 32})), gpu);
  std::vector<TermCase> cases;
  for (std::int64_t row = 0; row < 32; ++row)
    cases.push_back({1 + row % 5, row % 2 ? Join::rounded : Join::scaled, row, row + 1});
  for (const std::int64_t m : {32, 40})
    EXPECT_GE(expect_joined(*weight, false, m, DType::bf16, graft::cuda::products(), cases), 2);
}

TEST(GpuJoins, SummedInSomeRows) {
  const std::vector<TermCase> cases = {{3, Join::summed, 0, 7}, {5, Join::summed, 2, 5}};
  EXPECT_EQ(expect_joined(*move_to(pack(layer({150, 70, 4, 32})), gpu), false, 7, DType::f32, graft::cuda::products(), cases), 1);
}

TEST(GpuJoins, LayersHaveTheBitsOfComposedOperations) {
  const QuantLinear layer({}, move_to(pack(test::layer({256, 70, 4, 64})), gpu), on(whole_numbers({70}, DType::f32, 7), gpu));
  for (const DType dtype : {DType::bf16, DType::f16})
    for (const Shape& leading : {Shape{1}, Shape{2, 9}, Shape{40}})
      for (int order = 0; order < 3; ++order) {
        const Adapters adapters(layer, leading, dtype, 3, order);
        expect_same_bits(adapters.run(layer.forward(adapters.x, adapters.terms)),
                         adapters.run(low_rank_sum(layer.forward(adapters.x), adapters.x, adapters.terms)),
                         fmt::format("{} {} order {}", dtype, leading, order));
      }
  expect_rows_fused(layer);
  expect_pools_fused(layer);
  expect_halves_fused(layer);
}

TEST(GpuJoins, FactorsLieWhereTheWeightDoes) {
  const QuantLinear layer({}, move_to(pack(test::layer({64, 32, 4, 32})), gpu));
  const Tensor x = on(whole_numbers({3, 64}, DType::bf16, 1), gpu), A = whole_numbers({2, 64}, DType::f32, 2),
               B = whole_numbers({32, 2}, DType::f32, 3);
  const LowRankTerm term{.A = A, .B = B, .rounding = Rounding::after_scale};
  graft::test::expect_error<ValueError>(
      [&] {
        layer.forward(x, {&term, 1});
      },
      "quantized linear: a low-rank factor is on cpu, the weight on cuda:0");
}

}  // namespace
}  // namespace graft::quant::test
