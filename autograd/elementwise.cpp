#include "graft/core/elementwise.h"

#include "graft/autograd/compute.h"
#include "graft/autograd/ops.h"

namespace graft {

using compute::require_floating;

// ---- two operands ----

Tensor add(const Tensor& a, const Tensor& b) {
  auto pass = [](const Tensor& dy) { return dy; };
  return record("add", compute::binary(BinaryOp::add, a, b, "add")).wrt(a, pass).wrt(b, pass);
}

Tensor sub(const Tensor& a, const Tensor& b) {
  return record("sub", compute::binary(BinaryOp::sub, a, b, "sub"))
      .wrt(a, [](const Tensor& dy) { return dy; })
      .wrt(b, [](const Tensor& dy) { return neg(dy); });
}

Tensor mul(const Tensor& a, const Tensor& b) {
  return record("mul", compute::binary(BinaryOp::mul, a, b, "mul"))
      .wrt(a, [b = saved(b)](const Tensor& dy) { return mul(dy, b()); })
      .wrt(b, [a = saved(a)](const Tensor& dy) { return mul(dy, a()); });
}

Tensor div(const Tensor& a, const Tensor& b) {
  check<TypeError>(is_floating(promote(a.dtype(), b.dtype())), "div: takes floating tensors, not {} and {}", a.dtype(),
                   b.dtype());
  return record("div", compute::binary(BinaryOp::div, a, b, "div"))
      .wrt(a, [b = saved(b)](const Tensor& dy) { return div(dy, b()); })
      .wrt(b, [b = saved(b)](const Tensor& dy, const Tensor& y) { return neg(div(mul(dy, y), b())); });
}

namespace {

// The part of dy that belongs to an operand of maximum or minimum: all where it won, half where both are equal. `lost` tells
// where it did not win alone, so that a NaN, which loses to nobody, passes its gradient on.
Tensor winners_share(const Tensor& dy, const Tensor& lost, const Tensor& tied) {
  const Tensor share = add(affine(to(lost, dy.dtype()), -1, 1), affine(to(tied, dy.dtype()), 0.5, 0));
  return mul(dy, share);
}

}  // namespace

Tensor maximum(const Tensor& a, const Tensor& b) {
  auto rule = [](const Tensor& self, const Tensor& other) {
    return [self = saved(self), other = saved(other)](const Tensor& dy) {
      return winners_share(dy, less_equal(self(), other()), equal(self(), other()));
    };
  };
  return record("maximum", compute::binary(BinaryOp::maximum, a, b, "maximum")).wrt(a, rule(a, b)).wrt(b, rule(b, a));
}

Tensor minimum(const Tensor& a, const Tensor& b) {
  auto rule = [](const Tensor& self, const Tensor& other) {
    return [self = saved(self), other = saved(other)](const Tensor& dy) {
      return winners_share(dy, less_equal(other(), self()), equal(self(), other()));
    };
  };
  return record("minimum", compute::binary(BinaryOp::minimum, a, b, "minimum")).wrt(a, rule(a, b)).wrt(b, rule(b, a));
}

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  check<TypeError>(condition.dtype() == DType::boolean, "where: the condition has elements of type bool, not {}",
                   condition.dtype());
  compute::require_same_device(condition, a, "where");
  compute::require_same_device(a, b, "where");
  const DType dtype = promote(a.dtype(), b.dtype());
  const Tensor x = compute::cast(a, dtype), w = compute::cast(b, dtype);
  Tensor y = Tensor::empty(broadcast(condition.shape(), broadcast(a.shape(), b.shape(), "where"), "where"), dtype, a.device());
  kernel(a.device(), &Kernels::select, "where")(compute::broadcast_view(condition, y.shape()),
                                                compute::broadcast_view(x, y.shape()), compute::broadcast_view(w, y.shape()),
                                                y.view());
  auto zero = [](const Tensor& dy) { return Tensor::scalar(0, dy.dtype(), dy.device()); };
  return record("where", y)
      .wrt(a, [zero, condition = saved(condition)](const Tensor& dy) { return where(condition(), dy, zero(dy)); })
      .wrt(b, [zero, condition = saved(condition)](const Tensor& dy) { return where(condition(), zero(dy), dy); });
}

