// f32 products on a GPU with tf32 allowed: how far they may then be from the exact ones, and what is as before.
#include "graft/core/tf32.h"

#include <gtest/gtest.h>

#include <cmath>

#include "graft/autograd/checkpoint.h"
#include "graft/autograd/ops.h"
#include "graft/tests/adapters/layers.h"
#include "graft/tests/cuda/device_tensors.h"

namespace graft::test {
namespace {

/// What f gives without tf32, with it, and without it again.
struct Runs {
  std::vector<double> before, allowed, after;
  template <class F>
  explicit Runs(F&& f) {
    before = f().template to_vector<double>();
    {
      const tf32::Guard on;
      allowed = f().template to_vector<double>();
    }
    after = f().template to_vector<double>();
  }
};

/// y = a b is within what operands of 10 bits and f32 sums allow.
void expect_tf32(const std::vector<double>& y, const Tensor& a, const Tensor& b) {
  const std::int64_t rows = a.dim(0), depth = a.dim(1), columns = b.dim(1);
  const auto left = a.to_vector<double>(), right = b.to_vector<double>();
  const double relative = 2 * 0x1p-10 + 0x1p-20 + static_cast<double>(depth) * 0x1p-23;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j) {
      double exact = 0, size = 0;
      for (std::int64_t p = 0; p < depth; ++p) {
        const double product = left[static_cast<std::size_t>(i * depth + p)] * right[static_cast<std::size_t>(p * columns + j)];
        exact += product, size += std::abs(product);
      }
      ASSERT_NEAR(y[static_cast<std::size_t>(i * columns + j)], exact, relative * size) << i << " " << j;
    }
}

TEST(GpuTf32, RoundsTheOperandsOfF32WhereItIsAllowed) {
  const Tensor a = numbers({21, 130}, 1, DType::f32), b = numbers({130, 35}, 2, DType::f32), x = on(a, gpu), w = on(b, gpu);
  const Tensor columns = on(b.t().contiguous(), gpu).t();  // the same matrix by columns
  for (const Tensor& right : {w, columns}) {
    const Runs y([&] { return matmul(x, right); });
    EXPECT_EQ(y.before, y.after);
    EXPECT_NE(y.before, y.allowed);
    expect_tf32(y.allowed, a, b);
  }
  // With one that becomes f32, too.
  const Tensor half = numbers({130, 35}, 2, DType::bf16), moved = on(half, gpu);
  const Runs mixed([&] {
    const Tensor y = Tensor::empty({21, 35}, DType::f32, gpu);
    runtime(gpu).kernels().matmul(x.view(), moved.view(), y.view());
    return y;
  });
  EXPECT_NE(mixed.before, mixed.allowed);
  expect_tf32(mixed.allowed, a, half);
}

TEST(GpuTf32, GradientsRoundWhereBackwardIsCalled) {
  const Tensor a = numbers({40, 70}, 1, DType::f32), b = numbers({90, 70}, 2, DType::f32), dy = numbers({40, 90}, 3, DType::f32);
  const auto dx = [&](bool forward, bool backward) {
    Tensor x = on(a, gpu), y;
    x.set_requires_grad();
    {
      const tf32::Guard guard(forward);
      y = linear(x, on(b, gpu));
    }
    const tf32::Guard guard(backward);
    y.backward(on(dy, gpu));
    return x.grad().to_vector<double>();
  };
  EXPECT_EQ(dx(true, false), dx(false, false));
  EXPECT_EQ(dx(false, true), dx(true, true));
  EXPECT_NE(dx(false, true), dx(false, false));
  expect_tf32(dx(false, true), dy, b);
}

// Numbers that tf32 holds are not rounded, and their sums are f32.
TEST(GpuTf32, SumsAreF32) {
  Tensor a = Tensor::empty({5, 64}, DType::f32), b = Tensor::empty({64, 7}, DType::f32);
  for (std::int64_t i = 0; i < a.count(); ++i) a.data<float>()[i] = static_cast<float>((i * 37) % 1024 - 512);
  for (std::int64_t i = 0; i < b.count(); ++i) b.data<float>()[i] = static_cast<float>((i * 53) % 256 - 128);
  const Runs y([&] { return matmul(on(a, gpu), on(b, gpu)); });
  EXPECT_EQ(y.before, y.allowed);
}

TEST(GpuTf32, OtherProductsAreAsBefore) {
  for (const DType dtype : {DType::f64, DType::bf16, DType::f16}) {
    const Tensor a = on(numbers({9, 40}, 1, dtype), gpu), b = on(numbers({40, 17}, 2, dtype), gpu);
    const Runs y([&] { return matmul(a, b); });
    EXPECT_EQ(y.before, y.allowed) << name(dtype);
  }
  // Packed weights, forward and backward, with f32 activations.
  const auto layer = make_base("gptq", 128, 64, true);
  const Tensor data = on(numbers({3, 128}, 3, DType::f32), gpu), dy = on(numbers({3, 64}, 4, DType::f32), gpu);
  const Runs packed([&] {
    Tensor x = data.detach();
    x.set_requires_grad();
    const Tensor y = layer->forward(x);
    y.backward(dy);
    return concat(std::vector{y.detach(), x.grad()}, 1);
  });
  EXPECT_EQ(packed.before, packed.allowed);
  // The gradients of an adapter's factor, by the kernel that reads dy once.
  const Tensor wide = on(numbers({20, 200}, 5, DType::f32), gpu), narrow = on(numbers({20, 8}, 6, DType::f32), gpu),
               factor = on(numbers({200, 8}, 7, DType::f32), gpu);
  const Runs gradients([&] {
    const Tensor dx = Tensor::empty({20, 8}, DType::f32, gpu), dweight = Tensor::empty({200, 8}, DType::f32, gpu);
    runtime(gpu).kernels().linear_backward(wide.view(), narrow.view(), factor.view(), dx.view(), dweight.view());
    return concat(std::vector{dx, dweight}, 0);
  });
  EXPECT_EQ(gradients.before, gradients.allowed);
}

// What is computed again is what was computed.
TEST(GpuTf32, CheckpointsComputeAgainAsTheyDid) {
  const Tensor data = on(numbers({8, 50}, 1, DType::f32), gpu), weight = on(numbers({50, 50}, 2, DType::f32), gpu);
  std::vector<std::vector<double>> seen;
  Tensor x = data.detach(), y;
  x.set_requires_grad();
  const auto f = [&](std::span<const Tensor> inputs) {
    const Tensor product = matmul(inputs[0], weight);
    seen.push_back(product.to_vector<double>());
    return product * product;
  };
  {
    const tf32::Guard on;
    y = checkpoint(f, {&x, 1});
  }
  sum(y).backward();
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0], seen[1]);
  EXPECT_NE(seen[0], matmul(data, weight).to_vector<double>());
}

}  // namespace
}  // namespace graft::test
