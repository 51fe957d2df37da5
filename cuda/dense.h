// Memory of the device for kernels that do not take every stride: a contiguous buffer in the shape of a view, and a matrix by rows.
#pragma once

#include <optional>

#include "graft/core/cpu/temporary.h"
#include "graft/cuda/backend.h"
#include "graft/cuda/entries.h"
#include "graft/cuda/swizzle.h"

namespace graft::cuda {

using cpu::is_dense;

class Dense {
 public:
  Dense(const View& like, DType dtype) : view_(like), memory_(static_cast<std::size_t>(like.count() * size_of(dtype))) {
    std::int64_t step = 1;
    for (int i = like.rank - 1; i >= 0; --i) {
      view_.strides[i] = step;
      step *= like.sizes[i];
    }
    view_.data = memory_.data();
    view_.dtype = dtype;
  }
  const View& view() const { return view_; }
  void* data() const { return view_.data; }

 private:
  View view_;
  Scratch memory_;
};

/// A matrix in rows of 16-byte pieces, aligned to that: as it lies, or copied.
class Lines {
 public:
  explicit Lines(const View& matrix) : data_(matrix.data), ld_(matrix.strides[0]) {
    const std::int64_t rows = matrix.sizes[0], columns = matrix.sizes[1], piece = piece_bytes / size_of(matrix.dtype);
    if (rows == 1) ld_ = 0;  // addresses of rows that are not there are aligned, too
    const bool aligned = reinterpret_cast<std::uintptr_t>(data_) % piece_bytes == 0 && ld_ % piece == 0;
    if (aligned && (matrix.strides[1] == 1 || columns == 1)) return;
    ld_ = (columns + piece - 1) / piece * piece;
    copy_.emplace(static_cast<std::size_t>(rows * ld_ * size_of(matrix.dtype)));
    data_ = copy_->data();
    copy(matrix, {copy_->data(), matrix.dtype, 2, {rows, columns}, {ld_, 1}});
  }
  const void* data() const { return data_; }
  std::int64_t ld() const { return ld_; }

 private:
  const void* data_;
  std::int64_t ld_;
  std::optional<Scratch> copy_;
};

}  // namespace graft::cuda
