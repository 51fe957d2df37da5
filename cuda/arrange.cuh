// Columns of x on their way into the order of the packed rows.
#pragma once

#include <cstdint>

#include "graft/cuda/prepass.h"

namespace graft::cuda {

/// A block's share of the packed rows, the part-th of so many, two at a time, for `rows` rows of x from first_row on; element(row, channel)
/// is x's.
template <class Element>
__device__ inline void arrange(const Arranged& to, int part, int parts, int first_row, int rows, Element element) {
  const int pairs = to.packed / 2, share = (pairs + parts - 1) / parts, end = min((part + 1) * share, pairs);
#pragma unroll 1
  for (int pair = part * share + static_cast<int>(threadIdx.x); pair < end; pair += static_cast<int>(blockDim.x)) {
    const int4 places = reinterpret_cast<const int4*>(to.places)[pair];  // channel, group, channel, group
#pragma unroll 4
    for (int row = 0; row < rows; ++row) {
      const std::uint32_t low = places.x < 0 ? 0 : element(row, places.x), high = places.z < 0 ? 0 : element(row, places.z);
      reinterpret_cast<std::uint32_t*>(to.x + (first_row + row) * to.ld)[pair] = low | high << 16;
    }
  }
}

}  // namespace graft::cuda
