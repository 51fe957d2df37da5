// The elements of tensor-core operands.
#pragma once

#include <bit>
#include <cstdint>

#include "values.h"

namespace graft::ptx {

/// An element of a type that tensor cores multiply, from its bits; the product of two and sums of some dozen are exact in a double.
inline double element(Type type, std::uint32_t bits) {
  switch (type) {
    case Type::f16: return decode(Half{std::uint16_t(bits)});
    case Type::bf16: return decode(Bfloat{std::uint16_t(bits)});
    case Type::tf32: return std::bit_cast<float>(bits & ~std::uint32_t(0x1fff));  // the low bits are not looked at
    case Type::s8: return std::int8_t(bits);
    default: return std::uint8_t(bits);
  }
}

}  // namespace graft::ptx
