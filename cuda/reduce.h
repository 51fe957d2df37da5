// Arguments of the kernels in reduce.cu.
#pragma once

#include "graft/core/strided.h"

namespace graft::cuda {

/// `outputs` sums of `length` elements each, cut into `pieces`: piece p of output o goes to y at its place when pieces is 1, else to
/// parts[o · pieces + p].
struct Reduce {
  const void* x;
  void* y;
  DType x_dtype, y_dtype;
  Strided<2> kept;                              // the outputs: where each lies in y, and begins in x
  Strided<1> reduced;                           // of x
  std::int64_t outputs, length, pieces, piece;  // piece: elements in each
  void* parts;                                  // in the accumulator's type
  int lanes;  // neighbouring threads that take neighbouring outputs: a power of two; the block's others share in the length
};

struct ArgMax {
  const void* x;
  std::int64_t* index;
  DType dtype;
  Rows rows, to;
  std::int64_t length, stride;
};

}  // namespace graft::cuda
