#include "graft/autograd/compute.h"
#include "graft/autograd/ops.h"

namespace graft {
namespace {

// The mask is a function of (seed, stream), so backward draws it again instead of keeping it.
Tensor drop(const Tensor& x, double p, std::uint64_t seed, std::uint64_t stream) {
  Tensor mask = Tensor::empty(x.shape(), DType::boolean, x.device());
  kernel(x.device(), &Kernels::draw, "dropout")(Draw::bernoulli, seed, stream, mask.view(), 1 - p, 0);
  Tensor y;
  {
    NoGrad off;
    const Tensor zero = Tensor::scalar(0, x.dtype(), x.device());
    y = where(mask, p < 1 ? affine(x, 1 / (1 - p), 0) : x, zero);
  }
  return record("dropout", y).wrt(x, [p, seed, stream](const Tensor& dy) { return drop(dy, p, seed, stream); });
}

Tensor drawn(Draw kind, const Shape& shape, double p0, double p1, Generator& generator, DType dtype, Device device,
             const char* what) {
  check<TypeError>(is_floating(dtype), "{}: draws floating numbers, not {}", what, dtype);
  Tensor y = Tensor::empty(shape, dtype, device);
  kernel(device, &Kernels::draw, what)(kind, generator.seed, generator.next(), y.view(), p0, p1);
  return y;
}

}  // namespace

Tensor dropout(const Tensor& x, double p, Generator& generator) {
  compute::require_floating(x, "dropout");
  check(p >= 0 && p <= 1, "dropout: the probability is {}, not within 0 … 1", p);
  return p == 0 ? x : drop(x, p, generator.seed, generator.next());
}

Tensor uniform(const Shape& shape, double low, double high, Generator& generator, DType dtype, Device device) {
  check(low <= high, "uniform: the lower limit {} is not below the upper limit {}", low, high);
  return drawn(Draw::uniform, shape, low, high, generator, dtype, device, "uniform");
}

Tensor normal(const Shape& shape, double mean, double std, Generator& generator, DType dtype, Device device) {
  check(std >= 0, "normal: the standard deviation is {}", std);
  return drawn(Draw::normal, shape, mean, std, generator, dtype, device, "normal");
}

}  // namespace graft
