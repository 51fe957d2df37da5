// The net holds under the gradients that share one reading: their kernel's own text with one fault each.
#include "graft/core/kernels.h"
#include "graft/core/tensor.h"

#include "interpreter.h"
#include "ptx/support/snippets.h"

namespace graft::test {
namespace {

/// What is said about the gradients of both factors of an adapter of rank 8, on activations in bf16, once `from` is `to` in the kernels' text.
void expect_fault(std::string_view from, std::string_view to, std::initializer_list<std::string> parts) {
  constexpr Device gpu{Device::Type::cuda, 0};
  const auto gradients = runtime(gpu).kernels().linear_backward;
  const cuda::Edited edited("narrow", from, to);
  for (const DType dtype : {DType::bf16, DType::f32}) {
    const auto ones = [&](const Shape& shape) { return Tensor::full(shape, 1, dtype, gpu); };
    const Tensor wide = Tensor::full({20, 200}, 1, DType::bf16, gpu), narrow = ones({20, 8}), B = ones({200, 8}),
                 dnarrow = ones({20, 8}), dB = ones({200, 8}), dA = ones({8, 200});
    const ptx::Fault of_B =
        ptx::fault_of([&] { gradients(wide.view(), narrow.view(), B.view(), dnarrow.view(), dB.view()); }, parts);
    const ptx::Fault of_A = ptx::fault_of([&] { gradients(narrow.view(), wide.view(), {}, {}, dA.view()); }, parts);
    const std::string kernel = fmt::format("narrow_products_bf16_{}_16", dtype);
    EXPECT_EQ(of_B.kernel, kernel);
    EXPECT_EQ(of_A.kernel, kernel);
  }
}

TEST(NarrowFaults, ATileThatWasNotWaitedFor) {
  expect_fault("cp.async.wait_group 1;", "cp.async.wait_group 2;", {"the destination of a cp.async", "that was not waited for"});
}

TEST(NarrowFaults, WhatOtherThreadsCopied) { expect_fault("bar.sync", "// ", {"byte", "of shared memory"}); }

}  // namespace
}  // namespace graft::test
