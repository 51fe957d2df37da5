// Folding the values of a block's threads in an order that the number of threads alone decides.
#pragma once

namespace graft::cuda {

inline constexpr int most_threads = 256;

/// fold(a, b) over threads tid, tid + step, tid + 2 step, … of the block; the result is in threads below `step`. blockDim.x / step is a power
/// of two. All threads must call it.
template <class A, class Fold>
__device__ A fold_block(A value, int step, Fold&& fold) {
  __shared__ A values[most_threads];
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // the values of the call before have been read
  values[thread] = value;
  for (int half = static_cast<int>(blockDim.x) / 2; half >= step; half /= 2) {
    __syncthreads();
    if (thread < half) values[thread] = value = fold(value, values[thread + half]);
  }
  return value;
}

/// The same over all threads, and every thread gets the result.
template <class A, class Fold>
__device__ A fold_to_all(A value, Fold&& fold) {
  __shared__ A result;
  value = fold_block(value, 1, fold);
  if (threadIdx.x == 0) result = value;
  __syncthreads();
  value = result;
  __syncthreads();
  return value;
}

}  // namespace graft::cuda
