// C[M, N] = A[M, K] * B[K, N] by mma.sync, one warp to 16 x 8 of C; A row by row, B row by row, in bf16, through shared memory.
#include <cuda_bf16.h>

#include <cstdint>

namespace {

__device__ unsigned shared_address(const void* pointer) { return unsigned(__cvta_generic_to_shared(pointer)); }

// `swap`: the fault of a fragment whose two middle registers change places.
template <bool swap>
__device__ void multiply(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int k, int n) {
  __shared__ __align__(16) __nv_bfloat16 tile_a[2][16][16], tile_b[2][16][8];
  const int row = blockIdx.y * 16, column = blockIdx.x * 8, lane = threadIdx.x;
  const auto load = [&](int step) {
    const int at = step * 16;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&tile_a[step % 2][lane / 2][lane % 2 * 8])),
                 "l"(a + (row + lane / 2) * k + at + lane % 2 * 8)
                 : "memory");
    if (lane < 16)
      asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(shared_address(&tile_b[step % 2][lane][0])),
                   "l"(b + (at + lane) * n + column)
                   : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  float d[4] = {};
  load(0);
  for (int step = 0; step < k / 16; ++step) {
    if (step + 1 < k / 16) load(step + 1);
    else asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncwarp();
    unsigned x[4], y[2];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[swap ? 2 : 1]), "=r"(x[swap ? 1 : 2]), "=r"(x[3])
                 : "r"(shared_address(&tile_a[step % 2][lane % 16][lane / 16 * 8])));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(y[0]), "=r"(y[1])
                 : "r"(shared_address(&tile_b[step % 2][lane % 16][0])));
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
    __syncwarp();
  }
  for (int i = 0; i < 4; ++i) c[(row + lane / 4 + i / 2 * 8) * n + column + lane % 4 * 2 + i % 2] = d[i];
}

}  // namespace

extern "C" __global__ void multiply_right(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int k, int n) {
  multiply<false>(a, b, c, k, n);
}
extern "C" __global__ void multiply_swapped(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int k, int n) {
  multiply<true>(a, b, c, k, n);
}

// Tiles transposed by stmatrix and by movmatrix.
extern "C" __global__ void transpose_tiles(const unsigned* x, std::uint16_t* y, unsigned* z) {
  __shared__ __align__(16) std::uint16_t tile[8][8];
  asm volatile("{\n.reg .b32 moved;\nmovmatrix.sync.aligned.m8n8.trans.b16 moved, %0;\nst.global.b32 [%1], moved;\n}" ::"r"(
                   x[threadIdx.x]),
               "l"(z + threadIdx.x)
               : "memory");
  // Rows of the tile from what the lanes hold, written one by one, read as a matrix.
  *reinterpret_cast<unsigned*>(&tile[threadIdx.x / 4][threadIdx.x % 4 * 2]) = x[threadIdx.x];
  __syncwarp();
  unsigned r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(r)
               : "r"(shared_address(&tile[threadIdx.x % 8][0])));
  *reinterpret_cast<unsigned*>(y + 2 * threadIdx.x) = r;
}
