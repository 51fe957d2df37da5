// Floating arithmetic. Each operation gives its result rounded to the type itself where that is the host's own, and otherwise as a
// double "rounded to odd", which a second rounding to at most 51 bits turns into the right result in every direction.
#include "floats.h"

#include <cmath>
#include <limits>

#include "lanewise.h"

namespace graft::ptx {
namespace {

/// value, of which `rest` (smaller than its last bit) is missing: the neighbour towards it with an odd last bit, unless it has one.
double to_odd(double value, double rest) {
  if (rest == 0 || !std::isfinite(value) || std::bit_cast<std::uint64_t>(value) & 1) return value;
  return std::nextafter(value, rest > 0 ? HUGE_VAL : -HUGE_VAL);
}

double odd_sum(double a, double b) {
  const double sum = a + b;
  if (!std::isfinite(sum)) return sum;
  const double part = sum - a;
  return to_odd(sum, (a - (sum - part)) + (b - part));
}

struct AddOp {
  template <class T>
  static T native(T a, T b) {
    return a + b;
  }
  static double odd(double a, double b) { return odd_sum(a, b); }
};
struct SubOp {
  template <class T>
  static T native(T a, T b) {
    return a - b;
  }
  static double odd(double a, double b) { return odd_sum(a, -b); }
};
struct MulOp {
  template <class T>
  static T native(T a, T b) {
    return a * b;
  }
  static double odd(double a, double b) { return a * b; }  // exact: at most 48 bits
};
struct FmaOp {
  template <class T>
  static T native(T a, T b, T c) {
    return std::fma(a, b, c);
  }
  static double odd(double a, double b, double c) { return odd_sum(a * b, c); }
};
struct DivOp {
  template <class T>
  static T native(T a, T b) {
    return a / b;
  }
  static double odd(double a, double b) {
    const double q = a / b;
    if (!std::isfinite(q) || b == 0 || std::isinf(b)) return q;
    const double rest = std::fma(-q, b, a);
    return to_odd(q, std::signbit(b) ? -rest : rest);
  }
};
struct RcpOp {
  template <class T>
  static T native(T a) {
    return T(1) / a;
  }
  static double odd(double a) { return DivOp::odd(1, a); }
};
struct SqrtOp {
  template <class T>
  static T native(T a) {
    return std::sqrt(a);
  }
  static double odd(double a) {
    const double root = std::sqrt(a);
    return std::isfinite(root) ? to_odd(root, std::fma(-root, root, a)) : root;
  }
};
template <double (*f)(double)>
struct UnaryOp {
  template <class T>
  static T native(T a) {
    return T(f(double(a)));
  }
  static double odd(double a) { return f(a); }
};
double rsqrt(double a) { return 1 / std::sqrt(a); }
using RsqrtOp = UnaryOp<rsqrt>;
using Ex2Op = UnaryOp<std::exp2>;
using Lg2Op = UnaryOp<std::log2>;
using SinOp = UnaryOp<std::sin>;
using CosOp = UnaryOp<std::cos>;
using TanhOp = UnaryOp<std::tanh>;
/// A number where the other is NaN; -0 below +0.
struct MinOp {
  template <class T>
  static T native(T a, T b) {
    return std::isnan(a) ? b : std::isnan(b) ? a : a < b || (a == b && std::signbit(a)) ? a : b;
  }
  static double odd(double a, double b) { return native(a, b); }
};
struct MaxOp {
  template <class T>
  static T native(T a, T b) {
    return std::isnan(a) ? b : std::isnan(b) ? a : a > b || (a == b && !std::signbit(a)) ? a : b;
  }
  static double odd(double a, double b) { return native(a, b); }
};
template <class Op>
struct OrNan {
  template <class T>
  static T native(T a, T b) {
    return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : Op::native(a, b);
  }
  static double odd(double a, double b) { return native(a, b); }
};

enum Mode : std::uint8_t { relu = 1 };

float flush(const Instruction& i, float value) {
  return i.ftz && std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}

template <class T>
T limit(const Instruction& i, T value) {
  if (i.saturate) return std::isnan(value) ? T(0) : value < 0 ? T(0) : value > 1 ? T(1) : value + 0;
  if (i.mode & relu && value < 0) return T(0);
  return value;
}

template <class Op, class... T>
std::uint64_t apply(const Instruction& i, float a, T... rest) {
  float result = 0;
  if (i.rounding == Rounding::nearest) result = Op::native(flush(i, a), flush(i, rest)...);
  else result = std::bit_cast<float>(encode(float_format, Op::odd(double(flush(i, a)), double(flush(i, rest))...), i.rounding));
  if (std::isnan(result) && !i.saturate) return 0x7fffffff;
  return pack(limit(i, flush(i, result)));
}
template <class Op, class... T>
std::uint64_t apply(const Instruction& i, double a, T... rest) {
  return pack(limit(i, Op::native(a, rest...)));
}
template <class Op, class... T>
std::uint64_t apply(const Instruction& i, Half a, T... rest) {
  return encode(half_format, limit(i, Op::odd(decode(a), decode(rest)...)), i.rounding);
}
template <class Op, class... T>
std::uint64_t apply(const Instruction& i, Bfloat a, T... rest) {
  return encode(bfloat_format, limit(i, Op::odd(decode(a), decode(rest)...)), i.rounding);
}
template <class Op, class H, class... T>
std::uint64_t apply(const Instruction& i, Pair<H> a, T... rest) {
  return apply<Op>(i, a.low, rest.low...) | apply<Op>(i, a.high, rest.high...) << 16;
}

template <class Op, class T, unsigned arguments>
void execute_float(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t* a = w.in(i, 1);
  const std::uint64_t* b = arguments > 1 ? w.in(i, 2) : a;
  const std::uint64_t* c = arguments > 2 ? w.in(i, 3) : a;
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) {
    if constexpr (arguments == 1) d[lane] = apply<Op>(i, unpack<T>(a[lane]));
    else if constexpr (arguments == 2) d[lane] = apply<Op>(i, unpack<T>(a[lane]), unpack<T>(b[lane]));
    else d[lane] = apply<Op>(i, unpack<T>(a[lane]), unpack<T>(b[lane]), unpack<T>(c[lane]));
  });
}

