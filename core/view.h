// What kernels see: a pointer, a dtype, sizes and strides. Plain data, safe to copy to a device.
#pragma once

#include <cstdint>

#include "graft/core/dtype.h"
#include "graft/core/shape.h"

namespace graft {

struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  std::int64_t sizes[max_rank] = {};
  std::int64_t strides[max_rank] = {};  // in elements

  std::int64_t count() const {
    std::int64_t product = 1;
    for (int i = 0; i < rank; ++i) product *= sizes[i];
    return product;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

/// A matrix, rows for columns.
inline View transposed(const View& m) { return {m.data, m.dtype, 2, {m.sizes[1], m.sizes[0]}, {m.strides[1], m.strides[0]}}; }

}  // namespace graft
