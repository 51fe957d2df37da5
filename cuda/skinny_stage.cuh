// How rows of x reach shared memory as the fragments that tensor cores want (skinny.cu).
#pragma once

#include "graft/cuda/elements.cuh"
#include "graft/cuda/skinny.h"
#include "graft/cuda/skinny_layout.h"

namespace graft::cuda::skinny {

template <class T>
__device__ float number(std::uint32_t element) {
  T x;
  x.bits = static_cast<std::uint16_t>(element);
  if constexpr (is_bf16<T>) return static_cast<float>(x);
  else return widen(x);
}

/// A lane's 16 elements of a unit of x, those of word after word, two to a register; 0 for fillings and beyond the last row.
template <int bits>
__device__ void fetch(const Skinny& p, int row, int t, int m, std::uint32_t (&elements)[8]) {
  constexpr int per = rows_per_word(bits);
  const auto* x = static_cast<const std::uint16_t*>(p.x) + m * p.x_strides[0];
#pragma unroll
  for (int i = 0; i < 8; ++i) elements[i] = 0;
  if (m >= p.m) return;
  if (p.by_vectors && row + unit <= p.in) {
#pragma unroll
    for (int load = 0; load < loads_per_unit(bits); ++load) {
      const std::uint16_t* from = x + row + word_row(bits, load, t);
      if constexpr (per == 4) {
        const uint2 v = *reinterpret_cast<const uint2*>(from);
        elements[2 * load] = v.x, elements[2 * load + 1] = v.y;
      } else {
#pragma unroll
        for (int i = 0; i < per / 8; ++i) {
          const uint4 v = reinterpret_cast<const uint4*>(from)[i];
          std::uint32_t* to = elements + load * per / 2 + 4 * i;
          to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
        }
      }
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int at = row + word_row(bits, 2 * i / per, t) + 2 * i % per;
    if (at >= p.rows) continue;  // as the word's other rows
    const int4 places = __ldg(reinterpret_cast<const int4*>(p.places + 2 * at));
    const std::uint32_t low = x[max(places.x, 0) * p.x_strides[1]], high = x[max(places.z, 0) * p.x_strides[1]];
    elements[i] = (places.x < 0 ? 0 : low) | (places.z < 0 ? 0 : high) << 16;
  }
}

/// x as fragments, its sums and the groups of `units` units from `row` on. Every warp of the block takes units and row tiles.
template <int bits, class T, int row_tiles>
__device__ void stage(const Skinny& p, int row, int units, char* shared) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  constexpr Shared layout = shared_layout(bits, row_tiles);
  auto* sums = reinterpret_cast<float*>(shared + layout.sums);
  auto* groups = reinterpret_cast<std::int32_t*>(shared + layout.groups);
#pragma unroll 1
  for (int task = threadIdx.x / 32; task < units * row_tiles; task += warps) {
    const int u = task / row_tiles, tile = task % row_tiles, first = row + u * unit;
    if (tile == 0) {
      const int at = first + lane * static_cast<int>(Packed::unit);
      const int group = lane < parts && at < p.rows ? p.places[2 * at + 1] : -1, common = __shfl_sync(~0u, group, 0);
      const bool same = __all_sync(~0u, lane >= parts || group == common);
      if (lane < parts) groups[group_at(u, lane)] = group;
      if (lane == parts) groups[group_at(u, lane)] = same ? common : -1;
    }
    std::uint32_t elements[8];
    fetch<bits>(p, first, t, tile * 8 + g, elements);
    float sum[parts] = {};
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      std::uint32_t halves[4];
      float four = 0;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        // Lane 0's row says which of the lane's words and of their codes it is.
        const int at = row_of(bits, step, 0, e), per = rows_per_word(bits), index = at / (4 * per) * per + at % per;
        halves[e] = elements[index / 2] >> 16 * (index % 2) & 0xffff;
        four += number<T>(halves[e]);
      }
      *reinterpret_cast<uint2*>(shared + staged_at(row_tiles, u, tile, step, lane)) =
          make_uint2(halves[0] | halves[1] << 16, halves[2] | halves[3] << 16);
#pragma unroll
      for (int part = 0; part < parts; ++part) sum[part] += part == part_of(bits, step, t) ? four : 0.0f;
    }
    float mine = 0, all = 0;
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      sum[part] += __shfl_xor_sync(~0u, sum[part], 1);
      sum[part] += __shfl_xor_sync(~0u, sum[part], 2);
      all += sum[part];
      if (part == t) mine = sum[part];
    }
    sums[sum_at(row_tiles, u, t, tile * 8 + g)] = mine;
    if (t == 0) sums[sum_at(row_tiles, u, parts, tile * 8 + g)] = all;
  }
}

}  // namespace graft::cuda::skinny
