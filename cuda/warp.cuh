// A thread's place in its block, by warps and their lanes.
#pragma once

namespace graft::cuda {

inline constexpr int warp_size = 32;
inline constexpr unsigned all_lanes = 0xffffffffu;

__device__ inline int warp() { return static_cast<int>(threadIdx.x) / warp_size; }
__device__ inline int lane() { return static_cast<int>(threadIdx.x) % warp_size; }

}  // namespace graft::cuda
