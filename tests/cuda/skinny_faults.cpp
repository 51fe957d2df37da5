// The net holds under the product of few rows: its own text with one fault each.
#include "graft/quant/kernels.h"
#include "graft/quant/pack.h"
#include "graft/tests/cuda/device_tensors.h"
#include "graft/tests/quant/random_layer.h"

#include "faults.h"

namespace graft::quant::test {
namespace {

using graft::test::gpu;

/// What is said about a product in `bits` bits with one edit.
void expect_fault(int bits, const graft::cuda::Edit& edit, std::initializer_list<std::string> parts) {
  const auto weight = move_to(pack(layer({300, 70, bits, 128})), gpu);
  const Tensor x = Tensor::full({3, 300}, 1, DType::bf16, gpu), y = Tensor::empty({3, 70}, DType::bf16, gpu);
  graft::cuda::expect_fault("skinny", fmt::format("skinny_bf16_{}_bits_8", bits), {edit}, parts,
                            [&] { forward(*weight, x.view(), nullptr, y.view()); });
}

TEST(SkinnyFaults, ABatchThatWasNotWaitedFor) {
  expect_fault(4, {"cp.async.wait_group 3;", "cp.async.wait_group 4;"},
               {"the destination of a cp.async", "that was not waited for"});
}

TEST(SkinnyFaults, WordsThatOtherLanesCopied) { expect_fault(3, {"bar.warp.sync", "// "}, {"race: reads byte"}); }

TEST(SkinnyFaults, XBeforeItIsStaged) { expect_fault(8, {"bar.sync", "// "}, {"reads byte", "of shared memory"}); }

}  // namespace
}  // namespace graft::quant::test
