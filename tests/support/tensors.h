// Tensors on the tested device, and on others.
#pragma once

#include <vector>

#include "graft/core/module.h"
#include "graft/core/tensor.h"

#include "tested.h"

namespace graft::test {

/// An unrecorded copy.
inline Tensor on(const Tensor& x, Device device) {
  const Tensor there = Tensor::empty(x.shape(), x.dtype(), device);
  there.copy_(x);
  return there;
}

inline Tensor placed(const Tensor& x) { return on(x, tested_device()); }
/// The module itself, moved.
template <class M>
std::shared_ptr<M> placed(std::shared_ptr<M> module) {
  to(*module, tested_device());
  return module;
}
template <class T>
Tensor from(const std::vector<T>& values, const Shape& shape) {
  return placed(Tensor::from(values, shape));
}
inline Tensor full(const Shape& shape, double value, DType dtype = DType::f32) {
  return Tensor::full(shape, value, dtype, tested_device());
}
inline Tensor zeros(const Shape& shape, DType dtype = DType::f32) { return full(shape, 0, dtype); }
inline Tensor ones(const Shape& shape, DType dtype = DType::f32) { return full(shape, 1, dtype); }

}  // namespace graft::test
