// The net holds under the gradients that share one reading: their kernel's own text with one fault each.
#include "graft/core/kernels.h"
#include "graft/core/tensor.h"
#include "graft/tests/cuda/device_tensors.h"

#include "faults.h"

namespace graft::test {
namespace {

/// What is said about the gradients of both factors of an adapter of rank 8, on activations in bf16, with one edit.
void expect_fault(const cuda::Edit& edit, std::initializer_list<std::string> parts) {
  const auto gradients = runtime(gpu).kernels().linear_backward;
  for (const DType dtype : {DType::bf16, DType::f32}) {
    const auto ones = [&](const Shape& shape) { return Tensor::full(shape, 1, dtype, gpu); };
    const Tensor wide = Tensor::full({20, 200}, 1, DType::bf16, gpu), narrow = ones({20, 8}), B = ones({200, 8}),
                 dnarrow = ones({20, 8}), dB = ones({200, 8}), dA = ones({8, 200});
    const auto expect = [&](auto&& f) {
      cuda::expect_fault("narrow", fmt::format("narrow_products_bf16_{}_16", dtype), {edit}, parts, f);
    };
    expect([&] { gradients(wide.view(), narrow.view(), B.view(), dnarrow.view(), dB.view()); });
    expect([&] { gradients(narrow.view(), wide.view(), {}, {}, dA.view()); });
  }
}

TEST(NarrowFaults, ATileThatWasNotWaitedFor) {
  expect_fault({"cp.async.wait_group 1;", "cp.async.wait_group 2;"},
               {"the destination of a cp.async", "that was not waited for"});
}

TEST(NarrowFaults, WhatOtherThreadsCopied) { expect_fault({"bar.sync", "// "}, {"byte", "of shared memory"}); }

}  // namespace
}  // namespace graft::test
