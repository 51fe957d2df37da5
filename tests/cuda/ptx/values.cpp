#include "values.h"

#include <cmath>
#include <vector>

namespace graft::ptx {
namespace {

double round_integer(double value, Rounding rounding) {
  switch (rounding) {
    case Rounding::zero: return std::trunc(value);
    case Rounding::down: return std::floor(value);
    case Rounding::up: return std::ceil(value);
    case Rounding::nearest_away: return std::round(value);
    default: return std::nearbyint(value);
  }
}

double decode_half(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double magnitude = exponent == 31 ? (mantissa ? std::nan("") : HUGE_VAL)
                           : exponent     ? std::ldexp(1024 + mantissa, exponent - 25)
                                          : std::ldexp(mantissa, -24);
  return bits & 0x8000 ? -magnitude : magnitude;
}

}  // namespace

std::uint32_t encode(Format format, double value, Rounding rounding) {
  // All of these have the sign in the top bit, then the exponent; a tf32 is an f32 with fewer bits.
  const int stored = format.width - 1 - (format.max_exponent == 15 ? 5 : 8);
  const std::uint32_t sign = std::uint32_t(std::signbit(value)) << (format.width - 1);
  const std::uint32_t infinity = (std::uint32_t(1) << (format.width - 1)) - (std::uint32_t(1) << stored);
  if (std::isnan(value)) return (std::uint32_t(1) << (format.width - 1)) - 1;
  if (std::isinf(value)) return sign | infinity;
  if (value == 0) return sign;
  const int min_exponent = 1 - format.max_exponent;
  int exponent = std::max(std::ilogb(value), min_exponent);
  double digits = std::fabs(round_integer(std::ldexp(value, format.precision - 1 - exponent), rounding));
  if (digits == std::ldexp(1.0, format.precision)) digits /= 2, ++exponent;
  if (exponent > format.max_exponent) {
    const bool away = rounding == Rounding::nearest || rounding == Rounding::nearest_away ||
                      rounding == (std::signbit(value) ? Rounding::down : Rounding::up);
    return sign | (away ? infinity : infinity - (std::uint32_t(1) << (stored - format.precision + 1)));
  }
  // The hidden bit, where there is one, adds one to the exponent.
  const std::uint32_t mantissa = std::uint32_t(digits) << (stored - format.precision + 1);
  return sign | (mantissa + (std::uint32_t(exponent - min_exponent) << stored));
}

double decode(Half value) {
  static const std::vector<float> all = [] {
    std::vector<float> table(65536);
    for (unsigned bits = 0; bits < table.size(); ++bits) table[bits] = float(decode_half(std::uint16_t(bits)));
    return table;
  }();
  return all[value.bits];
}

}  // namespace graft::ptx
