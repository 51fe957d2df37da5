// The net holds under the product of few rows: its own text with one fault each. Not for GPUs, which would say nothing.
#include "graft/core/tensor.h"
#include "graft/quant/kernels.h"
#include "graft/quant/pack.h"
#include "graft/tests/quant/random_layer.h"

#include "interpreter.h"
#include "ptx/support/snippets.h"

namespace graft::quant::test {
namespace {

/// What is said about a product in `bits` bits once `from` is `to` in the kernels' text.
void expect_fault(int bits, std::string_view from, std::string_view to, std::initializer_list<std::string> parts) {
  constexpr Device gpu{Device::Type::cuda, 0};
  const auto weight = move_to(pack(layer({300, 70, bits, 128})), gpu);
  const Tensor x = Tensor::full({3, 300}, 1, DType::bf16, gpu), y = Tensor::empty({3, 70}, DType::bf16, gpu);
  const graft::cuda::Edited edited("skinny", from, to);
  const ptx::Fault fault = ptx::fault_of([&] { forward(*weight, x.view(), nullptr, y.view()); }, parts);
  EXPECT_EQ(fault.kernel, fmt::format("skinny_bf16_{}_bits_8", bits));
}

TEST(SkinnyFaults, ABatchThatWasNotWaitedFor) {
  expect_fault(4, "cp.async.wait_group 3;", "cp.async.wait_group 4;",
               {"the destination of a cp.async", "that was not waited for"});
}

TEST(SkinnyFaults, WordsThatOtherLanesCopied) { expect_fault(3, "bar.warp.sync", "// ", {"race: reads byte"}); }

TEST(SkinnyFaults, XBeforeItIsStaged) { expect_fault(8, "bar.sync", "// ", {"reads byte", "of shared memory"}); }

}  // namespace
}  // namespace graft::quant::test