template <class Op, unsigned arguments>
Execute of_type(Spelling& s, Type type) {
  switch (type) {
    case Type::f32: return execute_float<Op, float, arguments>;
    case Type::f64: return execute_float<Op, double, arguments>;
    case Type::f16: return execute_float<Op, Half, arguments>;
    case Type::bf16: return execute_float<Op, Bfloat, arguments>;
    case Type::f16x2: return execute_float<Op, Pair<Half>, arguments>;
    case Type::bf16x2: return execute_float<Op, Pair<Bfloat>, arguments>;
    default: s.unknown();
  }
}

/// i.type was taken.
template <class Op, unsigned arguments>
void decode_float(Spelling& s, Instruction& i) {
  i.rounding = s.rounding();
  if (i.type == Type::f64 && i.rounding != Rounding::nearest) s.unknown("directed rounding of f64 is not known");
  i.ftz = s.take("ftz");
  i.saturate = s.take("sat");
  if (s.take("relu")) i.mode = relu;
  i.execute = of_type<Op, arguments>(s, i.type);
}

template <class Op>
void decode_approximate(Spelling& s, Instruction& i) {
  s.ignore({"approx", "full"});
  i.type = s.type();
  decode_float<Op, 1>(s, i);
}

template <class Op>
void decode_extreme(Spelling& s, Instruction& i) {
  i.ftz = s.take("ftz");
  if (s.take("relu")) i.mode = relu;
  i.execute = s.take("NaN") ? of_type<OrNan<Op>, 2>(s, i.type) : of_type<Op, 2>(s, i.type);
}

