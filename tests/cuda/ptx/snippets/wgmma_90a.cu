// wgmma out of shared memory or registers, bf16, 64 x 64 of C, k in steps of 16: operands lie in every way that a descriptor names.
#include <cuda_bf16.h>

#include <cstdint>

namespace {

__device__ std::uint64_t descriptor(const void* tile, unsigned leading, unsigned stride, unsigned swizzle) {
  const auto address = static_cast<std::uint64_t>(__cvta_generic_to_shared(tile));
  return (address & 0x3ffff) >> 4 | std::uint64_t(leading >> 4) << 16 | std::uint64_t(stride >> 4) << 32 |
         std::uint64_t(swizzle) << 62;
}

// Accumulators one by one, so that the asm text can name them.
#define TEN(i) "%" #i "0,%" #i "1,%" #i "2,%" #i "3,%" #i "4,%" #i "5,%" #i "6,%" #i "7,%" #i "8,%" #i "9"
#define FOUR(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define ALL FOUR(0), FOUR(4), FOUR(8), FOUR(12), FOUR(16), FOUR(20), FOUR(24), FOUR(28)
#define NAMES "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9," TEN(1) "," TEN(2) ",%30,%31}"

template <int transpose_a, int transpose_b>
__device__ void multiply(float (&d)[32], std::uint64_t a, std::uint64_t b, int accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " NAMES
               ", %32, %33, p, 1, 1, %35, %36;\n}\n"
               : ALL
               : "l"(a), "l"(b), "r"(accumulate), "n"(transpose_a), "n"(transpose_b));
}
template <int transpose_b>
__device__ void multiply(float (&d)[32], const unsigned (&a)[4], std::uint64_t b, int accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " NAMES
               ", {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
               : ALL
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(transpose_b));
}

// Where the operands lie: bytes of each, and the fields of their descriptors.
struct Layout {
  int bytes;
  unsigned leading_a, stride_a, leading_b, stride_b, swizzle;
  int step_a, step_b;  // from one k16 to the next
};

enum Fault { none, no_proxy_fence, no_wait, no_fence, written_under_it };

// a and b as they shall lie in shared memory, byte for byte.
template <int transpose_a, int transpose_b, int fault, bool registers>
__device__ void product(const uint4* a, const uint4* b, int k, Layout layout, float* c) {
  extern __shared__ __align__(1024) char tiles[];
  char* tiles_b = tiles + layout.bytes;
  for (int at = threadIdx.x; at < layout.bytes / 16; at += blockDim.x) {
    reinterpret_cast<uint4*>(tiles)[at] = a[at];
    reinterpret_cast<uint4*>(tiles_b)[at] = b[at];
  }
  if (fault != no_proxy_fence) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  float d[32] = {};
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  if (fault != no_fence) asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  for (int step = 0; step < k / 16; ++step) {
    const std::uint64_t by = descriptor(tiles_b + step * layout.step_b, layout.leading_b, layout.stride_b, layout.swizzle);
    if (registers) {
      // Rows of a lie one behind the other here.
      unsigned x[4];
      for (int r = 0; r < 4; ++r)
        x[r] = reinterpret_cast<const unsigned*>(a)[((row + r % 2 * 8) * k + step * 16 + r / 2 * 8 + column) / 2];
      multiply<transpose_b>(d, x, by, step > 0);
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    } else {
      multiply<transpose_a, transpose_b>(
          d, descriptor(tiles + step * layout.step_a, layout.leading_a, layout.stride_a, layout.swizzle), by, step > 0);
    }
  }
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  if (fault == written_under_it) tiles[threadIdx.x / 32 * 16 * 128 + threadIdx.x % 32] = 0;  // rows of its own warp
  if (fault != no_wait) asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  for (int i = 0; i < 32; ++i) c[(row + i / 2 % 2 * 8) * 64 + column + i / 4 * 8 + i % 2] = d[i];
}

}  // namespace

#define KERNEL(name, transpose_a, transpose_b, fault, registers)                                    \
  extern "C" __global__ void name(const uint4* a, const uint4* b, int k, Layout layout, float* c) { \
    product<transpose_a, transpose_b, fault, registers>(a, b, k, layout, c);                        \
  }
KERNEL(k_k, 0, 0, none, false)
KERNEL(k_mn, 0, 1, none, false)
KERNEL(mn_k, 1, 0, none, false)
KERNEL(mn_mn, 1, 1, none, false)
KERNEL(registers_k, 0, 0, none, true)
KERNEL(registers_mn, 0, 1, none, true)
KERNEL(without_proxy_fence, 0, 0, no_proxy_fence, false)
KERNEL(without_wait, 0, 0, no_wait, false)
KERNEL(without_fence, 0, 0, no_fence, false)
KERNEL(written_too_early, 0, 0, written_under_it, false)
