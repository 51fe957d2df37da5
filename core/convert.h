// One element from one type to another, the same on every device.
#pragma once

#include <limits>

#include "graft/core/dtype.h"

namespace graft {

/// Truncates towards zero and saturates; NaN gives 0. C++ leaves all but the truncation undefined.
template <class To, class From>
GRAFT_HD To to_integer(From value) {
  constexpr From low = static_cast<From>(std::numeric_limits<To>::min());
  constexpr From past = static_cast<From>(std::numeric_limits<To>::max() / 2 + 1) * 2;
  if (value != value) return 0;
  if (value <= low) return std::numeric_limits<To>::min();
  if (value >= past) return std::numeric_limits<To>::max();
  return static_cast<To>(value);
}

/// Floating to integer as above, integer to integer wraps, anything to bool is "≠ 0"; halves by way of float.
template <class To, class From>
GRAFT_HD To convert_one(From value) {
  constexpr bool floating = !std::is_integral_v<From>;
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (floating && !std::is_same_v<From, double> && !std::is_same_v<From, float>) {
    return convert_one<To>(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bool>) {
    return value != From(0);
  } else if constexpr (floating && std::is_integral_v<To>) {
    return to_integer<To>(value);
  } else if constexpr (std::is_same_v<To, f16> || std::is_same_v<To, bf16>) {
    return To(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}

}  // namespace graft
