// The angles of rotary position embedding (Su et al., "RoFormer", 2021).
#pragma once

#include "graft/examples/llama/config.h"

namespace graft::llama {

/// Cosines and sines for rotary(): f32 [1, length, head_dim / 2] for the positions begin … begin + length - 1.
struct RotaryTable {
  Tensor cos, sin;
};
RotaryTable rotary_table(const Rope& rope, std::int64_t head_dim, std::int64_t begin, std::int64_t length, Device device);

}  // namespace graft::llama
