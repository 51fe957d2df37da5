// What kernels are made of, without tensor cores: each kernel holds some instructions to what the host says.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

struct Job {
  const float* x;
  float* y;
  int n;
  float scale;
  char shift[5];
};

__constant__ float table[8] = {1, 2, 4, 8, 16, 32, 64, 128};
__device__ unsigned launches = 40;

// A grid that does not divide n, a struct by value, constants.
extern "C" __global__ void scale(Job job) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < job.n; i += gridDim.x * blockDim.x)
    job.y[i] = job.x[i] * job.scale + table[i % 8] + job.shift[i % 5];
  if (blockIdx.x == 0 && threadIdx.x == 0) ++launches;
}

// Rows summed in shared memory, then by shuffles.
extern "C" __global__ void sum_rows(const float* x, float* sums, int columns) {
  __shared__ float parts[256];
  float sum = 0;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += x[blockIdx.x * columns + i];
  parts[threadIdx.x] = sum;
  __syncthreads();
  for (int half = blockDim.x / 2; half >= 32; half /= 2) {
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x >= 32) return;
  sum = parts[threadIdx.x];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <class T>
__device__ void transpose_tile(const T* x, T* y, int rows, int columns, T (*tile)[33]) {
  const int row = blockIdx.y * 32, column = blockIdx.x * 32;
  for (int i = threadIdx.y; i < 32; i += blockDim.y)
    if (row + i < rows && column + threadIdx.x < columns)
      tile[i][threadIdx.x] = x[std::int64_t(row + i) * columns + column + threadIdx.x];
  __syncthreads();
  for (int i = threadIdx.y; i < 32; i += blockDim.y)
    if (column + i < columns && row + threadIdx.x < rows)
      y[std::int64_t(column + i) * rows + row + threadIdx.x] = tile[threadIdx.x][i];
}
extern "C" __global__ void transpose(const std::uint8_t* x, std::uint8_t* y, int rows, int columns) {
  __shared__ std::uint8_t tile[32][33];
  transpose_tile(x, y, rows, columns, tile);
}

// Divergence of every kind: a switch, loops of different lengths, a function that is called.
__device__ __noinline__ int collatz(int n) {
  int steps = 0;
  while (n != 1) n = n % 2 ? 3 * n + 1 : n / 2, ++steps;
  return steps;
}
extern "C" __global__ void diverge(const int* x, int* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int local[8];
  for (int j = 0; j < 8; ++j) local[(j + x[i]) % 8] = j * i;
  int value = local[i % 8];
  switch (x[i] % 7) {
    case 0: value += collatz(i + 1); break;
    case 1: value = -value; break;
    case 2: value ^= 0x55; break;
    case 3: value = __popc(value); break;
    case 4: value = value / (i % 5 + 1); break;
    case 5: value = __clz(value | 1); break;
    default: value = collatz(x[i]);
  }
  y[i] = value + __popc(__ballot_sync(__activemask(), value & 1)) * 0;
}

// Mathematics with slow paths (large arguments of sin), in three types.
extern "C" __global__ void mathematics(const float* x, float* y, double* z, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float v = x[i];
  float* out = y + 10 * i;
  out[0] = sinf(v), out[1] = expf(-fabsf(v)), out[2] = logf(fabsf(v) + 1), out[3] = tanhf(v), out[4] = powf(fabsf(v), 0.3f),
  out[5] = sqrtf(fabsf(v)) / 3;
  out[6] = erff(v), out[7] = fmodf(v, 1.7f), out[8] = __half2float(__hfma(__float2half(v), __float2half(0.5f), __float2half(1)));
  out[9] = __bfloat162float(__hadd(__float2bfloat16(v), __float2bfloat16(1)));
  z[i] = exp(double(-fabsf(v))) / (sqrt(double(fabsf(v))) + 3);
}

extern "C" __global__ void histogram(const int* x, int n, unsigned* counts, float* total) {
  __shared__ unsigned local[16];
  if (threadIdx.x < 16) local[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    atomicAdd(&local[x[i] & 15], 1);
    atomicAdd(total, 0.5f);
  }
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
}

// Blocks that wait for the one before them, as reductions across blocks do.
extern "C" __global__ void chain(volatile unsigned* flag, float* sum, const float* x) {
  if (threadIdx.x == 0) {
    while (*flag != gridDim.x - 1 - blockIdx.x) {
    }
    __threadfence();
    *sum = *sum / 2 + x[blockIdx.x];
    __threadfence();
    *flag = *flag + 1;
  }
}

// A warp hands data to another through shared memory and a flag with fences.
extern "C" __global__ void message(float* y) {
  __shared__ float data[32];
  __shared__ volatile int ready;
  if (threadIdx.x == 0) ready = 0;
  __syncthreads();
  if (threadIdx.x < 32) {
    data[threadIdx.x] = threadIdx.x * 2.0f;
    __syncwarp();
    __threadfence_block();
    if (threadIdx.x == 0) ready = 1;
  } else {
    while (!ready) {
    }
    __threadfence_block();
    y[threadIdx.x - 32] = data[threadIdx.x - 32];
  }
}
