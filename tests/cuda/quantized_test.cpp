// Packed weights on a GPU: products in both directions and dense rows, against the CPU's.
#include <gtest/gtest.h>

#include <cmath>

#include "graft/quant/kernels.h"
#include "graft/quant/pack.h"
#include "graft/tests/cuda/device_tensors.h"
#include "graft/tests/quant/random_layer.h"

namespace graft::quant::test {
namespace {

using graft::test::gpu;
using graft::test::numbers;
using graft::test::on;

void expect_near(const Tensor& got, const Tensor& wanted, std::int64_t depth) {
  const DType dtype = wanted.dtype();
  // Sums of products up to two, in another order; a half weight is rounded once more on the GPU.
  const double tolerance = (dtype == DType::f64   ? 1e-13
                            : dtype == DType::f32 ? 0x1p-22
                            : dtype == DType::f16 ? 0x1p-10
                                                  : 0x1p-7) *
                           static_cast<double>(depth);
  const auto x = got.to_vector<double>(), y = wanted.to_vector<double>();
  double worst = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double error = std::abs(x[i] - y[i]);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  EXPECT_LE(worst, tolerance) << name(dtype);
}

struct Operands {
  Tensor x, dy, bias, u, v;
  Operands(const Case& c, std::int64_t m, DType dtype)
      : x(numbers({m, c.in}, 1, dtype)),
        dy(numbers({m, c.out}, 2, dtype)),
        bias(numbers({c.out}, 3, DType::f32)),
        u(numbers({m, 3}, 4, dtype)),
        v(numbers({3, c.out}, 5, dtype)) {}

  /// x W, plain and with everything that may be added.
  Tensor forward(const Packed& weight, bool bare) const {
    const Device device = weight.device();
    const Tensor in = on(x, device), shift = on(bias, device), left = on(u, device), right = on(v, device);
    const Tensor y = Tensor::empty({x.dim(0), weight.out}, x.dtype(), device);
    const View added = shift.view();
    const LowRank terms[] = {{left.view(), right.view()}};
    if (bare) quant::forward(weight, in.view(), nullptr, y.view());
    else quant::forward(weight, in.view(), &added, y.view(), terms);
    return y;
  }
  Tensor backward(const Packed& weight) const {
    const Tensor in = on(dy, weight.device()), dx = Tensor::empty({x.dim(0), weight.in}, x.dtype(), weight.device());
    quant::backward(weight, in.view(), dx.view());
    return dx;
  }
};

TEST(GpuQuantized, EveryWidthAndGrouping) {
  for (const int bits : {2, 3, 4, 5, 8})
    for (const Grouping grouping : {Grouping::in_order, Grouping::shuffled, Grouping::irregular})
      for (const bool affine : {false, true}) {
        const Case c{150, 70, bits, 32, grouping, affine};
        SCOPED_TRACE(to_string(c));
        const auto here = pack(layer(c)), there = move_to(here, gpu);
        EXPECT_EQ(there->device(), gpu);
        for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
          const Operands operands(c, 5, dtype);
          for (const bool bare : {true, false}) expect_near(operands.forward(*there, bare), operands.forward(*here, bare), c.in);
          expect_near(operands.backward(*there), operands.backward(*here), c.out);
        }
      }
}

// Rows of the dense weight are exact on both devices, and a weight comes back as it went.
TEST(GpuQuantized, DenseRowsAndTheWayBack) {
  for (const int bits : {2, 3, 4, 7, 8}) {
    const Case c{100, 70, bits, 32, Grouping::shuffled};
    const auto here = pack(layer(c)), there = move_to(here, gpu), back = move_to(there, Device::cpu());
    std::vector<float> wanted(static_cast<std::size_t>(60 * c.in)), got(wanted.size()), again(wanted.size());
    dequantize(*here, 3, 63, wanted.data());
    dequantize(*there, 3, 63, got.data());
    dequantize(*back, 3, 63, again.data());
    EXPECT_EQ(got, wanted) << bits;
    EXPECT_EQ(again, wanted) << bits;
  }
}

}  // namespace
}  // namespace graft::quant::test
