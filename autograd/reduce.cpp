#include <algorithm>
#include <numeric>

#include "graft/autograd/compute.h"
#include "graft/autograd/ops.h"
#include "graft/core/elementwise.h"

namespace graft {
namespace {

// The dimensions to reduce, wrapped: all of them when none is named.
std::vector<int> resolve(const Tensor& x, std::span<const int> dims, const char* what) {
  std::vector<int> wrapped(dims.begin(), dims.end());
  if (dims.empty()) {
    wrapped.resize(static_cast<std::size_t>(x.rank()));
    std::iota(wrapped.begin(), wrapped.end(), 0);
  }
  for (int& dim : wrapped) dim = wrap_dim(dim, x.rank(), what);
  std::sort(wrapped.begin(), wrapped.end());
  check(std::adjacent_find(wrapped.begin(), wrapped.end()) == wrapped.end(), "{}: a dimension is named twice", what);
  return wrapped;
}

// The shape of a result without the dimensions that were reduced.
Shape dropped(const Shape& kept, const std::vector<int>& dims) {
  Shape shape = kept;
  for (auto dim = dims.rbegin(); dim != dims.rend(); ++dim) shape.erase(*dim);
  return shape;
}

// A contiguous result under another shape, unrecorded.
Tensor shaped(const Tensor& y, const Shape& shape) { return y.alias(shape, contiguous_strides(shape), y.offset()); }

// Statistics of half types take the way through f32: there are sums and squares in them that a half cannot hold.
template <class F>
Tensor through_f32(const Tensor& x, F f) {
  return to(f(to(x, DType::f32)), x.dtype());
}

Tensor extreme(ReduceOp op, const Tensor& x, int dim, bool keepdim, const char* what) {
  const std::vector<int> dims{wrap_dim(dim, x.rank(), what)};
  const Tensor kept = compute::reduce(op, x, dims, what);
  const Shape keep = kept.shape();
  return record(what, keepdim ? kept : shaped(kept, dropped(keep, dims)))
      .wrt(x, [keep, dims, x = saved(x)](const Tensor& dy, const Tensor& y) {
        const Tensor ties = to(equal(x(), reshape(y, keep)), dy.dtype());
        return mul(ties, div(reshape(dy, keep), sum(ties, dims, true)));
      });
}

}  // namespace

Tensor sum(const Tensor& x, std::span<const int> dims, bool keepdim) {
  const std::vector<int> over = resolve(x, dims, "sum");
  const Tensor kept = compute::reduce(ReduceOp::sum, x, over, "sum");
  const Shape keep = kept.shape();
  return record("sum", keepdim ? kept : shaped(kept, dropped(keep, over))).wrt(x, [keep, from = x.shape()](const Tensor& dy) {
    return expand(reshape(dy, keep), from);
  });
}

Tensor mean(const Tensor& x, std::span<const int> dims, bool keepdim) {
  compute::require_floating(x, "mean");
  if (is_half(x.dtype())) return through_f32(x, [&](const Tensor& wide) { return mean(wide, dims, keepdim); });
  const Tensor total = sum(x, dims, keepdim);
  std::int64_t count = 1;
  for (int dim : resolve(x, dims, "mean")) count *= x.dim(dim);
  return affine(total, 1.0 / static_cast<double>(count), 0);
}

Tensor amax(const Tensor& x, int dim, bool keepdim) { return extreme(ReduceOp::max, x, dim, keepdim, "amax"); }
Tensor amin(const Tensor& x, int dim, bool keepdim) { return extreme(ReduceOp::min, x, dim, keepdim, "amin"); }

Tensor norm(const Tensor& x, std::span<const int> dims, bool keepdim) {
  compute::require_floating(x, "norm");
  if (is_half(x.dtype())) return through_f32(x, [&](const Tensor& wide) { return norm(wide, dims, keepdim); });
  const std::vector<int> over = resolve(x, dims, "norm");
  Shape keep = x.shape();
  for (int dim : over) keep[dim] = 1;
  Tensor y;
  {
    NoGrad off;
    y = sqrt(sum(mul(x, x), over, keepdim));
  }
  return record("norm", y).wrt(x, [keep, x = saved(x)](const Tensor& dy, const Tensor& y) {
    const Tensor zero = Tensor::scalar(0, y.dtype(), y.device());
    const Tensor divisor = where(equal(y, zero), Tensor::scalar(1, y.dtype(), y.device()), y);
    return mul(x(), reshape(div(dy, divisor), keep));
  });
}

Tensor logsumexp(const Tensor& x, int dim, bool keepdim) {
  compute::require_floating(x, "logsumexp");
  if (is_half(x.dtype())) return through_f32(x, [&](const Tensor& wide) { return logsumexp(wide, dim, keepdim); });
  const std::vector<int> dims{wrap_dim(dim, x.rank(), "logsumexp")};
  Tensor y;
  {
    NoGrad off;
    const Tensor top = amax(x, dim, true);
    // An infinite maximum is the answer by itself; taking it from x would make NaN.
    const Tensor finite = equal(sub(top, top), Tensor::scalar(0, x.dtype(), x.device()));
    const Tensor shift = where(finite, top, Tensor::scalar(0, x.dtype(), x.device()));
    y = add(log(sum(exp(sub(x, shift)), dims, true)), shift);
  }
  const Shape keep = y.shape();
  return record("logsumexp", keepdim ? y : shaped(y, dropped(keep, dims)))
      .wrt(x, [keep, x = saved(x)](const Tensor& dy, const Tensor& y) {
        return mul(reshape(dy, keep), exp(sub(x(), reshape(y, keep))));
      });
}

Tensor argmax(const Tensor& x) {
  compute::require_rank(x, 1, "argmax");
  check(x.dim(-1) > 0, "argmax: the last dimension of shape {} has no elements", x.shape());
  Tensor index = Tensor::empty(compute::leading(x.shape(), 1), DType::i64, x.device());
  kernel(x.device(), &Kernels::argmax, "argmax")(x.view(), index.view());
  return index;
}

bool all_finite(const Tensor& x) {
  if (!is_floating(x.dtype()) || x.count() == 0) return true;
  const Tensor nonfinite = compute::unary(UnaryOp::nonfinite, x, "all_finite");
  return compute::reduce(ReduceOp::max, nonfinite, resolve(x, {}, "all_finite"), "all_finite").item() == 0;
}

}  // namespace graft
