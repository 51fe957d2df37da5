// Elementwise mathematics, written once for both devices: one list of functors for one operand, one for two.
// `T` is double, float, or int64 for the operations that make sense on integers; narrower elements are widened first.
#pragma once

#include <cmath>
#include <limits>

#include "graft/core/kernels.h"

namespace graft {

// X(name, expression in x, p0, p1)
#define GRAFT_UNARY_OPS(X)                                                                               \
  X(affine, p0* x + p1)                                                                                  \
  X(abs, x < T(0) ? -x : x)                                                                              \
  X(sign, x > T(0) ? T(1) : (x < T(0) ? T(-1) : T(0)))                                                   \
  X(exp, M::exp(x))                                                                                      \
  X(log, M::log(x))                                                                                      \
  X(sqrt, M::sqrt(x))                                                                                    \
  X(rsqrt, T(1) / M::sqrt(x))                                                                            \
  X(sin, M::sin(x))                                                                                      \
  X(cos, M::cos(x))                                                                                      \
  X(tanh, M::tanh(x))                                                                                    \
  X(sigmoid, T(1) / (T(1) + M::exp(-x)))                                                                 \
  X(silu, x / (T(1) + M::exp(-x)))                                                                       \
  X(gelu, T(0.5) * x * (T(1) + M::erf(x * T(0.70710678118654752440))))                                   \
  X(gelu_tanh, T(0.5) * x * (T(1) + M::tanh(T(0.79788456080286535588) * (x + T(0.044715) * x * x * x)))) \
  X(relu, x > T(0) ? x : (x != x ? x : T(0)))                                                            \
  X(pow, M::pow(x, p0))                                                                                  \
  X(clamp, x < p0 ? p0 : (x > p1 ? p1 : x))                                                              \
  X(nonfinite, (x - x) == T(0) ? T(0) : T(1))

// X(name, expression in a, b). The *_grad functions are the fused first derivatives: a is the input, b the gradient of the result.
#define GRAFT_BINARY_OPS(X)                  \
  X(add, a + b)                              \
  X(sub, a - b)                              \
  X(mul, a* b)                               \
  X(div, a / b)                              \
  X(maximum, a > b || a != a ? a : b)        \
  X(minimum, a < b || a != a ? a : b)        \
  X(silu_grad, silu_grad<M>(a, b))           \
  X(gelu_grad, gelu_grad<M>(a, b))           \
  X(gelu_tanh_grad, gelu_tanh_grad<M>(a, b)) \
  X(relu_grad, a > T(0) ? b : T(0))

// X(name, expression in a, b), result bool, any dtype
#define GRAFT_COMPARISONS(X) \
  X(equal, a == b)           \
  X(less, a < b)             \
  X(less_equal, a <= b)

#define GRAFT_NAME(name, expression) name,
enum class UnaryOp : std::uint8_t { GRAFT_UNARY_OPS(GRAFT_NAME) };
enum class BinaryOp : std::uint8_t { GRAFT_BINARY_OPS(GRAFT_NAME) GRAFT_COMPARISONS(GRAFT_NAME) };
#undef GRAFT_NAME

#define GRAFT_SPELLING(name, expression) #name,
constexpr const char* name(UnaryOp op) {
  constexpr const char* names[] = {GRAFT_UNARY_OPS(GRAFT_SPELLING)};
  return names[static_cast<int>(op)];
}
constexpr const char* name(BinaryOp op) {
  constexpr const char* names[] = {GRAFT_BINARY_OPS(GRAFT_SPELLING) GRAFT_COMPARISONS(GRAFT_SPELLING)};
  return names[static_cast<int>(op)];
}
#undef GRAFT_SPELLING

constexpr bool is_comparison(BinaryOp op) { return op >= BinaryOp::equal; }

namespace elementwise {

/// Where M::exp and the other functions above come from; a unit with faster ones passes its own.
struct StandardMath {
  template <class T>
  static GRAFT_HD T exp(T x) {
    return std::exp(x);
  }
  template <class T>
  static GRAFT_HD T log(T x) {
    return std::log(x);
  }
  template <class T>
  static GRAFT_HD T sqrt(T x) {
    return std::sqrt(x);
  }
  template <class T>
  static GRAFT_HD T sin(T x) {
    return std::sin(x);
  }
  template <class T>
  static GRAFT_HD T cos(T x) {
    return std::cos(x);
  }
  template <class T>
  static GRAFT_HD T tanh(T x) {
    return std::tanh(x);
  }
  template <class T>
  static GRAFT_HD T erf(T x) {
    return std::erf(x);
  }
  template <class T>
  static GRAFT_HD T pow(T x, T y) {
    return std::pow(x, y);
  }
};

template <class M, class T>
GRAFT_HD T silu_grad(T x, T dy) {
  const T s = T(1) / (T(1) + M::exp(-x));
  return dy * s * (T(1) + x * (T(1) - s));
}

template <class M, class T>
GRAFT_HD T gelu_grad(T x, T dy) {
  const T cdf = T(0.5) * (T(1) + M::erf(x * T(0.70710678118654752440)));
  const T pdf = T(0.39894228040143267794) * M::exp(T(-0.5) * x * x);
  return dy * (cdf + x * pdf);
}

template <class M, class T>
GRAFT_HD T gelu_tanh_grad(T x, T dy) {
  const T c = T(0.79788456080286535588), k = T(0.044715);
  const T th = M::tanh(c * (x + k * x * x * x));
  return dy * (T(0.5) * (T(1) + th) + T(0.5) * x * (T(1) - th * th) * c * (T(1) + T(3) * k * x * x));
}

#define GRAFT_FUNCTOR(name, expression)                                          \
  struct name##_op {                                                             \
    template <class M = StandardMath, class T>                                   \
    static GRAFT_HD T apply(T x, [[maybe_unused]] T p0, [[maybe_unused]] T p1) { \
      return expression;                                                         \
    }                                                                            \
  };
GRAFT_UNARY_OPS(GRAFT_FUNCTOR)
#undef GRAFT_FUNCTOR

#define GRAFT_FUNCTOR(name, expression)        \
  struct name##_op {                           \
    template <class M = StandardMath, class T> \
    static GRAFT_HD T apply(T a, T b) {        \
      return expression;                       \
    }                                          \
  };
