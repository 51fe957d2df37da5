// Shares with sums of their own, before they join a result (quant/kernels.h, Join).
#pragma once

#include "graft/cuda/elements.cuh"
#include "graft/quant/kernels.h"

namespace graft::cuda {

/// x as an element of `dtype` has it; f64 and f32 are as wide as A.
template <class A>
__device__ A rounded(A x, DType dtype) {
  if constexpr (std::is_same_v<A, float>) {
    if (dtype == DType::f16) return widen(narrow(x));
    if (dtype == DType::bf16) return static_cast<float>(bf16(x));
  }
  return x;
}

/// What a share's sum adds to a rounded result of `dtype`; `factor` as LowRank has it.
template <class A>
__device__ A joining(A sum, quant::Join join, A factor, DType dtype) {
  return join == quant::Join::added ? sum : rounded(rounded(sum, dtype) * factor, dtype);
}

}  // namespace graft::cuda
