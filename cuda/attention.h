// Arguments of the kernels in attention.cu.
#pragma once

#include "graft/core/view.h"

namespace graft::cuda {

/// A [batch, heads, length, width] view; lse and delta have no width.
struct Heads {
  void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t strides[4] = {};

  Heads() = default;
  explicit Heads(const View& view) : data(view.data), dtype(view.dtype) {
    for (int i = 0; i < view.rank; ++i) strides[i] = view.strides[i];
  }
};

struct Attention {
  std::int64_t batch, heads, queries, width, kv_heads, keys, value_width;
  double scale;
  bool causal;
  const std::uint8_t* mask;  // bool [batch, keys]; null: every key is seen
  std::int64_t mask_strides[2];
  Heads q, k, v, y, lse;
  Heads dy, delta, dq, dk, dv;  // of the backward pass; delta = Σ dy · y of each query
};

inline constexpr int attention_warps = 4;

}  // namespace graft::cuda
