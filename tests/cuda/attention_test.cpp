// Attention with heads so wide that shared memory is what limits them.
#include "graft/cuda/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "graft/cuda/backend.h"
#include "graft/tests/cuda/device_tensors.h"
#include "graft/tests/support/errors.h"

namespace graft::test {
namespace {

/// Three queries and five keys of two heads, which share one head of keys.
struct WideHeads {
  WideHeads(std::int64_t width, DType dtype, Device device)
      : q(on(numbers({1, 2, 3, width}, 1, dtype), device)),
        k(on(numbers({1, 1, 5, width}, 2, dtype), device)),
        v(on(numbers({1, 1, 5, width}, 3, dtype), device)),
        dy(on(numbers({1, 2, 3, width}, 4, dtype), device)),
        y(Tensor::full(q.shape(), 7, dtype, device)),
        lse(Tensor::full({1, 2, 3}, 7, dtype, device)),
        dq(Tensor::full(q.shape(), 7, dtype, device)),
        dk(Tensor::full(k.shape(), 7, dtype, device)),
        dv(Tensor::full(v.shape(), 7, dtype, device)),
        kernels(runtime(device).kernels()) {
    shape.scale = 1 / std::sqrt(static_cast<double>(width));
  }
  void forward() const { kernels.attention(q.view(), k.view(), v.view(), shape, y.view(), lse.view()); }
  void backward() const {
    kernels.attention_backward(q.view(), k.view(), v.view(), shape, y.view(), lse.view(), dy.view(), dq.view(), dk.view(),
                               dv.view());
  }
  Tensor q, k, v, dy, y, lse, dq, dk, dv;
  const Kernels& kernels;
  AttentionShape shape;
};

void expect_near(const Tensor& got, const Tensor& wanted, double tolerance) {
  const auto a = got.to_vector<double>(), b = wanted.to_vector<double>();
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance) << i;
}

/// The widest heads of which a warp can keep `rows` rows.
std::int64_t widest(std::int64_t rows, DType dtype) {
  return static_cast<std::int64_t>(graft::cuda::properties().most_shared) /
         (graft::cuda::attention_warps * rows * size_of(dtype));
}

TEST(GpuAttention, TheWidestHeads) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    // Backward keeps four rows of a width, forward two.
    const WideHeads here(widest(4, dtype), dtype, Device::cpu()), there(widest(4, dtype), dtype, gpu);
    for (const WideHeads* each : {&here, &there}) each->forward(), each->backward();
    const double tolerance = dtype == DType::f64 ? 1e-12 : 1e-4;
    expect_near(there.y, here.y, tolerance);
    expect_near(there.lse, here.lse, tolerance);
    expect_near(there.dq, here.dq, tolerance);
    expect_near(there.dk, here.dk, tolerance);
    expect_near(there.dv, here.dv, tolerance);
  }
}

TEST(GpuAttention, WiderHeadsAreRefusedWithTheLimit) {
  const std::size_t most = graft::cuda::properties().most_shared;
  const auto words = [&](const char* what, std::int64_t width, std::int64_t rows, DType dtype) {
    return fmt::format("{}: heads of width {} and {} need {} bytes of shared memory, and {} are there", what, width, width,
                       graft::cuda::attention_warps * rows * width * size_of(dtype), most);
  };
  for (const DType dtype : {DType::f32, DType::f64}) {
    const std::int64_t width = widest(4, dtype) + 1;
    const WideHeads heads(width, dtype, gpu);
    heads.forward();
    expect_error<NotImplementedError>([&] { heads.backward(); }, words("attention_backward", width, 4, dtype));
    for (const Tensor* gradient : {&heads.dq, &heads.dk, &heads.dv})
      EXPECT_EQ(gradient->to_vector<double>(), std::vector<double>(static_cast<std::size_t>(gradient->count()), 7));
    const WideHeads wider(widest(2, dtype) + 1, dtype, gpu);
    expect_error<NotImplementedError>([&] { wider.forward(); }, words("attention", widest(2, dtype) + 1, 2, dtype));
  }
}

}  // namespace
}  // namespace graft::test
