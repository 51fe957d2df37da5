#include <cmath>

#include "graft/autograd/compute.h"
#include "graft/autograd/ops.h"

namespace graft {
namespace {

constexpr int last[] = {-1};

Tensor softmax_gradient(const Tensor& y, const Tensor& dy, bool log) {
  if (grad_enabled()) {
    if (log) return sub(dy, mul(exp(y), sum(dy, last, true)));
    const Tensor weighted = mul(dy, y);
    return sub(weighted, mul(y, sum(weighted, last, true)));
  }
  Tensor dx = Tensor::empty(y.shape(), y.dtype(), y.device());
  kernel(y.device(), &Kernels::softmax_backward, "softmax")(y.view(), dy.view(), dx.view(), log);
  return dx;
}

Tensor softmax(const Tensor& x, bool log, const char* what) {
  compute::require_floating(x, what);
  compute::require_rank(x, 1, what);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernel(x.device(), &Kernels::softmax, what)(x.view(), y.view(), log);
  return record(what, y).wrt(x, [log](const Tensor& dy, const Tensor& y) { return softmax_gradient(y, dy, log); });
}

// Rows of x, centred for layer_norm, over their root mean square; kept in f32 or wider.
struct Normalised {
  Tensor rows;   // [..., n]
  Tensor scale;  // [..., 1], the reciprocal root
};

Normalised normalise(const Tensor& x, double eps, bool centred) {
  Tensor rows = to(x, compute::wide(x.dtype()));
  if (centred) rows = sub(rows, mean(rows, last, true));
  const Tensor scale = rsqrt(mean(mul(rows, rows), last, true) + eps);
  return {mul(rows, scale), scale};
}

// The gradient of x from that of the normalised rows: what is left of it across the rows (and, if centred, across the ones).
Tensor normalise_gradient(const Normalised& n, const Tensor& drows, bool centred) {
  Tensor dx = sub(drows, mul(n.rows, mean(mul(drows, n.rows), last, true)));
  if (centred) dx = sub(dx, mean(drows, last, true));
  return mul(dx, n.scale);
}

void require_width(const Tensor& parameter, const Tensor& x, const char* what) {
  compute::require_same_device(x, parameter, what);
  compute::require_floating(parameter, what);
  check(parameter.shape() == Shape{x.dim(-1)}, "{}: a parameter of shape {} for rows of width {}", what, parameter.shape(),
        x.dim(-1));
}

void require_eps(double eps, const char* what) {
  check(eps >= 0 && std::isfinite(eps), "{}: eps = {}, and a number from 0 is wanted", what, eps);
}

}  // namespace

Tensor softmax(const Tensor& x) { return softmax(x, false, "softmax"); }
Tensor log_softmax(const Tensor& x) { return softmax(x, true, "log_softmax"); }

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  compute::require_floating(x, "rms_norm");
  compute::require_rank(x, 1, "rms_norm");
  require_width(weight, x, "rms_norm");
  require_eps(eps, "rms_norm");
  // The rows are rounded to x's own dtype before the product, which is then an ordinary one.
  if (weight.dtype() != x.dtype()) return mul(rms_norm(x, Tensor::ones(weight.shape(), x.dtype(), x.device()), eps), weight);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  Tensor rstd = Tensor::empty(compute::leading(x.shape(), 1), compute::wide(x.dtype()), x.device());
  kernel(x.device(), &Kernels::rms_norm, "rms_norm")(x.view(), weight.view(), eps, y.view(), rstd.view());
  const bool trains_x = x.requires_grad(), trains_weight = weight.requires_grad();
  return record("rms_norm", y).wrt({x, weight}, [=, x = saved(x), weight = saved(weight), rstd = saved(rstd)](const Tensor& dy) {
    if (grad_enabled()) {
      const Normalised n = normalise(x(), eps, false);
      const Tensor wide = to(dy, n.rows.dtype());
      return Gradients{normalise_gradient(n, mul(wide, weight()), false), mul(wide, n.rows)};
    }
    Tensor dx, dweight;
    if (trains_x) dx = Tensor::empty(dy.shape(), dy.dtype(), dy.device());
    if (trains_weight) dweight = Tensor::empty(weight().shape(), dy.dtype(), dy.device());
    kernel(dy.device(), &Kernels::rms_norm_backward, "rms_norm")(x().view(), weight().view(), rstd().view(), dy.view(),
                                                                 trains_x ? dx.view() : View(),
                                                                 trains_weight ? dweight.view() : View());
    return Gradients{dx, dweight};
  });
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  compute::require_floating(x, "layer_norm");
  compute::require_rank(x, 1, "layer_norm");
  if (weight.defined()) require_width(weight, x, "layer_norm");
  if (bias.defined()) require_width(bias, x, "layer_norm");
  require_eps(eps, "layer_norm");
  Tensor y;
  {
    NoGrad off;
    y = normalise(x, eps, true).rows;
    if (weight.defined()) y = mul(y, weight);
    if (bias.defined()) y = add(y, bias);
    y = to(y, x.dtype());
  }
  return record("layer_norm", y)
      .wrt(x,
           [eps, x = saved(x), weight = saved(weight)](const Tensor& dy) {
             const Normalised n = normalise(x(), eps, true);
             const Tensor wide = to(dy, n.rows.dtype());
             return normalise_gradient(n, weight().defined() ? mul(wide, weight()) : wide, true);
           })
      .wrt(weight, [eps, x = saved(x)](const Tensor& dy) { return mul(dy, normalise(x(), eps, true).rows); })
      .wrt(bias, [](const Tensor& dy) { return dy; });
}

}  // namespace graft
