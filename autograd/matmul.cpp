#include "graft/autograd/compute.h"
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"
#include "graft/core/elementwise.h"

namespace graft {

Tensor autocast::lower(const Tensor& x) {
  const auto lowered = dtype(x.device().type);
  return lowered && is_floating(x.dtype()) && x.dtype() != DType::f64 ? to(x, *lowered) : x;
}

namespace {

// An operand of a product in `dtype`. Kernels widen halves themselves: as they read them, or for a product of cuBLASLt in passing.
Tensor widened(const Tensor& x, DType dtype) { return dtype == DType::f64 ? to(x, dtype) : x; }

// Operands as the product takes them: lowered under autocast, and in f64 both or neither.
struct Operands {
  Tensor a, b;
  DType dtype;  // of the product
  Operands(const Tensor& x, const Tensor& y, const char* what) : a(autocast::lower(x)), b(autocast::lower(y)) {
    compute::require_floating(a, what);
    compute::require_floating(b, what);
    compute::require_same_device(a, b, what);
    dtype = promote(a.dtype(), b.dtype());
    a = widened(a, dtype);
    b = widened(b, dtype);
  }
};

// The unrecorded product [..., m, k] × [..., k, n] of checked operands, leading dimensions broadcast, rounded to `dtype`.
Tensor product(const Tensor& a, const Tensor& b, DType dtype, const char* what) {
  const Shape batch = broadcast(compute::leading(a.shape(), 2), compute::leading(b.shape(), 2), what);
  Tensor y = Tensor::empty(compute::joined(batch, {a.dim(-2), b.dim(-1)}), dtype, a.device());
  const View left = compute::broadcast_view(a, compute::joined(batch, {a.dim(-2), a.dim(-1)}));
  const View right = compute::broadcast_view(b, compute::joined(batch, {b.dim(-2), b.dim(-1)}));
  kernel(a.device(), &Kernels::matmul, what)(left, right, y.view());
  return y;
}

// All dimensions but the last as one.
Tensor folded(const Tensor& x) { return reshape(x, {compute::leading(x.shape(), 1).count(), x.dim(-1)}); }

/// The gradients of x weightᵀ, together: a device may read dy once for both. The weight's comes in the weight's own layout, not as the
/// transpose of a product. What only the gradient of a frozen operand needs is not kept.
struct LinearRule {
  bool wants_x, wants_weight;
  Saved x, weight;
  LinearRule(const Tensor& x, const Tensor& weight)
      : wants_x(x.requires_grad()),
        wants_weight(weight.requires_grad()),
        x(saved(wants_weight ? x : Tensor())),
        weight(saved(wants_x ? weight : Tensor())) {}

  Gradients operator()(const Tensor& dy) const {
    if (grad_enabled()) return {wants_x ? matmul(dy, weight()) : Tensor(), wants_weight ? matmul(dy.t(), x()) : Tensor()};
    const DType dtype = promote(dy.dtype(), (wants_x ? weight : x)().dtype());
    const auto operand = [&](const Saved& saved) { return saved().defined() ? widened(saved(), dtype) : Tensor(); };
    const Tensor wide = widened(dy, dtype), left = operand(x), right = operand(weight);
    Tensor dx, dweight;
    if (wants_x) dx = Tensor::empty({dy.dim(0), right.dim(1)}, dtype, dy.device());
    if (wants_weight) dweight = Tensor::empty({dy.dim(1), left.dim(1)}, dtype, dy.device());
    const auto view = [](const Tensor& t) { return t.defined() ? t.view() : View(); };
    kernel(dy.device(), &Kernels::linear_backward, "linear")(wide.view(), view(left), view(right), view(dx), view(dweight));
    return {dx, dweight};
  }
};

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  compute::require_rank(a, 2, "matmul");
  compute::require_rank(b, 2, "matmul");
  check(a.dim(-1) == b.dim(-2), "matmul: shapes {} and {} do not multiply", a.shape(), b.shape());
  const Operands in(a, b, "matmul");
  // Against one matrix all leading dimensions are rows, so that its gradient is one product, not a batch of them to sum.
  if (in.a.rank() > 2 && in.b.rank() == 2)
    return reshape(matmul(folded(in.a), in.b), compute::joined(compute::leading(a.shape(), 1), {b.dim(-1)}));
  // One matrix may meet a whole batch: it is widened once.
  const bool one = in.b.rank() == 2;
  const Tensor left = one ? in.a : to(in.a, in.dtype), right = one ? in.b : to(in.b, in.dtype);
  return record("matmul", product(left, right, in.dtype, "matmul"))
      .wrt(left, [b = saved(right)](const Tensor& dy) { return matmul(dy, b().t()); })
      .wrt(right, [a = saved(left)](const Tensor& dy) { return matmul(a().t(), dy); });
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  compute::require_rank(x, 1, "linear");
  check(weight.rank() == 2 && x.dim(-1) == weight.dim(1), "linear: an input of shape {} does not fit a weight of shape {}",
        x.shape(), weight.shape());
  check(!bias.defined() || bias.shape() == Shape{weight.dim(0)}, "linear: a bias of shape {} does not fit a weight of shape {}",
        bias.defined() ? bias.shape() : Shape(), weight.shape());
  const Operands in(x, weight, "linear");
  const Tensor rows = folded(in.a), shift = bias.defined() ? autocast::lower(bias) : bias;
  const DType dtype = shift.defined() ? promote(in.dtype, shift.dtype()) : in.dtype;
  // With a bias the sum is rounded once, not the product first.
  Tensor y = product(rows, in.b.detach().t(), shift.defined() ? compute::wide(in.dtype) : dtype, "linear");
  if (shift.defined()) y = compute::cast(compute::binary(BinaryOp::add, y, shift, "linear"), dtype);
  y = record("linear", y).wrt({rows, in.b}, LinearRule(rows, in.b)).wrt(shift, [](const Tensor& dy) { return dy; });
  return reshape(y, compute::joined(compute::leading(x.shape(), 1), {weight.dim(0)}));
}

}  // namespace graft
