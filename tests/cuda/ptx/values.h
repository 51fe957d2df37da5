// Registers hold 64 bits; what an instruction's type makes of them.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "instruction.h"

namespace graft::ptx {

struct Half {
  std::uint16_t bits;
};
struct Bfloat {
  std::uint16_t bits;
};
template <class T>
struct Pair {
  T low, high;
};

/// A binary floating format: its precision (with the hidden bit), the exponent of its largest values, and its width.
struct Format {
  int precision, max_exponent, width;
};
constexpr Format half_format{11, 15, 16}, bfloat_format{8, 127, 16}, tf32_format{11, 127, 32}, float_format{24, 127, 32};
/// The nearest number of a format, as its bits (of tf32: those of the f32 that it is). `saturate`: finite where it would be infinite.
std::uint32_t encode(Format format, double value, Rounding rounding = Rounding::nearest);
double decode(Half value);
inline float decode_float(Bfloat value) { return std::bit_cast<float>(std::uint32_t(value.bits) << 16); }
inline double decode(Bfloat value) { return double(decode_float(value)); }

template <class T>
inline T unpack(std::uint64_t bits) {
  if constexpr (std::is_integral_v<T>) return static_cast<T>(bits);
  else if constexpr (std::is_same_v<T, float>) return std::bit_cast<float>(std::uint32_t(bits));
  else if constexpr (std::is_same_v<T, double>) return std::bit_cast<double>(bits);
  else {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
}
template <class T>
inline std::uint64_t pack(T value) {
  if constexpr (std::is_integral_v<T>) return std::uint64_t(std::make_unsigned_t<T>(value));
  else if constexpr (std::is_same_v<T, float>) return std::bit_cast<std::uint32_t>(value);
  else if constexpr (std::is_same_v<T, double>) return std::bit_cast<std::uint64_t>(value);
  else {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
  }
}

/// Calls f with a null pointer to the C++ type of an integer type: `f(static_cast<std::int32_t*>(nullptr))`.
template <class F>
auto with_integer(Type type, F f) {
  switch (type) {
    case Type::b8:
    case Type::u8: return f(static_cast<std::uint8_t*>(nullptr));
    case Type::s8: return f(static_cast<std::int8_t*>(nullptr));
    case Type::b16:
    case Type::u16: return f(static_cast<std::uint16_t*>(nullptr));
    case Type::s16: return f(static_cast<std::int16_t*>(nullptr));
    case Type::b32:
    case Type::u32: return f(static_cast<std::uint32_t*>(nullptr));
    case Type::s32: return f(static_cast<std::int32_t*>(nullptr));
    case Type::b64:
    case Type::u64: return f(static_cast<std::uint64_t*>(nullptr));
    case Type::s64: return f(static_cast<std::int64_t*>(nullptr));
    default: return decltype(f(static_cast<std::uint8_t*>(nullptr)))();
  }
}

}  // namespace graft::ptx
