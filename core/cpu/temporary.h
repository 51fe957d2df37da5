// A contiguous buffer in the shape of a view, for kernels that are simplest on dense row-major data.
#pragma once

#include <memory>

#include "graft/core/cpu/cpu.h"

namespace graft::cpu {

class Temporary {
 public:
  Temporary(const View& like, DType dtype) : view_(like) {
    std::int64_t count = 1;
    for (int i = like.rank - 1; i >= 0; --i) {
      view_.strides[i] = count;
      count *= like.sizes[i];
    }
    data_ = std::make_unique<std::max_align_t[]>(static_cast<std::size_t>(count * size_of(dtype)) / sizeof(std::max_align_t) + 1);
    view_.data = data_.get();
    view_.dtype = dtype;
  }
  const View& view() const { return view_; }
  template <class T>
  T* data() const {
    return view_.as<T>();
  }

 private:
  View view_;
  std::unique_ptr<std::max_align_t[]> data_;
};

/// Whether the elements lie in row-major order without gaps.
inline bool is_dense(const View& view) {
  std::int64_t step = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    if (view.sizes[i] != 1 && view.strides[i] != step) return false;
    step *= view.sizes[i];
  }
  return true;
}

}  // namespace graft::cpu
