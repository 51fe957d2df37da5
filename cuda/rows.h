// Arguments of the kernels in rows.cu: a block takes a row of the last dimension.
#pragma once

#include "graft/core/strided.h"

namespace graft::cuda {

/// The rows of a view.
struct RowsOf {
  void* data = nullptr;  // null: not wanted
  DType dtype = DType::f32;
  Rows rows;
  std::int64_t size = 1, stride = 1;

  RowsOf() = default;
  explicit RowsOf(const View& view, int inner = 1) : data(view.data), dtype(view.dtype), rows(view, view.rank > 0 ? inner : 0) {
    if (view.rank > 0 && inner > 0) size = view.sizes[view.rank - 1], stride = view.strides[view.rank - 1];
  }
};

struct Softmax {
  RowsOf x, y;
  bool log;
};
struct SoftmaxBackward {
  RowsOf y, dy, dx;
  bool log;
};
struct RmsNorm {
  RowsOf x, weight, y, rstd;
  double eps;
};
struct RmsNormBackward {
  RowsOf x, weight, rstd, dy, dx;
  std::int64_t count, piece;  // rows, and how many of them go into each part of dweight
  void* parts;                // [pieces][size] in the accumulator's type; null: not wanted
};
struct Rotary {
  const void *x, *cos, *sin;
  void* y;
  DType dtype, table_dtype, y_dtype;
  std::int64_t heads, length, half, count;                                  // count: pairs of elements
  std::int64_t x_strides[4], y_strides[4], cos_strides[3], sin_strides[3];  // of the batch 0 where one table serves all
  bool inverse;
};
struct CrossEntropy {
  RowsOf logits, labels, losses, lse;
  std::int64_t ignored;
};
struct CrossEntropyBackward {
  RowsOf logits, labels, lse, dlosses, dlogits;
  std::int64_t ignored;
};

}  // namespace graft::cuda
