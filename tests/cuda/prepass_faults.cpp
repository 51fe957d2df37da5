// The net holds under the pre-pass: its kernels' own text with one fault each.
#include "graft/core/tensor.h"
#include "graft/quant/kernels.h"
#include "graft/quant/pack.h"
#include "graft/tests/cuda/device_tensors.h"
#include "graft/tests/quant/random_layer.h"

#include "faults.h"

namespace graft::test {
namespace {

/// What is said about a product of 40 rows, in the packed order and with a term that makes its u, with one edit.
void expect_fault(const cuda::Edit& edit, std::initializer_list<std::string> parts) {
  const auto ones = [](const Shape& shape, DType dtype) { return Tensor::full(shape, 1, dtype, gpu); };
  using namespace quant::test;
  const auto weight = quant::move_to(quant::pack(layer({200, 24, 4, 32, Grouping::shuffled})), gpu);
  const Tensor x = ones({40, 200}, DType::bf16), y = ones({40, 24}, DType::bf16), A = ones({5, 200}, DType::f32),
               u = ones({40, 5}, DType::f32), v = ones({5, 24}, DType::f32);
  const quant::LowRank term{.u = u.view(), .v = v.view(), .join = quant::Join::added, .A = A.view()};
  cuda::expect_fault("prepass", "prepass_bf16_4", {edit}, parts, [&] {
    quant::forward(*weight, x.view(), nullptr, y.view(), {&term, 1});
  });
}

TEST(PrepassFaults, RowsThatWereNotWaitedFor) {
  expect_fault({"cp.async.wait_group 0;", "cp.async.wait_group 1;"},
               {"the destination of a cp.async", "that was not waited for"});
}

TEST(PrepassFaults, WhatOtherThreadsCopied) { expect_fault({"bar.sync", "// "}, {"byte", "of shared memory"}); }

}  // namespace
}  // namespace graft::test
