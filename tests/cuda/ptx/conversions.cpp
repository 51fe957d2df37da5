// cvt: between all types, with PTX's roundings and saturation.
#include <cmath>

#include "lanewise.h"
#include "spelling.h"

namespace graft::ptx {
namespace {

/// A float source as a double; exact.
double number_of(const Instruction& i, std::uint64_t bits) {
  switch (i.from) {
    case Type::f16: return decode(unpack<Half>(bits));
    case Type::bf16: return decode(unpack<Bfloat>(bits));
    case Type::f64: return unpack<double>(bits);
    default: {
      const float value = unpack<float>(bits);
      return i.ftz && std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0, double(value)) : double(value);
    }
  }
}

double to_integer(double value, Rounding rounding) {
  switch (rounding) {
    case Rounding::integer_zero:
    case Rounding::zero: return std::trunc(value);
    case Rounding::integer_down:
    case Rounding::down: return std::floor(value);
    case Rounding::integer_up:
    case Rounding::up: return std::ceil(value);
    default: return std::nearbyint(value);
  }
}

/// The integer types that a value is clamped to.
struct Range {
  double low, high;  // of doubles: high is the first that is too large
  std::int64_t min;
  std::uint64_t max;
};
Range range_of(Type type) {
  const unsigned bits = 8 * bytes(type);
  if (is_signed(type))
    return {-std::ldexp(1.0, int(bits) - 1), std::ldexp(1.0, int(bits) - 1), std::int64_t(~std::uint64_t(0) << (bits - 1)),
            (std::uint64_t(1) << (bits - 1)) - 1};
  return {0, std::ldexp(1.0, int(bits)), 0, bits == 64 ? ~std::uint64_t(0) : (std::uint64_t(1) << bits) - 1};
}

/// Out of range becomes the nearest in range, NaN 0 (or the integer with the top bit for 64 bits, as the hardware does).
std::uint64_t integer_of(const Instruction& i, double value) {
  const Range range = range_of(i.type);
  if (std::isnan(value)) return bytes(i.type) == 8 ? std::uint64_t(1) << 63 : 0;
  value = to_integer(value, i.rounding);
  if (value < range.low) return std::uint64_t(range.min);
  if (value >= range.high) return range.max;
  return is_signed(i.type) ? std::uint64_t(std::int64_t(value)) : std::uint64_t(value);
}

std::uint64_t float_of(const Instruction& i, double value) {
  const bool integral = i.rounding >= Rounding::integer_nearest;
  if (integral) value = std::copysign(to_integer(value, i.rounding), value);
  if (i.saturate) value = value > 0 ? std::min(value, 1.0) : 0;  // of NaN too
  if (i.mode && value < 0) value = 0;                            // relu
  const Rounding rounding = integral ? Rounding::nearest : i.rounding;
  switch (i.type) {
    case Type::f64: return pack(value);
    case Type::f16: return encode(half_format, value, rounding);
    case Type::bf16: return encode(bfloat_format, value, rounding);
    case Type::tf32: return encode(tf32_format, value, rounding);
    default: {
      const auto bits = encode(float_format, value, rounding);
      return i.ftz && (bits & 0x7f800000) == 0 ? bits & 0x80000000 : bits;
    }
  }
}

/// An integer source, extended to 64 bits.
std::uint64_t extended(Type type, std::uint64_t bits) {
  return with_integer(type, [&](auto* t) { return std::uint64_t(std::remove_pointer_t<decltype(t)>(bits)); });
}

/// A double for a 64-bit integer cannot be exact: to f64 the host rounds, to shorter types the bits below those that count only say that there are any.
double sticky(Type from, std::uint64_t bits) {
  const bool negative = is_signed(from) && std::int64_t(bits) < 0;
  std::uint64_t magnitude = negative ? 0 - bits : bits;
  if (magnitude >> 53) magnitude = (magnitude & ~std::uint64_t(0xfff)) | (magnitude & 0xfff ? 0x1000 : 0);
  return negative ? -double(magnitude) : double(magnitude);
}

void execute_integer_integer(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t* a = w.in(i, 1);
  std::uint64_t* d = w.out(i, 0);
  const Range range = range_of(i.type);
  fast(lanes, [&](unsigned lane) {
    std::uint64_t value = extended(i.from, a[lane]);
    if (i.saturate) {
      const bool negative = is_signed(i.from) && std::int64_t(value) < 0;
      if (negative && std::int64_t(value) < range.min) value = std::uint64_t(range.min);
      if (!negative && value > range.max) value = range.max;
    }
    d[lane] = extended(i.type, value);
  });
}
void execute_integer_float(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t* a = w.in(i, 1);
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) {
    const std::uint64_t value = extended(i.from, a[lane]);
    if (i.type == Type::f64) d[lane] = pack(is_signed(i.from) ? double(std::int64_t(value)) : double(value));
    else d[lane] = float_of(i, sticky(i.from, value));
  });
}
void execute_float_integer(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t* a = w.in(i, 1);
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) { d[lane] = integer_of(i, number_of(i, a[lane])); });
}
void execute_float_float(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t* a = w.in(i, 1);
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) { d[lane] = float_of(i, number_of(i, a[lane])); });
}
/// cvt.f16x2.f32 d, a, b: a becomes the high half.
void execute_pair(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t *a = w.in(i, 1), *b = w.in(i, 2);
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) { d[lane] = float_of(i, number_of(i, a[lane])) << 16 | float_of(i, number_of(i, b[lane])); });
}

void decode_cvt(Spelling& s, Instruction& i) {
  const int integral = s.one_of({"rni", "rzi", "rmi", "rpi"}, 4);
  i.rounding = integral < 4 ? Rounding(int(Rounding::integer_nearest) + integral) : s.rounding();
  i.ftz = s.take("ftz");
  i.saturate = s.take("sat");
  i.mode = s.take("relu");
  if (s.take("satfinite")) s.unknown("satfinite is not known");
  i.type = s.type();
  i.from = s.type();
  const bool pair = i.type == Type::f16x2 || i.type == Type::bf16x2;
  if (pair) {
    if (i.from != Type::f32 || i.parts != 3) s.unknown();
    i.type = i.type == Type::f16x2 ? Type::f16 : Type::bf16;
    i.execute = execute_pair;
  } else if (i.from == Type::f16x2 || i.from == Type::bf16x2) {
    s.unknown();
  } else if (is_float(i.from)) {
    i.execute = is_float(i.type) ? execute_float_float : execute_float_integer;
  } else {
    i.execute = is_float(i.type) ? execute_integer_float : execute_integer_integer;
  }
}

}  // namespace

void add_conversions(Decoders& decoders) { decoders["cvt"] = decode_cvt; }

}  // namespace graft::ptx
