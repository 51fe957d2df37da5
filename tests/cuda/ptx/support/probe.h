// Runs one instruction over many values.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "../launch.h"

namespace graft::ptx {

using Values = std::array<std::uint64_t, 3>;

/// Bits of the registers d, a, b, c; 1 for predicates, 0 for those that are not there.
struct Widths {
  int d, a, b = 0, c = 0;
};

/// The code, which reads %a, %b, %c and writes %d (and may use %t0 to %t7, 32-bit registers, and %q0 to %q3, predicates), for every row of values.
std::vector<std::uint64_t> probe(const std::string& code, Widths widths, const std::vector<Values>& values,
                                 const std::string& target = "sm_80");

/// Rows of values that are often wrong (0, 1, extremes, signs), and arbitrary ones.
std::vector<Values> integer_values();
/// Numbers of a floating format of so many bits: zeros, subnormals, ordinary ones near and far from each other, infinities, NaN.
std::vector<Values> float_values(int width, int exponent_bits);

}  // namespace graft::ptx
