// Argument of the kernels in skinny.cu.
#pragma once

#include "graft/cuda/added.h"

namespace graft::cuda {

/// y = x W (+ bias) (+ terms) for up to 32 rows of bf16 or f16.
struct Skinny {
  static constexpr int most_slabs = 8192;

  const std::uint8_t* codes;  // tiles as in quant/kernels.h
  const float *scales, *zeros;
  const std::int32_t* places;  // channel and group of each row
  const void* x;
  void* y;
  float* sums;    // [meetings][m][slab]
  float* shares;  // [slabs][rows of all terms][slab], of terms that join a rounded result; else null
  std::int64_t x_strides[2], y_strides[2];
  int m, in, out, rows, columns;
  int units, units_per_slab;  // the whole product's, a slab's
  bool affine;
  bool by_vectors;  // 16 bytes of a row of x are aligned and belong to consecutive rows of W
  DType y_dtype;
  Added added;
};

}  // namespace graft::cuda
