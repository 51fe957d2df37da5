// The net holds under the gradients that share one reading: their kernel's own text with one fault each.
#include "graft/core/kernels.h"
#include "graft/core/tensor.h"

#include "interpreter.h"
#include "ptx/support/snippets.h"

namespace graft::test {
namespace {

/// What is said about the gradients of both factors of an adapter of rank 8 once `from` is `to` in the kernel's text.
void expect_fault(std::string_view from, std::string_view to, std::initializer_list<std::string> parts) {
  constexpr Device gpu{Device::Type::cuda, 0};
  const auto ones = [](const Shape& shape) { return Tensor::full(shape, 1, DType::bf16, gpu); };
  const Tensor wide = ones({20, 200}), narrow = ones({20, 8}), B = ones({200, 8}), dnarrow = ones({20, 8}), dB = ones({200, 8}),
               dA = ones({8, 200});
  const auto gradients = runtime(gpu).kernels().linear_backward;
  const cuda::Edited edited("narrow", from, to);
  const ptx::Fault of_B =
      ptx::fault_of([&] { gradients(wide.view(), narrow.view(), B.view(), dnarrow.view(), dB.view()); }, parts);
  const ptx::Fault of_A = ptx::fault_of([&] { gradients(narrow.view(), wide.view(), {}, {}, dA.view()); }, parts);
  EXPECT_EQ(of_B.kernel, "narrow_products_bf16_16");
  EXPECT_EQ(of_A.kernel, "narrow_products_bf16_16");
}

TEST(NarrowFaults, ATileThatWasNotWaitedFor) {
  expect_fault("cp.async.wait_group 1;", "cp.async.wait_group 2;", {"the destination of a cp.async", "that was not waited for"});
}

TEST(NarrowFaults, WhatOtherThreadsCopied) { expect_fault("bar.sync", "// ", {"byte", "of shared memory"}); }

}  // namespace
}  // namespace graft::test
