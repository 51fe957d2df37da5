// How blocks that share a sum find out which of them adds it up.
#pragma once

namespace graft::cuda {

/// Whether this block is the last of `blocks` to come, which then sees what the others wrote before. All its threads ask, with a place in
/// shared memory; `arrived`, which counts, is 0 before and, for the next launch, afterwards.
__device__ inline bool is_last_block(unsigned& arrived, unsigned blocks, bool& last) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&arrived, 1u) + 1 == blocks;
    if (last) arrived = 0;
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}

}  // namespace graft::cuda
