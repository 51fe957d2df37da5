// What a product's rotated operand is made by, and the argument of the kernels that make it.
#pragma once

#include "graft/cuda/prepass.h"
#include "graft/cuda/rotation_maps.h"

namespace graft::cuda {

/// x = from · R for m rows, R block-diagonal: summed in f32 in the order of R's rows, rounded to a half type or not.
struct Rotate {
  const void *from, *blocks;        // rows of aligned 16-byte pieces; [columns / b or 1][b][b], aligned so
  std::int64_t ld, block_elements;  // of R, from block to block: 0 where all are one
  int m, columns, b, parts;
  void* x;  // rows of aligned quads
  DType dtype;
  std::int64_t x_ld;
  Arranged arranged;  // where x goes in the packed order instead, unless its memory is null
};

/// Makes x where the problem's is rotated.
void rotate(const quant::Problem& problem);
/// Makes x in the packed order instead, from one reading of what it is rotated from, if nothing else needs it in its own; whether it did.
bool rotate(const quant::Problem& problem, const Arranged& to);

}  // namespace graft::cuda
