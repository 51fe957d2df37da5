// Tensors on the GPU that is tested.
#pragma once

#include "graft/core/kernels.h"
#include "graft/core/tensor.h"
#include "graft/tests/support/tensors.h"

namespace graft::test {

inline constexpr Device gpu{Device::Type::cuda, 0};

/// Random numbers from −1 to 1, on the CPU.
inline Tensor numbers(const Shape& shape, std::uint64_t seed, DType dtype) {
  const Tensor x = Tensor::empty(shape, dtype);
  cpu_kernels().draw(Draw::uniform, seed, 0, x.view(), -1, 1);
  return x;
}

}  // namespace graft::test
