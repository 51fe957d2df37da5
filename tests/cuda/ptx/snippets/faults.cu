// Kernels with one fault each, which the interpreter must find. Their names say what is wrong.
#include <cstdint>

extern "C" __global__ void missing_barrier(const float* x, float* y) {
  __shared__ float tile[64];
  tile[threadIdx.x] = x[threadIdx.x];
  if (threadIdx.x >= 32) y[threadIdx.x] = tile[63 - threadIdx.x];
}

extern "C" __global__ void missing_warp_barrier(const float* x, float* y) {
  __shared__ float tile[32];
  tile[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = tile[31 - threadIdx.x];
}

// The second round writes what other warps may still read.
extern "C" __global__ void overwritten_too_early(const float* x, float* y) {
  __shared__ float tile[64];
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = x[round * 64 + threadIdx.x];
    __syncthreads();
    y[round * 64 + threadIdx.x] = tile[63 - threadIdx.x];
  }
}

extern "C" __global__ void one_past_the_end(float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) y[i] = 1;
}

extern "C" __global__ void one_before_the_beginning(const float* x, float* y) { y[threadIdx.x] = x[int(threadIdx.x) - 1]; }

extern "C" __global__ void misaligned_vector(const float* x, float4* y) {
  y[threadIdx.x] = *reinterpret_cast<const float4*>(x + 4 * threadIdx.x + 1);
}

extern "C" __global__ void unwritten_shared(float* y) {
  __shared__ float tile[64];
  if (threadIdx.x < 63) tile[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void unwritten_local(float* y, int at) {
  float local[4];
  local[at] = 1;
  y[threadIdx.x] = local[threadIdx.x & 3];
}

extern "C" __global__ void writes_const(float* y) { y[threadIdx.x] = 1; }

extern "C" __global__ void past_shared(float* y) {
  extern __shared__ float dynamic[];
  dynamic[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = dynamic[threadIdx.x + 1];
}

// One warp waits for two.
extern "C" __global__ void barrier_without_partner(float* y) {
  if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;" ::: "memory");
  y[threadIdx.x] = 1;
}

extern "C" __global__ void barrier_in_a_branch(float* y) {
  if (threadIdx.x % 32 < 16) asm volatile("bar.sync 0;" ::: "memory");
  y[threadIdx.x] = 1;
}

extern "C" __global__ void barrier_after_exit(float* y, int n) {
  if (threadIdx.x >= n) return;
  __syncthreads();
  y[threadIdx.x] = 1;
}

extern "C" __global__ void shuffle_with_absent_lanes(int* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(~0u, int(threadIdx.x), 1);
}

extern "C" __global__ void endless(volatile int* flag) {
  while (*flag == 0) {
  }
}

__device__ unsigned shared_address(const void* pointer) { return unsigned(__cvta_generic_to_shared(pointer)); }

template <int wait>
__device__ void copy(const float4* x, float4* y) {
  __shared__ float4 tile[2][32];
  for (int stage = 0; stage < 2; ++stage) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&tile[stage][threadIdx.x])),
                 "l"(x + stage * 32 + threadIdx.x)
                 : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  if (wait >= 0) asm volatile("cp.async.wait_group %0;" ::"n"(wait >= 0 ? wait : 0) : "memory");
  __syncthreads();
  for (int stage = 0; stage < 2; ++stage) y[stage * 32 + threadIdx.x] = tile[stage][31 - threadIdx.x];
}
extern "C" __global__ void copies_waited_for(const float4* x, float4* y) { copy<0>(x, y); }
extern "C" __global__ void copies_not_waited_for(const float4* x, float4* y) { copy<-1>(x, y); }
extern "C" __global__ void last_copy_not_waited_for(const float4* x, float4* y) { copy<1>(x, y); }

// Waited for by the lane that copied, but no barrier tells the others.
extern "C" __global__ void copies_without_barrier(const float4* x, float4* y) {
  __shared__ float4 tile[64];
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&tile[threadIdx.x])), "l"(x + threadIdx.x)
               : "memory");
  asm volatile("cp.async.wait_all;" ::: "memory");
  if (threadIdx.x >= 32) y[threadIdx.x] = tile[63 - threadIdx.x];
}
