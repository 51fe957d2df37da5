// Few rows of bf16 or f16 times a packed weight, at the speed at which its codes can be read. Which lane has what: skinny_layout.h.
//
// Weights stream through a ring of cp.async for each warp, which no barrier stops: x is staged while they are under way. A group's sum is
// made of codes as they are, exactly, with what they were raised by taken off with the sum of x afterwards: a weight is not rounded.
// Blocks have equal shares of all units. Those that meet in a slab leave their sums in memory, and the last to come adds them up, by
// number: who comes last does not matter.
#include "graft/cuda/joins.cuh"
#include "graft/cuda/last_block.cuh"
#include "graft/cuda/skinny_stage.cuh"
#include "graft/cuda/skinny_sums.cuh"

namespace graft::cuda {
namespace {

using namespace skinny;

// How many of the blocks that meet in a slab have come; 0 again when all have.
__device__ unsigned arrived[Skinny::most_slabs];

/// load<float> for all but f64, without a jump, so that loads are under way together.
__device__ float narrow_element(const void* data, DType dtype, std::int64_t i) {
  std::uint32_t bits = 0;
  if (dtype == DType::f32) bits = static_cast<const std::uint32_t*>(data)[i];
  else bits = static_cast<const std::uint16_t*>(data)[i];
  return dtype == DType::f16 ? number<f16>(bits) : __uint_as_float(dtype == DType::bf16 ? bits << 16 : bits);
}

/// store_same<float> for the same types.
__device__ void store_narrow(void* data, DType dtype, std::int64_t i, float value) {
  if (dtype == DType::f32) static_cast<float*>(data)[i] = value;
  else static_cast<std::uint16_t*>(data)[i] = dtype == DType::f16 ? narrow(value).bits : bf16(value).bits;
}

/// The block's share of the low-rank terms, as large as its share of the slab's units: all blocks have equal work, and it is done while
/// the first weights are under way.
template <class Sums>
__device__ void add_terms(const Skinny& p, const Walk& walk, Sums& sums, char* shared) {
  auto* v = reinterpret_cast<float*>(shared);
  float* u = v + staged_ranks * slab;
  const int thread = static_cast<int>(threadIdx.x), column = walk.slab_index * slab + thread;
#pragma unroll 1
  for (int i = 0; i < p.added.terms; ++i) {
    const Term& term = p.added.term[i];
    const int end = share_begin(term.rank, p.units_per_slab, walk.end);
#pragma unroll 1
    for (int r = share_begin(term.rank, p.units_per_slab, walk.first); r < end; r += staged_ranks) {
      const int ranks = min(end - r, staged_ranks);
      __syncthreads();  // what was staged before has been read
#pragma unroll 4
      for (int j = 0; j < ranks; ++j)
        v[j * slab + thread] =
            column < p.out ? narrow_element(term.v, term.v_dtype, (r + j) * term.v_strides[0] + column * term.v_strides[1])
                           : 0.0f;
#pragma unroll 1
      for (int at = thread; at < ranks * most_rows; at += threads) {
        const int j = at / most_rows, m = at % most_rows;
        u[at] = m < p.m ? narrow_element(term.u, term.u_dtype, m * term.u_strides[0] + (r + j) * term.u_strides[1]) : 0.0f;
      }
      __syncthreads();
      sums.add_ranks(u, v, ranks);
    }
  }
}

__device__ float* shares_of(const Skinny& p, int slab_index, const Term& term) {
  return p.shares + (static_cast<std::int64_t>(slab_index) * p.added.term_rows + term.rows_before) * slab;
}

/// Terms that join a rounded result: their whole sums, for as many of the slab's columns as the block's share of its units comes to. A sum
/// is one thread's, so that what it joins with is known at once.
__device__ void make_shares(const Skinny& p, const Walk& walk) {
  const int begin = share_begin(slab, p.units_per_slab, walk.first),
            columns = share_begin(slab, p.units_per_slab, walk.end) - begin;
#pragma unroll 1
  for (int i = 0; i < p.added.terms; ++i) {
    const Term& term = p.added.term[i];
    float* shares = shares_of(p, walk.slab_index, term);
#pragma unroll 1
    for (int at = static_cast<int>(threadIdx.x); at < term.rows * columns; at += threads) {
      const int row = at / columns, in_slab = begin + at % columns, column = walk.slab_index * slab + in_slab;
      if (column >= p.out) continue;
      float sum = 0;
#pragma unroll 4
      for (int r = 0; r < term.rank; ++r)
        sum = fmaf(narrow_element(term.u, term.u_dtype, row * term.u_strides[0] + r * term.u_strides[1]),
                   narrow_element(term.v, term.v_dtype, r * term.v_strides[0] + column * term.v_strides[1]), sum);
      shares[row * slab + in_slab] = joining(sum, term.join, term.factor, p.y_dtype);
    }
  }
}

/// The sums of all blocks that meet in a slab, in their order, the bias, and what joins them when they are rounded. A thread has a column; one
/// block does this while others have ended, so that what counts is how many loads are under way.
template <int rows, int blocks>  // at once
__device__ void add_up(const Skinny& p, int slab_index, int first, int last) {
  const int column = slab_index * slab + static_cast<int>(threadIdx.x);
  if (column >= p.out) return;
  const float bias = p.added.bias ? load<float>(p.added.bias, p.added.bias_dtype, column * p.added.bias_stride) : 0.0f;
  const std::int64_t size = static_cast<std::int64_t>(p.m) * slab;
#pragma unroll 1
  for (int row = 0; row < p.m; row += rows) {
    const float* from = p.sums + meeting(first, slab_index) * size + row * slab + threadIdx.x;
    float sum[rows] = {};
#pragma unroll 1
    for (int block = first; block <= last; block += blocks, from += blocks * size) {
      float part[blocks][rows];  // the last block's and row's again where there are no more
#pragma unroll
      for (int i = 0; i < blocks; ++i)
#pragma unroll
        for (int j = 0; j < rows; ++j) part[i][j] = __ldcg(from + min(i, last - block) * size + min(j, p.m - 1 - row) * slab);
#pragma unroll
      for (int i = 0; i < blocks; ++i)
#pragma unroll
        for (int j = 0; j < rows; ++j) sum[j] += block + i <= last ? part[i][j] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < rows; ++j) sum[j] += bias;
#pragma unroll 1
    for (int i = 0; i < (p.shares ? p.added.terms : 0); ++i) {
      const Term& term = p.added.term[i];
      const int first = row - term.first_row;
      if (first + rows <= 0 || first >= term.rows) continue;
      const float* shares = shares_of(p, slab_index, term) + threadIdx.x;
      float share[rows];
#pragma unroll
      for (int j = 0; j < rows; ++j) share[j] = __ldcg(shares + min(max(first + j, 0), term.rows - 1) * slab);
#pragma unroll
      for (int j = 0; j < rows; ++j)
        if (first + j >= 0 && first + j < term.rows) sum[j] = rounded(sum[j], p.y_dtype) + share[j];
    }
#pragma unroll
    for (int j = 0; j < rows; ++j)
      if (row + j < p.m) store_narrow(p.y, p.y_dtype, (row + j) * p.y_strides[0] + column * p.y_strides[1], sum[j]);
  }
}

template <int bits, class T, int row_tiles>
__device__ void product(const Skinny& p) {
  extern __shared__ __align__(16) char shared[];
  constexpr Shared layout = shared_layout(bits, row_tiles);
  auto* last_one = reinterpret_cast<bool*>(shared + layout.last);
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x), warp = static_cast<int>(threadIdx.x) / 32;
  const int begin = share_begin(p.units, blocks, block), end = share_begin(p.units, blocks, block + 1);
  const auto ring = shared_address(shared + layout.ring) + warp * ring_bytes(bits);
  Stream<bits> stream(p, begin, end, ring);
  for (int at = begin; at < end;) {
    const Walk walk(p, at, end);
    at += walk.end - walk.first;
    Sums<bits, T, row_tiles> sums(p, walk.slab_index, shared);
    if (p.shares) make_shares(p, walk);
    else add_terms(p, walk, sums, shared);
#pragma unroll 1
    for (int u = walk.first; u < walk.end; u += staged_units(row_tiles)) {
      const int units = min(staged_units(row_tiles), walk.end - u);
      __syncthreads();
      stage<bits, T, row_tiles>(p, u * unit, units, shared);
      __syncthreads();
      if (sums.exists())
#pragma unroll 1
        for (int i = 0; i < units; ++i) sums.add_unit(stream, shared, i);
    }
    const std::int64_t size = static_cast<std::int64_t>(p.m) * slab;
    if (sums.exists()) sums.finish(p.sums + meeting(block, walk.slab_index) * size);
    const int first = block_of(p.units, blocks, walk.slab_index * p.units_per_slab);
    const int last = block_of(p.units, blocks, (walk.slab_index + 1) * p.units_per_slab - 1);
    if (!is_last_block(arrived[walk.slab_index], static_cast<unsigned>(last - first + 1), *last_one)) continue;
    add_up<row_tiles == 1 ? 2 : 4, row_tiles == 1 ? 16 : 8>(p, walk.slab_index, first, last);
  }
}

}  // namespace

