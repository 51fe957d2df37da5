// The first half of low-rank terms, u = x Aᵀ, and x in the order of the packed rows, from one reading of x. Which thread has what:
// prepass_maps.h.
#include <cmath>

#include "graft/cuda/arrange.cuh"
#include "graft/cuda/elements.cuh"
#include "graft/cuda/last_block.cuh"
#include "graft/cuda/prepass.h"
#include "graft/cuda/tensor_cores.cuh"
#include "graft/cuda/warp.cuh"

namespace graft::cuda {
namespace shrink {
namespace {

// How many blocks of a row block's parts have come; 0 again when all have.
__device__ unsigned arrived[most_row_blocks];

/// What columns column … column + 3 of x meet of a row of A, of which every entry is for `group` of them; 0 where there are none.
__device__ inline float4 factor_four(const float* row, int column, int columns, int group) {
  if (group > 1) {
    int entry = column / group, left = group - column % group;  // columns that it is still for
    const auto next = [&](int at) {
      const float value = at < columns ? row[entry] : 0;
      if (--left == 0) left = group, ++entry;
      return value;
    };
    const float first = next(column), second = next(column + 1), third = next(column + 2);
    return {first, second, third, next(column + 3)};
  }
  if (column + 4 <= columns) return *reinterpret_cast<const float4*>(row + column);
  float4 four{};
  if (column < columns) four.x = row[column];
  if (column + 1 < columns) four.y = row[column + 1];
  if (column + 2 < columns) four.z = row[column + 2];
  return four;
}

__device__ inline void add(float& sum, const float4& a, const float4& b) {
  sum = std::fma(a.x, b.x, sum), sum = std::fma(a.y, b.y, sum), sum = std::fma(a.z, b.z, sum), sum = std::fma(a.w, b.w, sum);
}

/// The sum over all lanes of one of their `count` numbers, lane / (32 / count): a lane gives half of its numbers away for half of another's
/// until it has one.
template <int count, int apart = 16>
__device__ inline float fold(float* sums) {
  constexpr int half = count / 2;
  if constexpr (half > 0) {
    const bool upper = lane() & apart;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float given = upper ? sums[i] : sums[i + half];
      sums[i] = (upper ? sums[i + half] : sums[i]) + __shfl_xor_sync(all_lanes, given, apart);
    }
  } else {
    sums[0] += __shfl_xor_sync(all_lanes, sums[0], apart);
  }
  constexpr int left = half > 0 ? half : 1;
  if constexpr (apart > 1) return fold<left, apart / 2>(sums);
  else return sums[0];
}

/// What a block has of x: rows from first_row on, of which so many are there, and the columns of its sums.
struct Part {
  int row_block, number, first_row, rows_there, begin, end;
  __device__ Part(const Prepass& p, int rows)
      : row_block(static_cast<int>(blockIdx.x) / p.parts),
        number(static_cast<int>(blockIdx.x) % p.parts),
        first_row(row_block * rows),
        rows_there(min(rows, p.m - first_row)),
        begin(number * p.part_columns),
        end(min(begin + p.part_columns, p.columns)) {}
};

/// Lines of the block's rows from column `begin` on; 0 beyond the last row and column.
template <class W, int rows>
__device__ void copy_rows(const Prepass& p, const Part& part, int begin, std::uint32_t to) {
  constexpr int piece = piece_bytes / static_cast<int>(sizeof(W));  // columns
  const int pieces = p.line / piece_bytes;
#pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    const W* from = static_cast<const W*>(p.x) + (part.first_row + row) * p.ld + begin;
    const int columns_there = row < part.rows_there ? p.columns - begin : 0;
#pragma unroll 4
    for (int i = copied_piece(static_cast<int>(threadIdx.x)); i < pieces; i += threads) {
      const int left = columns_there - i * piece, there = left <= 0 ? 0 : left < piece ? left : piece;
      copy_16(to + row * p.line + i * piece_bytes, from + i * piece, there * static_cast<int>(sizeof(W)));
    }
  }
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
}

__device__ inline const Prepass::Term& term_of(const Prepass& p, int unit) {
  int term = 0;
  while (term + 1 < p.terms && p.term[term + 1].units_before <= unit) ++term;
  return p.term[term];
}
__device__ inline bool meets(const Prepass::Term& term, const Part& part) {
  return term.first_row < part.first_row + part.rows_there && part.first_row < term.first_row + term.rows;
}

/// Two ranks of a factor by the block's rows, over every `slices`-th stretch of the part's columns. Rows of x lie `line` bytes apart.
template <class W, int rows>
__device__ inline void add_unit(const Prepass& p, const Part& part, const Prepass::Term& term, int rank, const unsigned char* x,
                                int slice, int slices, float (&sums)[unit_sums(rows)]) {
  const float *first = term.A + rank * term.ld, *second = rank + 1 < term.rank ? first + term.ld : first;
  int column = part.begin + slice * stretch + lane_column(lane());
  float4 a = factor_four(first, column, part.end, term.group), b = factor_four(second, column, part.end, term.group);
#pragma unroll 1
  for (; column < part.end; column += slices * stretch) {
    const int next = column + slices * stretch;  // on its way while these are multiplied
    const float4 next_a = factor_four(first, next, part.end, term.group), next_b = factor_four(second, next, part.end, term.group);
    const unsigned char* from = x + (column - part.begin) * static_cast<int>(sizeof(W));
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      const float4 four = widened_four<W>(from + row * p.line);
      add(sums[row], four, a), add(sums[rows + row], four, b);
    }
    a = next_a, b = next_b;
  }
}

