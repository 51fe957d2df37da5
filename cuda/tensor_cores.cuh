// Half types on their way from memory to the tensor cores of sm_80 and later: copies into shared memory, fragments out of it, products.
#pragma once

#include <type_traits>

#include "graft/core/dtype.h"

namespace graft::cuda {

__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// 16 bytes, of which `there` are read and the others become 0.
__device__ inline void copy_16(std::uint32_t to, const void* from, int there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int left>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

/// Four matrices of 8 × 8, a register each.
struct Matrices {
  std::uint32_t at[4];
};
/// Every lane gives the address of one row, 16 bytes.
template <bool transposed>
__device__ inline Matrices load_matrices(std::uint32_t address) {
  Matrices m;
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m.at[0]), "=r"(m.at[1]), "=r"(m.at[2]), "=r"(m.at[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m.at[0]), "=r"(m.at[1]), "=r"(m.at[2]), "=r"(m.at[3])
                 : "r"(address)
                 : "memory");
  return m;
}

/// d [16, 8] += a [16, 16] b [16, 8], by a whole warp.
template <class H>
__device__ inline void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
#define GRAFT_MMA(type)                                                      \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (std::is_same_v<H, f16>) GRAFT_MMA("f16");
  else GRAFT_MMA("bf16");
#undef GRAFT_MMA
}

}  // namespace graft::cuda
