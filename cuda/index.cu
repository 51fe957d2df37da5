// Indexed reads and sums. Sums go in index order, line by line: the same bits on every run, as atomics would not give.
#include "graft/cuda/elements.cuh"
#include "graft/cuda/index.h"

namespace graft::cuda {
namespace {

template <class Bits>
__device__ void gather(const Gather& g) {
  for (std::int64_t i = first_index(); i < g.count; i += index_step()) {
    const auto at = g.walk.at(i);
    static_cast<Bits*>(g.y)[at[0]] = static_cast<const Bits*>(g.x)[at[2] + g.index[at[1]] * g.jump];
  }
}

/// Elements that meet at one place differ along the indexed dimension alone.
template <class T, class Y>
__device__ void scatter_add(const ScatterAdd& s) {
  for (std::int64_t line = first_index(); line < s.lines; line += index_step()) {
    const auto at = s.walk.at(line);
    for (std::int64_t i = 0; i < s.length; ++i) {
      Y& target = static_cast<Y*>(s.y)[at[2] + s.index[at[1] + i * s.index_step] * s.jump];
      target = static_cast<Y>(target + static_cast<const T*>(s.x)[at[0] + i * s.x_step]);
    }
  }
}

}  // namespace

extern "C" {

__global__ void gather_1(const __grid_constant__ Gather g) { gather<std::uint8_t>(g); }
__global__ void gather_2(const __grid_constant__ Gather g) { gather<std::uint16_t>(g); }
__global__ void gather_4(const __grid_constant__ Gather g) { gather<std::uint32_t>(g); }
__global__ void gather_8(const __grid_constant__ Gather g) { gather<std::uint64_t>(g); }

__global__ void scatter_add_f64(const __grid_constant__ ScatterAdd s) { scatter_add<double, double>(s); }
__global__ void scatter_add_f32(const __grid_constant__ ScatterAdd s) { scatter_add<float, float>(s); }
__global__ void scatter_add_f16(const __grid_constant__ ScatterAdd s) { scatter_add<f16, float>(s); }
__global__ void scatter_add_bf16(const __grid_constant__ ScatterAdd s) { scatter_add<bf16, float>(s); }
// Signs do not matter to sums that wrap.
__global__ void scatter_add_i64(const __grid_constant__ ScatterAdd s) { scatter_add<std::uint64_t, std::uint64_t>(s); }
__global__ void scatter_add_i32(const __grid_constant__ ScatterAdd s) { scatter_add<std::uint32_t, std::uint32_t>(s); }
__global__ void scatter_add_i16(const __grid_constant__ ScatterAdd s) { scatter_add<std::uint16_t, std::uint16_t>(s); }
__global__ void scatter_add_i8(const __grid_constant__ ScatterAdd s) { scatter_add<std::uint8_t, std::uint8_t>(s); }
__global__ void scatter_add_u8(const __grid_constant__ ScatterAdd s) { scatter_add<std::uint8_t, std::uint8_t>(s); }

}  // extern "C"
}  // namespace graft::cuda