/// abs and neg change the sign bits alone: i.width bits, i.vector of them.
template <bool negate>
void execute_sign(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t* a = w.in(i, 1);
  std::uint64_t* d = w.out(i, 0);
  std::uint64_t signs = std::uint64_t(1) << (8 * i.width - 1);
  if (i.vector == 2) signs |= signs << 16;
  fast(lanes, [&](unsigned lane) {
    std::uint64_t bits = a[lane];
    if (i.type == Type::f32) bits = pack(flush(i, unpack<float>(bits)));
    d[lane] = negate ? bits ^ signs : bits & ~signs;
  });
}
template <bool negate>
void decode_sign(Spelling& s, Instruction& i) {
  i.ftz = s.take("ftz");
  i.vector = i.type == Type::f16x2 || i.type == Type::bf16x2 ? 2 : 1;
  i.width = std::uint8_t(bytes(i.type) / i.vector);
  i.execute = execute_sign<negate>;
}

void execute_copysign(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t *a = w.in(i, 1), *b = w.in(i, 2);
  std::uint64_t* d = w.out(i, 0);
  const std::uint64_t sign = std::uint64_t(1) << (8 * i.width - 1);
  fast(lanes, [&](unsigned lane) { d[lane] = (a[lane] & sign) | (b[lane] & ~sign); });
}

void execute_test(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t* a = w.in(i, 1);
  Lanes result = 0;
  fast(lanes, [&](unsigned lane) {
    const double value = i.type == Type::f32 ? double(unpack<float>(a[lane])) : unpack<double>(a[lane]);
    const int kind = i.type == Type::f32 ? std::fpclassify(unpack<float>(a[lane])) : std::fpclassify(value);
    const bool is[] = {
        std::isfinite(value), std::isinf(value), !std::isnan(value), std::isnan(value), kind == FP_NORMAL || kind == FP_ZERO,
        kind == FP_SUBNORMAL};
    result |= Lanes(is[i.mode]) << lane;
  });
  w.set_predicate(i, 0, lanes, result);
}

}  // namespace

void decode_float_add(Spelling& s, Instruction& i) { decode_float<AddOp, 2>(s, i); }
void decode_float_sub(Spelling& s, Instruction& i) { decode_float<SubOp, 2>(s, i); }
void decode_float_mul(Spelling& s, Instruction& i) { decode_float<MulOp, 2>(s, i); }
void decode_float_fma(Spelling& s, Instruction& i) { decode_float<FmaOp, 3>(s, i); }
void decode_float_div(Spelling& s, Instruction& i) { s.ignore({"approx", "full"}), decode_float<DivOp, 2>(s, i); }
void decode_float_min(Spelling& s, Instruction& i) { decode_extreme<MinOp>(s, i); }
void decode_float_max(Spelling& s, Instruction& i) { decode_extreme<MaxOp>(s, i); }
void decode_float_abs(Spelling& s, Instruction& i) { decode_sign<false>(s, i); }
void decode_float_neg(Spelling& s, Instruction& i) { decode_sign<true>(s, i); }

void add_floats(Decoders& decoders) {
  decoders["rcp"] = decode_approximate<RcpOp>;
  decoders["sqrt"] = decode_approximate<SqrtOp>;
  decoders["rsqrt"] = decode_approximate<RsqrtOp>;
  decoders["ex2"] = decode_approximate<Ex2Op>;
  decoders["lg2"] = decode_approximate<Lg2Op>;
  decoders["sin"] = decode_approximate<SinOp>;
  decoders["cos"] = decode_approximate<CosOp>;
  decoders["tanh"] = decode_approximate<TanhOp>;
  decoders["copysign"] = [](Spelling& s, Instruction& i) {
    i.width = std::uint8_t(bytes(s.type())), i.execute = execute_copysign;
  };
  decoders["testp"] = [](Spelling& s, Instruction& i) {
    i.mode = std::uint8_t(s.one_of({"finite", "infinite", "number", "notanumber", "normal", "subnormal"}));
    i.type = s.type();
    i.execute = execute_test;
  };
}

}  // namespace graft::ptx
