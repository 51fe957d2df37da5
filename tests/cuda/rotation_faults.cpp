// The net holds under the rotation: its kernels' own text with one fault each.
#include "graft/core/tensor.h"
#include "graft/quant/kernels.h"
#include "graft/quant/pack.h"
#include "graft/tests/cuda/device_tensors.h"
#include "graft/tests/quant/random_layer.h"

#include "faults.h"

namespace graft::test {
namespace {

TEST(RotationFaults, WhatOtherThreadsCollected) {
  using namespace quant::test;
  const auto weight = quant::move_to(quant::pack(layer({256, 24, 4, 32, Grouping::shuffled})), gpu);
  const auto ones = [](const Shape& shape, DType dtype) { return Tensor::full(shape, 1, dtype, gpu); };
  const Tensor from = ones({40, 256}, DType::bf16), x = ones({40, 256}, DType::bf16), y = ones({40, 24}, DType::bf16),
               R = ones({32, 8, 8}, DType::f32);
  const quant::Rotated rotated{from.view(), R.view()};
  cuda::expect_fault("rotation", "rotate_bf16_by_f32_4", {{"bar.sync", "// "}}, {"byte", "of shared memory"},
                     [&] { quant::forward(*weight, x.view(), nullptr, y.view(), {}, quant::Compute::exact, &rotated); });
}

}  // namespace
}  // namespace graft::test
