// Elements in the type that arithmetic happens in, as in core/cpu/block.h: kernels are written for double, float and int64, and
// convert when they read and write. The dtype is the same for a whole launch, so that no warp divides at the switch.
#pragma once

#include <type_traits>

#include "graft/core/convert.h"
#include "graft/core/view.h"

namespace graft::cuda {

// The hardware's conversions give the same numbers as core/dtype.h's in one instruction, but for what NaNs carry.
__device__ inline float widen(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
__device__ inline f16 narrow(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

/// Two neighbouring elements of a half type, the first in the low half.
template <class H>
__device__ inline float2 widened(std::uint32_t both) {
  if constexpr (std::is_same_v<H, bf16>) return {__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u)};
  f16 low, high;
  low.bits = static_cast<std::uint16_t>(both), high.bits = static_cast<std::uint16_t>(both >> 16);
  return {widen(low), widen(high)};
}

/// Four neighbouring elements, f32 or of a half type, aligned to all of them.
template <class W>
__device__ inline float4 widened_four(const void* from) {
  if constexpr (sizeof(W) == 4) {
    return *static_cast<const float4*>(from);
  } else {
    const uint2 words = *static_cast<const uint2*>(from);
    const float2 low = widened<W>(words.x), high = widened<W>(words.y);
    return {low.x, low.y, high.x, high.y};
  }
}

/// Element `i`, floating where A is, else an integer.
template <class A>
__device__ A load(const void* data, DType dtype, std::int64_t i) {
  if constexpr (std::is_integral_v<A>) {
    switch (dtype) {
      case DType::i32: return static_cast<const std::int32_t*>(data)[i];
      case DType::i16: return static_cast<const std::int16_t*>(data)[i];
      case DType::i8: return static_cast<const std::int8_t*>(data)[i];
      case DType::u8: return static_cast<const std::uint8_t*>(data)[i];
      case DType::boolean: return static_cast<const std::uint8_t*>(data)[i] != 0;
      default: return static_cast<const std::int64_t*>(data)[i];
    }
  } else {
    switch (dtype) {
      case DType::f64: return static_cast<A>(static_cast<const double*>(data)[i]);
      case DType::f16: return widen(static_cast<const f16*>(data)[i]);
      case DType::bf16: return static_cast<float>(static_cast<const bf16*>(data)[i]);
      default: return static_cast<const float*>(data)[i];
    }
  }
}

/// Writes element `i` of any dtype.
template <class A>
__device__ void store(void* data, DType dtype, std::int64_t i, A value) {
  switch (dtype) {
    case DType::f64: static_cast<double*>(data)[i] = convert_one<double>(value); break;
    case DType::f32: static_cast<float*>(data)[i] = convert_one<float>(value); break;
    case DType::f16: static_cast<f16*>(data)[i] = narrow(convert_one<float>(value)); break;
    case DType::bf16: static_cast<bf16*>(data)[i] = convert_one<bf16>(value); break;
    case DType::i64: static_cast<std::int64_t*>(data)[i] = convert_one<std::int64_t>(value); break;
    case DType::i32: static_cast<std::int32_t*>(data)[i] = convert_one<std::int32_t>(value); break;
    case DType::i16: static_cast<std::int16_t*>(data)[i] = convert_one<std::int16_t>(value); break;
    case DType::i8: static_cast<std::int8_t*>(data)[i] = convert_one<std::int8_t>(value); break;
    case DType::u8: static_cast<std::uint8_t*>(data)[i] = convert_one<std::uint8_t>(value); break;
    case DType::boolean: static_cast<std::uint8_t*>(data)[i] = convert_one<bool>(value); break;
  }
}

/// The same, for a dtype that load<A> reads.
template <class A>
__device__ void store_same(void* data, DType dtype, std::int64_t i, A value) {
  if constexpr (std::is_integral_v<A>) {
    switch (dtype) {
      case DType::i32: static_cast<std::int32_t*>(data)[i] = static_cast<std::int32_t>(value); break;
      case DType::i16: static_cast<std::int16_t*>(data)[i] = static_cast<std::int16_t>(value); break;
      case DType::i8:
      case DType::u8: static_cast<std::uint8_t*>(data)[i] = static_cast<std::uint8_t>(value); break;
      case DType::boolean: static_cast<std::uint8_t*>(data)[i] = value != 0; break;
      default: static_cast<std::int64_t*>(data)[i] = value;
    }
  } else {
    switch (dtype) {
      case DType::f64: static_cast<double*>(data)[i] = value; break;
      case DType::f16: static_cast<f16*>(data)[i] = narrow(static_cast<float>(value)); break;
      case DType::bf16: static_cast<bf16*>(data)[i] = bf16(static_cast<float>(value)); break;
      default: static_cast<float*>(data)[i] = static_cast<float>(value);
    }
  }
}

/// This thread's number in the grid, and how many there are.
__device__ inline std::int64_t first_index() { return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline std::int64_t index_step() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }

}  // namespace graft::cuda