Tensor equal(const Tensor& a, const Tensor& b) { return compute::binary(BinaryOp::equal, a, b, "equal"); }
Tensor less(const Tensor& a, const Tensor& b) { return compute::binary(BinaryOp::less, a, b, "less"); }
Tensor less_equal(const Tensor& a, const Tensor& b) { return compute::binary(BinaryOp::less_equal, a, b, "less_equal"); }

// ---- one operand ----

Tensor affine(const Tensor& x, double scale, double shift) {
  return record("affine", compute::unary(UnaryOp::affine, x, "affine", scale, shift)).wrt(x, [scale](const Tensor& dy) {
    return affine(dy, scale, 0);
  });
}

Tensor neg(const Tensor& x) { return affine(x, -1, 0); }

Tensor abs(const Tensor& x) {
  return record("abs", compute::unary(UnaryOp::abs, x, "abs")).wrt(x, [x = saved(x)](const Tensor& dy) {
    return mul(dy, compute::unary(UnaryOp::sign, x(), "abs"));
  });
}

Tensor exp(const Tensor& x) {
  require_floating(x, "exp");
  return record("exp", compute::unary(UnaryOp::exp, x, "exp")).wrt(x, [](const Tensor& dy, const Tensor& y) {
    return mul(dy, y);
  });
}

Tensor log(const Tensor& x) {
  require_floating(x, "log");
  return record("log", compute::unary(UnaryOp::log, x, "log")).wrt(x, [x = saved(x)](const Tensor& dy) { return div(dy, x()); });
}

Tensor sqrt(const Tensor& x) {
  require_floating(x, "sqrt");
  return record("sqrt", compute::unary(UnaryOp::sqrt, x, "sqrt")).wrt(x, [](const Tensor& dy, const Tensor& y) {
    return affine(div(dy, y), 0.5, 0);
  });
}

Tensor rsqrt(const Tensor& x) {
  require_floating(x, "rsqrt");
  return record("rsqrt", compute::unary(UnaryOp::rsqrt, x, "rsqrt")).wrt(x, [](const Tensor& dy, const Tensor& y) {
    return affine(mul(dy, mul(y, mul(y, y))), -0.5, 0);
  });
}

Tensor sin(const Tensor& x) {
  require_floating(x, "sin");
  return record("sin", compute::unary(UnaryOp::sin, x, "sin")).wrt(x, [x = saved(x)](const Tensor& dy) {
    return mul(dy, cos(x()));
  });
}

Tensor cos(const Tensor& x) {
  require_floating(x, "cos");
  return record("cos", compute::unary(UnaryOp::cos, x, "cos")).wrt(x, [x = saved(x)](const Tensor& dy) {
    return neg(mul(dy, sin(x())));
  });
}

Tensor tanh(const Tensor& x) {
  require_floating(x, "tanh");
  return record("tanh", compute::unary(UnaryOp::tanh, x, "tanh")).wrt(x, [](const Tensor& dy, const Tensor& y) {
    return mul(dy, affine(mul(y, y), -1, 1));
  });
}

Tensor sigmoid(const Tensor& x) {
  require_floating(x, "sigmoid");
  return record("sigmoid", compute::unary(UnaryOp::sigmoid, x, "sigmoid")).wrt(x, [](const Tensor& dy, const Tensor& y) {
    return mul(dy, mul(y, affine(y, -1, 1)));
  });
}

