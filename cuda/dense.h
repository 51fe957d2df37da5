// A contiguous buffer of the device in the shape of a view, for kernels that want dense row-major data.
#pragma once

#include "graft/core/cpu/temporary.h"
#include "graft/cuda/backend.h"

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

}  // namespace graft::cuda