GRAFT_BINARY_OPS(GRAFT_FUNCTOR)
#undef GRAFT_FUNCTOR

#define GRAFT_FUNCTOR(name, expression)    \
  struct name##_op {                       \
    template <class T>                     \
    static GRAFT_HD bool apply(T a, T b) { \
      return expression;                   \
    }                                      \
  };
GRAFT_COMPARISONS(GRAFT_FUNCTOR)
#undef GRAFT_FUNCTOR

/// The operations that make sense on integers; the others refuse them.
template <class Op>
inline constexpr bool takes_integers = false;
#define GRAFT_TAKES_INTEGERS(name) \
  template <>                      \
  inline constexpr bool takes_integers<name##_op> = true;
GRAFT_TAKES_INTEGERS(affine)
GRAFT_TAKES_INTEGERS(abs)
GRAFT_TAKES_INTEGERS(sign)
GRAFT_TAKES_INTEGERS(relu)
GRAFT_TAKES_INTEGERS(clamp)
GRAFT_TAKES_INTEGERS(nonfinite)
GRAFT_TAKES_INTEGERS(add)
GRAFT_TAKES_INTEGERS(sub)
GRAFT_TAKES_INTEGERS(mul)
GRAFT_TAKES_INTEGERS(maximum)
GRAFT_TAKES_INTEGERS(minimum)
GRAFT_TAKES_INTEGERS(relu_grad)
#undef GRAFT_TAKES_INTEGERS

}  // namespace elementwise

/// Calls `f.template operator()<Functor>()` for the functor of a unary operation.
template <class F>
void with_unary(UnaryOp op, F&& f) {
  switch (op) {
#define GRAFT_CASE(name, expression) \
  case UnaryOp::name: return f.template operator()<elementwise::name##_op>();
    GRAFT_UNARY_OPS(GRAFT_CASE)
#undef GRAFT_CASE
  }
}

/// The same for the arithmetic (not comparing) operations of two operands.
template <class F>
void with_binary(BinaryOp op, F&& f) {
  switch (op) {
#define GRAFT_CASE(name, expression) \
  case BinaryOp::name: return f.template operator()<elementwise::name##_op>();
    GRAFT_BINARY_OPS(GRAFT_CASE)
#undef GRAFT_CASE
    default: return;
  }
}

/// The same for comparisons.
template <class F>
void with_comparison(BinaryOp op, F&& f) {
  switch (op) {
#define GRAFT_CASE(name, expression) \
  case BinaryOp::name: return f.template operator()<elementwise::name##_op>();
    GRAFT_COMPARISONS(GRAFT_CASE)
#undef GRAFT_CASE
    default: return;
  }
}

/// TypeError unless the operation takes elements of this type.
inline void check_takes(UnaryOp op, DType dtype) {
  with_unary(op, [&]<class Op>() {
    check<TypeError>(is_floating(dtype) || elementwise::takes_integers<Op>, "{}: needs floating elements, not {}", name(op),
                     dtype);
  });
}
inline void check_takes(BinaryOp op, DType dtype) {
  with_binary(op, [&]<class Op>() {
    check<TypeError>(is_floating(dtype) || elementwise::takes_integers<Op>, "{}: needs floating elements, not {}", name(op),
                     dtype);
  });
}

/// A parameter in the type that arithmetic on the elements happens in. For integers ±∞ saturates, and ValueError for a fraction.
template <class A>
A parameter(double p, UnaryOp op, DType dtype) {
  if constexpr (std::is_same_v<A, std::int64_t>) {
    if (p >= 0x1p63) return std::numeric_limits<std::int64_t>::max();
    if (p < -0x1p63) return std::numeric_limits<std::int64_t>::min();
    check(p == std::floor(p), "{}: {} is not an integer, and the elements are {}", name(op), p, dtype);
  }
  return static_cast<A>(p);
}

}  // namespace graft
