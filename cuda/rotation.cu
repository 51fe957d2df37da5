// A product's operand by a block-diagonal rotation, and the packed order of the result, from one reading. Which thread has what: rotation_maps.h.
#include <cmath>

#include "graft/cuda/arrange.cuh"
#include "graft/cuda/elements.cuh"
#include "graft/cuda/rotation.h"

namespace graft::cuda {
namespace rotation {
namespace {

template <class W>
__device__ inline uint2 narrowed(const float4& values) {
  const auto pair = [](float low, float high) {
    W both[2];
    if constexpr (std::is_same_v<W, f16>) both[0] = narrow(low), both[1] = narrow(high);
    else both[0] = bf16(low), both[1] = bf16(high);
    return static_cast<std::uint32_t>(both[0].bits) | static_cast<std::uint32_t>(both[1].bits) << 16;
  };
  return {pair(values.x, values.y), pair(values.z, values.w)};
}

__device__ inline void add(float4& sum, float x, const float4& row) {
  sum.x = std::fma(x, row.x, sum.x), sum.y = std::fma(x, row.y, sum.y);
  sum.z = std::fma(x, row.z, sum.z), sum.w = std::fma(x, row.w, sum.w);
}

/// W is from's element, F the blocks'.
template <class W, class F, int rows>
__device__ void rotate(const Rotate& p) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int part = static_cast<int>(blockIdx.x) % p.parts, first_row = static_cast<int>(blockIdx.x) / p.parts * rows;
  const int rows_there = min(rows, p.m - first_row), quads = p.columns / quad, threads = static_cast<int>(blockDim.x);
  const bool arranged = p.arranged.x != nullptr;
  const int end = arranged ? quads : min(quads, (part + 1) * threads);
#pragma unroll 1
  for (int at = first_quad(part, threads, static_cast<int>(threadIdx.x)); at < end; at += threads) {
    const int column = at * quad, block = column / p.b;
    const W* x = static_cast<const W*>(p.from) + first_row * p.ld + block * p.b;
    const F* R = static_cast<const F*>(p.blocks) + block * p.block_elements + (column - block * p.b);
    float4 sums[rows] = {};
#pragma unroll 1
    for (int k = 0; k < p.b; k += quad, x += quad, R += quad * p.b) {
      const float4 r0 = widened_four<F>(R), r1 = widened_four<F>(R + p.b), r2 = widened_four<F>(R + 2 * p.b),
                   r3 = widened_four<F>(R + 3 * p.b);
      const W* from = x;
#pragma unroll
      for (int row = 0; row < rows; ++row, from += p.ld) {
        if (row >= rows_there) continue;
        const float4 own = widened_four<W>(from);
        add(sums[row], own.x, r0), add(sums[row], own.y, r1), add(sums[row], own.z, r2), add(sums[row], own.w, r3);
      }
    }
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      if (row >= rows_there) continue;
      const std::int64_t to = (first_row + row) * p.x_ld + column;
      if constexpr (sizeof(W) == 2) {
        if (arranged) {
          reinterpret_cast<uint2*>(memory)[row * quads + at] = narrowed<W>(sums[row]);
          continue;
        }
        if (p.dtype != DType::f32) {
          *reinterpret_cast<uint2*>(static_cast<W*>(p.x) + to) = narrowed<W>(sums[row]);
          continue;
        }
      }
      *reinterpret_cast<float4*>(static_cast<float*>(p.x) + to) = sums[row];
    }
  }
  if constexpr (sizeof(W) == 2) {
    if (!arranged) return;
    __syncthreads();
    arrange(p.arranged, 0, 1, first_row, rows_there, [&](int row, int channel) {
      return reinterpret_cast<const std::uint16_t*>(memory)[row * p.columns + channel];
    });
  }
}

}  // namespace
}  // namespace rotation

extern "C" {

#define GRAFT_ROTATE(name, W, F, rows) \
  __global__ void __launch_bounds__(rotation::threads, 2) name(const __grid_constant__ Rotate p) { rotation::rotate<W, F, rows>(p); }
GRAFT_ROTATE(rotate_bf16_by_f32_4, bf16, float, 4)
GRAFT_ROTATE(rotate_bf16_by_f32_16, bf16, float, 16)
GRAFT_ROTATE(rotate_bf16_by_bf16_4, bf16, bf16, 4)
GRAFT_ROTATE(rotate_bf16_by_bf16_16, bf16, bf16, 16)
GRAFT_ROTATE(rotate_f16_by_f32_4, f16, float, 4)
GRAFT_ROTATE(rotate_f16_by_f32_16, f16, float, 16)
GRAFT_ROTATE(rotate_f16_by_f16_4, f16, f16, 4)
GRAFT_ROTATE(rotate_f16_by_f16_16, f16, f16, 16)
GRAFT_ROTATE(rotate_f32_by_f32_4, float, float, 4)
GRAFT_ROTATE(rotate_f32_by_f32_8, float, float, 8)
#undef GRAFT_ROTATE

}  // extern "C"
}  // namespace graft::cuda
