// Random numbers: a thread draws the four elements of one Philox block, from the words that core/rng.h gives every device.
#include "graft/core/rng.h"
#include "graft/cuda/elements.cuh"
#include "graft/cuda/random.h"

namespace graft::cuda {
namespace {

template <class F>
__device__ void for_each_block(const DrawInto& d, F&& f) {
  for (std::int64_t block = first_index(); block * 4 < d.count; block += index_step()) {
    const auto words = random_block(d.seed, d.stream, static_cast<std::uint64_t>(block));
#pragma unroll
    for (int i = 0; i < 4; i += 2) f(words[i], words[i + 1], block * 4 + i);
  }
}

template <class A>
__device__ void set(const DrawInto& d, std::int64_t i, A value) {
  if (i < d.count) store<A>(d.y, d.dtype, i, value);
}

template <class A>
__device__ void uniform(const DrawInto& d) {
  for_each_block(d, [&](std::uint32_t word0, std::uint32_t word1, std::int64_t i) {
    set(d, i, static_cast<A>(d.p0 + (d.p1 - d.p0) * static_cast<double>(to_uniform(word0))));
    set(d, i + 1, static_cast<A>(d.p0 + (d.p1 - d.p0) * static_cast<double>(to_uniform(word1))));
  });
}

template <class A>
__device__ void normal(const DrawInto& d) {
  for_each_block(d, [&](std::uint32_t word0, std::uint32_t word1, std::int64_t i) {
    const auto pair = to_normals(word0, word1);
    set(d, i, static_cast<A>(d.p0 + d.p1 * pair[0]));
    set(d, i + 1, static_cast<A>(d.p0 + d.p1 * pair[1]));
  });
}

}  // namespace

extern "C" {

__global__ void uniform_f64(const __grid_constant__ DrawInto d) { uniform<double>(d); }
__global__ void uniform_f32(const __grid_constant__ DrawInto d) { uniform<float>(d); }
__global__ void normal_f64(const __grid_constant__ DrawInto d) { normal<double>(d); }
__global__ void normal_f32(const __grid_constant__ DrawInto d) { normal<float>(d); }
__global__ void bernoulli(const __grid_constant__ DrawInto d) {
  for_each_block(d, [&](std::uint32_t word0, std::uint32_t word1, std::int64_t i) {
    set(d, i, static_cast<std::int32_t>(word0 >> 8) < d.below ? 1.0f : 0.0f);
    set(d, i + 1, static_cast<std::int32_t>(word1 >> 8) < d.below ? 1.0f : 0.0f);
  });
}

}  // extern "C"
}  // namespace graft::cuda