namespace {

// An activation whose first derivative is one fused kernel. That kernel is an operation of its own, linear in dy, so derivatives
// of any order follow from `second`, the activation's second derivative in public operations.
struct Activation {
  const char* name;
  UnaryOp value;
  BinaryOp gradient;
  Tensor (*second)(const Tensor& x);
};

Tensor gradient(const Activation& f, const Tensor& x, const Tensor& dy) {
  return record(f.name, compute::binary(f.gradient, x, dy, f.name))
      .wrt(dy, [&f, x = saved(x)](const Tensor& ddx) { return gradient(f, x(), ddx); })
      .wrt(x, [&f, x = saved(x), dy = saved(dy)](const Tensor& ddx) { return mul(mul(ddx, dy()), f.second(x())); });
}

Tensor apply(const Activation& f, const Tensor& x) {
  require_floating(x, f.name);
  return record(f.name, compute::unary(f.value, x, f.name)).wrt(x, [&f, x = saved(x)](const Tensor& dy) {
    return gradient(f, x(), dy);
  });
}

// s (1 − s) (2 + x (1 − 2 s)) with s = sigmoid(x)
Tensor silu_second(const Tensor& x) {
  const Tensor s = sigmoid(x);
  return s * (1 - s) * (x * (1 - 2 * s) + 2);
}

// φ(x) (2 − x²), φ the density of N(0, 1)
Tensor gelu_second(const Tensor& x) {
  const Tensor squared = x * x;
  return exp(squared * -0.5) * 0.39894228040143267794 * (2 - squared);
}

// With t = tanh(u), u = c (x + k x³):  (1 − t²) (u′ + x u″/2 − x t u′²)
Tensor gelu_tanh_second(const Tensor& x) {
  constexpr double c = 0.79788456080286535588, k = 0.044715;
  const Tensor squared = x * x;
  const Tensor t = tanh(x * (squared * k + 1) * c);
  const Tensor u1 = (squared * (3 * k) + 1) * c;
  return (1 - t * t) * (u1 + squared * (3 * k * c) - x * t * u1 * u1);
}

Tensor zero_second(const Tensor& x) { return Tensor::zeros({}, x.dtype(), x.device()); }

constexpr Activation silu_activation{"silu", UnaryOp::silu, BinaryOp::silu_grad, silu_second};
constexpr Activation gelu_activation{"gelu", UnaryOp::gelu, BinaryOp::gelu_grad, gelu_second};
constexpr Activation gelu_tanh_activation{"gelu_tanh", UnaryOp::gelu_tanh, BinaryOp::gelu_tanh_grad, gelu_tanh_second};
constexpr Activation relu_activation{"relu", UnaryOp::relu, BinaryOp::relu_grad, zero_second};

}  // namespace

Tensor silu(const Tensor& x) { return apply(silu_activation, x); }

Tensor silu_mul(const Tensor& gate, const Tensor& x) {
  require_floating(gate, "silu_mul");
  if (gate.shape() != x.shape() || gate.dtype() != x.dtype() || gate.device() != x.device()) return mul(silu(gate), x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const Kernels& kernels = runtime(x.device()).kernels();
  if (kernels.silu_mul) {
    kernels.silu_mul(gate.view(), x.view(), y.view());
  } else {
    kernel(x.device(), &Kernels::unary, "silu_mul")(UnaryOp::silu, gate.view(), y.view(), 0, 0);
    kernel(x.device(), &Kernels::binary, "silu_mul")(BinaryOp::mul, y.view(), x.view(), y.view());
  }
  return record("silu_mul", y).wrt({gate, x}, [&kernels, gate = saved(gate), x = saved(x)](const Tensor& dy) {
    if (grad_enabled() || !kernels.silu_mul_backward)
      return Gradients{gradient(silu_activation, gate(), mul(dy, x())), mul(dy, silu(gate()))};
    Tensor dgate = Tensor::empty(dy.shape(), dy.dtype(), dy.device()), dx = Tensor::empty(dy.shape(), dy.dtype(), dy.device());
    kernels.silu_mul_backward(gate().view(), x().view(), dy.view(), dgate.view(), dx.view());
    return Gradients{dgate, dx};
  });
}

Tensor gelu(const Tensor& x) { return apply(gelu_activation, x); }
Tensor gelu_tanh(const Tensor& x) { return apply(gelu_tanh_activation, x); }
Tensor relu(const Tensor& x) { return apply(relu_activation, x); }

Tensor pow(const Tensor& x, double exponent) {
  require_floating(x, "pow");
  return record("pow", compute::unary(UnaryOp::pow, x, "pow", exponent)).wrt(x, [exponent, x = saved(x)](const Tensor& dy) {
    // x⁰ is constant even at zero, where 0 · x⁻¹ would be NaN.
    if (exponent == 0) return Tensor::zeros(dy.shape(), dy.dtype(), dy.device());
    return affine(mul(dy, pow(x(), exponent - 1)), exponent, 0);
  });
}

Tensor clamp(const Tensor& x, double low, double high) {
  check(low <= high, "clamp: the lower limit {} is not below the upper limit {}", low, high);
  return record("clamp", compute::unary(UnaryOp::clamp, x, "clamp", low, high))
      .wrt(x, [x = saved(x)](const Tensor& dy, const Tensor& y) {
        return where(equal(x(), y), dy, Tensor::scalar(0, dy.dtype(), dy.device()));
      });
}

}  // namespace graft