/// Where a sum of a unit belongs; null if nowhere.
template <int rows>
__device__ inline float* place_of(const Prepass& p, const Part& part, const Prepass::Term& term, int unit, int number) {
  const int rank = (unit - term.units_before) * unit_ranks + sum_rank(rows, number);
  const int row = part.first_row + sum_row(rows, number);
  if (rank >= term.rank || row < term.first_row || row >= min(term.first_row + term.rows, p.m)) return nullptr;
  return term.u + (row - term.first_row) * term.u_strides[0] + rank * term.u_strides[1];
}

/// Adds up what all parts left of the row block's sums, in their order: the last block to come does.
template <int rows>
__device__ void add_parts(const Prepass& p, const Part& part, const float* partial, unsigned char* memory) {
  if (!is_last_block(arrived[part.row_block], static_cast<unsigned>(p.parts), *reinterpret_cast<bool*>(memory))) return;
  const int all = p.units * unit_sums(rows);
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x); at < all; at += threads) {
    const int unit = at / unit_sums(rows);
    const Prepass::Term& term = term_of(p, unit);
    float* const to = place_of<rows>(p, part, term, unit, at % unit_sums(rows));
    if (!to) continue;
    float sum = 0;
#pragma unroll 8
    for (int i = 0; i < p.parts; ++i) sum += __ldcg(partial + static_cast<std::int64_t>(i) * all + at);
    *to = sum * term.scale;
  }
}

template <class W, int rows>
__device__ void prepass(const Prepass& p) {
  constexpr int count = unit_sums(rows);
  extern __shared__ __align__(16) unsigned char memory[];
  const Part part(p, rows);
  const int copied = p.whole ? 0 : part.begin;
  if (p.whole || p.units > 0) copy_rows<W, rows>(p, part, copied, shared_address(memory));
  if constexpr (sizeof(W) == 2) {
    const auto arranged = [&](auto element) {
      arrange(p.arranged, part.number, p.parts, part.first_row, part.rows_there, element);
    };
    if (p.arranged.x && p.whole) {
      arranged([&](int row, int channel) { return reinterpret_cast<const std::uint16_t*>(memory + row * p.line)[channel]; });
    } else if (p.arranged.x) {
      const auto* x = static_cast<const std::uint16_t*>(p.x) + part.first_row * p.ld;
      arranged([&](int row, int channel) { return x[row * p.ld + channel]; });
    }
  }

  auto* const warp_sums = reinterpret_cast<float*>(memory + rows * p.line);  // [warp][sum]
  float* const partial = p.partial + static_cast<std::int64_t>(part.row_block) * p.parts * p.units * count;
  const int groups = groups_of(p.units), group = warp() % groups, slices = warps / groups;
#pragma unroll 1
  for (int first = 0; first < p.units; first += groups) {
    const int unit = first + group;
    const Prepass::Term& term = term_of(p, unit);
    if (unit < p.units && meets(term, part)) {
      float sums[count] = {};
      add_unit<W, rows>(p, part, term, (unit - term.units_before) * unit_ranks,
                        memory + (part.begin - copied) * static_cast<int>(sizeof(W)), warp() / groups, slices, sums);
      const float sum = fold<count>(sums);
      if (lane() % lanes_per_sum(rows) == 0) warp_sums[warp() * count + lane() / lanes_per_sum(rows)] = sum;
    }
    __syncthreads();
    for (int at = static_cast<int>(threadIdx.x); at < groups * count; at += threads) {
      const int its = first + at / count;
      if (its >= p.units) break;
      const Prepass::Term& its_term = term_of(p, its);
      float* const to = place_of<rows>(p, part, its_term, its, at % count);
      if (!to) continue;
      float sum = 0;
      for (int slice = 0; slice < slices; ++slice) sum += warp_sums[slice * groups * count + at];
      if (p.partial) partial[part.number * p.units * count + first * count + at] = sum;
      else *to = sum * its_term.scale;
    }
    __syncthreads();
  }
  if (p.partial) add_parts<rows>(p, part, partial, memory);
}

}  // namespace
}  // namespace shrink

extern "C" {

#define GRAFT_PREPASS(name, W, rows)                                                                                   \
  __global__ void __launch_bounds__(shrink::threads, sizeof(W) == 2 ? 3 : 2) name(const __grid_constant__ Prepass p) { \
    shrink::prepass<W, rows>(p);                                                                                       \
  }
GRAFT_PREPASS(prepass_bf16_4, bf16, 4)
GRAFT_PREPASS(prepass_bf16_16, bf16, 16)
GRAFT_PREPASS(prepass_f16_4, f16, 4)
GRAFT_PREPASS(prepass_f16_16, f16, 16)
GRAFT_PREPASS(prepass_f32_4, float, 4)
GRAFT_PREPASS(prepass_f32_16, float, 16)
#undef GRAFT_PREPASS

}  // extern "C"
}  // namespace graft::cuda