extern "C" {

__global__ void __launch_bounds__(threads, 2) skinny_bf16_2_bits_8(const __grid_constant__ Skinny p) { product<2, bf16, 1>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_bf16_2_bits_16(const __grid_constant__ Skinny p) { product<2, bf16, 2>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_bf16_2_bits_32(const __grid_constant__ Skinny p) { product<2, bf16, 4>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_f16_2_bits_8(const __grid_constant__ Skinny p) { product<2, f16, 1>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_f16_2_bits_16(const __grid_constant__ Skinny p) { product<2, f16, 2>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_f16_2_bits_32(const __grid_constant__ Skinny p) { product<2, f16, 4>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_bf16_3_bits_8(const __grid_constant__ Skinny p) { product<3, bf16, 1>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_bf16_3_bits_16(const __grid_constant__ Skinny p) { product<3, bf16, 2>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_bf16_3_bits_32(const __grid_constant__ Skinny p) { product<3, bf16, 4>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_f16_3_bits_8(const __grid_constant__ Skinny p) { product<3, f16, 1>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_f16_3_bits_16(const __grid_constant__ Skinny p) { product<3, f16, 2>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_f16_3_bits_32(const __grid_constant__ Skinny p) { product<3, f16, 4>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_bf16_4_bits_8(const __grid_constant__ Skinny p) { product<4, bf16, 1>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_bf16_4_bits_16(const __grid_constant__ Skinny p) { product<4, bf16, 2>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_bf16_4_bits_32(const __grid_constant__ Skinny p) { product<4, bf16, 4>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_f16_4_bits_8(const __grid_constant__ Skinny p) { product<4, f16, 1>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_f16_4_bits_16(const __grid_constant__ Skinny p) { product<4, f16, 2>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_f16_4_bits_32(const __grid_constant__ Skinny p) { product<4, f16, 4>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_bf16_8_bits_8(const __grid_constant__ Skinny p) { product<8, bf16, 1>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_bf16_8_bits_16(const __grid_constant__ Skinny p) { product<8, bf16, 2>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_bf16_8_bits_32(const __grid_constant__ Skinny p) { product<8, bf16, 4>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_f16_8_bits_8(const __grid_constant__ Skinny p) { product<8, f16, 1>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_f16_8_bits_16(const __grid_constant__ Skinny p) { product<8, f16, 2>(p); }
__global__ void __launch_bounds__(threads, 2) skinny_f16_8_bits_32(const __grid_constant__ Skinny p) { product<8, f16, 4>(p); }

}  // extern "C"
}  // namespace graft::cuda
