// Element types, the two half formats, and dispatch from a run-time dtype to a C++ type.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "graft/core/error.h"
#include "graft/core/host_device.h"

namespace graft {

enum class DType : std::uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean };

/// IEEE binary16, as stored. Arithmetic happens in float.
struct f16 {
  std::uint16_t bits = 0;
  f16() = default;
  GRAFT_HD explicit f16(float value);
  GRAFT_HD operator float() const;
};

/// The upper half of a binary32, as stored. Arithmetic happens in float.
struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  GRAFT_HD explicit bf16(float value);
  GRAFT_HD operator float() const;
};

// Both conversions round to nearest even, keep subnormals, and map every NaN to a quiet NaN.
GRAFT_HD inline f16::f16(float value) {
  const auto x = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (x >> 16) & 0x8000u;
  const std::uint32_t magnitude = x & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    bits = static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
  } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or more
    bits = static_cast<std::uint16_t>(sign | 0x7c00u);
  } else if (magnitude < 0x38800000u) {
    // Subnormal or zero: adding 0.5 puts the last bit of a half at the last bit of a float, so the addition rounds for us.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    bits = static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  } else {
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    bits = static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
  }
}

GRAFT_HD inline f16::operator float() const {
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t exponent = bits & 0x7c00u;
  const std::uint32_t magnitude = bits & 0x7fffu;
  if (exponent == 0x7c00u) {  // infinity, or NaN made quiet
    const std::uint32_t quiet = (magnitude & 0x3ffu) ? 0x400000u : 0u;
    return std::bit_cast<float>(sign | 0x7f800000u | quiet | ((magnitude & 0x3ffu) << 13));
  }
  if (exponent == 0) {  // subnormal: exact as an integer multiple of 2^-24
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
}

GRAFT_HD inline bf16::bf16(float value) {
  const auto x = std::bit_cast<std::uint32_t>(value);
  if ((x & 0x7fffffffu) > 0x7f800000u) bits = static_cast<std::uint16_t>((x >> 16) | 0x40u);
  else bits = static_cast<std::uint16_t>((x + 0x7fffu + ((x >> 16) & 1u)) >> 16);
}

GRAFT_HD inline bf16::operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

// ---- properties ----

constexpr std::int64_t size_of(DType dtype) {
  constexpr std::int64_t sizes[] = {8, 4, 2, 2, 8, 4, 2, 1, 1, 1};
  return sizes[static_cast<int>(dtype)];
}
constexpr bool is_floating(DType dtype) { return dtype <= DType::bf16; }
constexpr bool is_half(DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; }

/// "f32", "bool", …
std::string_view name(DType dtype);
/// The dtype called `name` in "f32" or in PyTorch's spelling "float32", "torch.float32", "bfloat16", …; ValueError otherwise.
DType dtype_from_name(std::string_view name);

/// PyTorch's promotion of two dtypes: floating beats integer beats bool; the two halves meet in f32.
DType promote(DType a, DType b);

/// The type in which sums over elements of T are kept: double for double, float for the other floating types, int64 for integers.
template <class T>
using Accumulator =
    std::conditional_t<std::is_same_v<T, double>, double, std::conditional_t<std::is_integral_v<T>, std::int64_t, float>>;

template <class T>
inline constexpr DType dtype_of = [] {
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  else if constexpr (std::is_same_v<T, float>) return DType::f32;
  else if constexpr (std::is_same_v<T, f16>) return DType::f16;
  else if constexpr (std::is_same_v<T, bf16>) return DType::bf16;
  else if constexpr (std::is_same_v<T, std::int64_t>) return DType::i64;
  else if constexpr (std::is_same_v<T, std::int32_t>) return DType::i32;
  else if constexpr (std::is_same_v<T, std::int16_t>) return DType::i16;
  else if constexpr (std::is_same_v<T, std::int8_t>) return DType::i8;
  else if constexpr (std::is_same_v<T, std::uint8_t>) return DType::u8;
  else {
    static_assert(std::is_same_v<T, bool>, "not an element type");
    return DType::boolean;
  }
}();

template <class... T>
struct Types {};
using FloatingTypes = Types<double, float, f16, bf16>;
using IntegerTypes = Types<std::int64_t, std::int32_t, std::int16_t, std::int8_t, std::uint8_t>;
using AllTypes = Types<double, float, f16, bf16, std::int64_t, std::int32_t, std::int16_t, std::int8_t, std::uint8_t, bool>;

/// Calls `f.template operator()<T>()` for the type of the list that `dtype` names; TypeError naming `what` if it is not in the list.
template <class... T, class F>
decltype(auto) dispatch(DType dtype, Types<T...>, std::string_view what, F&& f) {
  using Result = std::common_type_t<decltype(f.template operator()<T>())...>;
  if constexpr (std::is_void_v<Result>) {
    const bool found = ((dtype == dtype_of<T> && (f.template operator()<T>(), true)) || ...);
    check<TypeError>(found, "{}: does not take elements of type {}", what, name(dtype));
  } else {
    Result result{};
    const bool found = ((dtype == dtype_of<T> && (result = f.template operator()<T>(), true)) || ...);
    check<TypeError>(found, "{}: does not take elements of type {}", what, name(dtype));
    return result;
  }
}

}  // namespace graft

template <>
struct fmt::formatter<graft::DType> : fmt::formatter<std::string_view> {
  fmt::format_context::iterator format(graft::DType dtype, fmt::format_context& context) const;
};
