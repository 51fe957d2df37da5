// The net holds under the products through tiles: the kernels' own text with one fault each.
#include <algorithm>
#include <cmath>

#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"
#include "graft/cuda/products.h"
#include "graft/quant/pack.h"
#include "graft/quant/quant_linear.h"
#include "graft/tests/cuda/device_tensors.h"
#include "graft/tests/quant/random_layer.h"

#include "faults.h"

namespace graft::quant::test {
namespace {

using graft::cuda::Edit;
using graft::test::gpu;
using graft::test::numbers;
using graft::test::on;

/// A kernel, and a small problem for it: of so many stages that places in shared memory are used again, and with a term for the end.
struct Tiles {
  const char *image, *kernel;
  void (*product)(const Problem& problem);
  bool backward = false;
  DType factors = DType::f32;

  std::vector<double> run() const {
    constexpr std::int64_t m = 5, summed = 380, results = 40;
    const std::int64_t rank = is_half(factors) ? 24 : 3;
    const auto weight = move_to(pack(backward ? layer({results, summed, 4, 32}) : layer({summed, results, 4, 32})), gpu);
    const Tensor x = on(numbers({m, summed}, 1, DType::bf16), gpu), y = Tensor::zeros({m, results}, DType::bf16, gpu),
                 u = on(numbers({m, rank}, 2, factors), gpu), v = on(numbers({rank, results}, 3, factors), gpu);
    const View in = x.view(), out = y.view();
    const std::vector<LowRank> terms{{u.view(), v.view()}};
    product(Problem{*weight, backward, in, nullptr, out, terms});
    return y.to_vector<double>();
  }
};
constexpr Tiles mma{"tiled", "tiled_forward_bf16_64", graft::cuda::tiled_product_sm80};
constexpr Tiles mma_backward{"tiled", "tiled_backward_bf16_64", graft::cuda::tiled_product_sm80, true};
constexpr Tiles wgmma{"tiled_sm90a", "tiled_forward_bf16_64_sm90a", graft::cuda::tiled_product_sm90a};
constexpr Tiles mma_halves{"tiled", "tiled_forward_bf16_64", graft::cuda::tiled_product_sm80, false, DType::bf16};
constexpr Tiles wgmma_halves{"tiled_sm90a", "tiled_forward_bf16_64_sm90a", graft::cuda::tiled_product_sm90a, false, DType::bf16};

void expect_fault(const Tiles& tiles, const std::vector<Edit>& edits, std::initializer_list<std::string> parts) {
  graft::cuda::expect_fault(tiles.image, tiles.kernel, edits, parts, [&] { tiles.run(); });
}

/// For what breaks no rule of memory: the numbers are far from those of the kernel as it is.
void expect_wrong_numbers(const Tiles& tiles, const Edit& edit) {
  const auto wanted = tiles.run();
  const graft::cuda::Edited edited(tiles.image, tiles.kernel, {&edit, 1});
  const auto got = tiles.run();
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    worst = std::max(worst, std::abs(got[i] - wanted[i]));
    largest = std::max(largest, std::abs(wanted[i]));
  }
  EXPECT_GT(worst, largest / 8);
}

TEST(TiledFaults, AStageThatWasNotWaitedFor) {
  expect_fault(mma, {{"cp.async.wait_group 1;", "cp.async.wait_group 2;"}},
               {"the destination of a cp.async", "that was not waited for"});
  expect_fault(wgmma, {{"cp.async.wait_group 2;", "cp.async.wait_group 3;"}},
               {"the destination of a cp.async", "that was not waited for"});
}

TEST(TiledFaults, CodesThatOtherThreadsCopied) {
  expect_fault(mma, {{"bar.sync\\s+0;", "", Edit::first}}, {"race: reads byte", "wrote, and nothing orders the two"});
  expect_fault(wgmma, {{"bar.sync\\s+2, 128;", ""}}, {"race: reads byte", "wrote, and nothing orders the two"});
}

TEST(TiledFaults, WeightsThatOtherThreadsMade) {
  expect_fault(mma, {{"bar.sync\\s+0;", "", Edit::last}}, {"of shared memory, which nobody has written"});
}

TEST(TiledFaults, AStageOverwrittenTooEarly) {
  // The barrier stands behind the copies instead of before them.
  expect_fault(
      mma, {{"bar.sync\\s+0;", "", Edit::first}, {"cp.async.commit_group;", "cp.async.commit_group;\nbar.sync 0;", Edit::last}},
      {"race: writes byte", "reads, and nothing orders the two"});
  // The producers do not wait until a place is free.
  expect_fault(wgmma, {{"bra AGAIN;", "", Edit::last}}, {"race: writes byte", "which a wgmma of warp", "nothing orders the two"});
}

TEST(TiledFaults, TheOtherParity) {
  const auto other = [](Edit::Where where) {
    return Edit{"(mbarrier.try_wait.parity.shared::cta.b64 p, .*, )(%r\\d+);", ".reg .b32 q;\nxor.b32 q, $2, 1;\n$1q;", where};
  };
  expect_fault(wgmma, {other(Edit::first)}, {"of shared memory, which nobody has written"});
  expect_fault(wgmma, {other(Edit::last)}, {"the destination of a cp.async", "that was not waited for"});
}

TEST(TiledFaults, AMissingArrival) {
  expect_fault(wgmma, {{"mbarrier.arrive.*;", "", Edit::last}}, {"deadlock: no warp can go on"});
}

TEST(TiledFaults, AnArrivalBeforeTheWarp) {
  expect_fault(wgmma, {{"bar.warp.sync\\s+-1;", "", Edit::last}}, {"race: reads byte", "wrote, and nothing orders the two"});
}

TEST(TiledFaults, WeightsWithoutAProxyFence) {
  expect_fault(wgmma, {{"fence.proxy.async.shared::cta;", ""}},
               {"the async proxy reads byte", "without a fence.proxy.async between"});
}

TEST(TiledFaults, ProductsThatWereNotWaitedFor) {
  expect_fault(wgmma, {{"wgmma.wait_group.sync.aligned 1;", ""}}, {"race: writes byte", "which a wgmma of warp"});
  expect_fault(wgmma, {{"wgmma.wait_group.sync.aligned 0;", ""}},
               {"to which a wgmma accumulates whose group was not waited for"});
}

TEST(TiledFaults, SumsWithoutAFence) {
  expect_fault(wgmma, {{"wgmma.fence.sync.aligned;", ""}}, {"no wgmma.fence stands before this wgmma"});
}

TEST(TiledFaults, FactorsThatOtherThreadsCopied) {
  for (const Tiles& tiles : {mma, wgmma, mma_halves, wgmma_halves})
    expect_fault(tiles, {{"bar.sync\\s+1, .*;", ""}}, {"race: ", "and nothing orders the two"});
  for (const Tiles& tiles : {mma_halves, wgmma_halves})
    expect_fault(tiles, {{"cp.async.wait_all;", ""}}, {"the destination of a cp.async", "that was not waited for"});
}

/// Of a term's v in wgmma's kernel: the second matrices that mma.sync loads, behind u's.
const Edit of_v{"(ldmatrix[^;]*;[^;]*;[^;{]*ldmatrix\\S+ \\{)(%r\\d+), (%r\\d+)", "$1$3, $2", Edit::first};

TEST(TiledFaults, SwappedFragments) {
  const Edit swapped{"(ldmatrix\\S+ \\{)(%r\\d+), (%r\\d+)", "$1$3, $2", Edit::first};
  expect_wrong_numbers(mma, swapped);
  expect_wrong_numbers(mma_backward, swapped);
  expect_wrong_numbers(mma_backward, {"\\.trans", ""});
  expect_wrong_numbers(wgmma, {"1, 1, 1, 0, 0;", "1, 1, 1, 0, 1;", Edit::first});  // weights across instead of along
  // Of a term's v: the last matrices.
  expect_wrong_numbers(mma_halves, {"(ldmatrix\\S+ \\{)(%r\\d+), (%r\\d+)", "$1$3, $2", Edit::last});
  expect_wrong_numbers(wgmma_halves, of_v);
}

// The terms of a layer whose factors have x's type, or are lowered to it, are those that the fault is seen in.
TEST(TiledFaults, ALayersFactorsInHalfPrecision) {
  const QuantLinear layer({}, move_to(pack(test::layer({64, 32, 4, 32})), gpu));
  const Tensor x = on(numbers({40, 64}, 1, DType::bf16), gpu), A = on(numbers({24, 64}, 2, DType::f32), gpu),
               B = on(numbers({32, 24}, 3, DType::f32), gpu);
  const NoGrad no_grad;
  for (const bool lowered : {false, true}) {
    const LowRankTerm term{.A = lowered ? A : A.to(DType::bf16), .B = lowered ? B : B.to(DType::bf16)};
    const autocast::Guard guard(gpu.type, lowered ? std::optional(DType::bf16) : std::nullopt);
    const auto wanted = layer.forward(x, {&term, 1}).to_vector<float>();
    const graft::cuda::Edited edited(wgmma.image, wgmma.kernel, {&of_v, 1});
    EXPECT_NE(layer.forward(x, {&term, 1}).to_vector<float>(), wanted) << (lowered ? "under autocast" : "as they are");
  }
}

}  // namespace
}  // namespace graft::quant::test
