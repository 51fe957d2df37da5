// Argument of the kernels in narrow.cu.
#pragma once

#include "graft/core/view.h"
#include "graft/cuda/narrow_maps.h"

namespace graft::cuda {

/// Of a wide matrix [m, n], read once: down [n, k] = wideᵀ · narrow [m, k] and, where there is a factor [n, k], along [m, k] = wide · factor.
/// The narrow ones are of one type, which is the wide one's, bf16, f16 or f32, or f32; all are in rows of aligned 16-byte pieces.
struct NarrowProducts {
  struct Operand {
    const void* data;
    std::int64_t ld;  // elements from row to row
  };
  /// Sums, by element (share, row, rank): shares of a sum have places of their own.
  struct Target {
    void* data;
    DType dtype;
    std::int64_t strides[3];
  };
  Operand wide, narrow, factor;  // factor.data may be null
  Target down, along;            // shares are panels, and parts
  int m, n, k;
  int panels, steps, part_steps;  // of `rows` rows; tiles along the rows, and how many of them a block takes
};

}  // namespace graft::cuda
