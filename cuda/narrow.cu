// Products of a wide matrix, read once, with narrow ones in both of its directions: what an adapter's gradients are. Where everything lies:
// narrow_maps.h.
#include <cmath>

#include "graft/cuda/elements.cuh"
#include "graft/cuda/narrow.h"
#include "graft/cuda/tensor_cores.cuh"
#include "graft/cuda/warp.cuh"

namespace graft::cuda {
namespace panels {
namespace {

__device__ inline void write(const NarrowProducts::Target& to, int share, int row, int rank, float sum) {
  store_same<float>(to.data, to.dtype, share * to.strides[0] + row * to.strides[1] + rank * to.strides[2], sum);
}

/// Copies `lines` lines of `bytes` bytes, from the column where `from` points on; those of rows or bytes that are not there become 0. A thread
/// has the same piece of some lines, whose swizzle is the same.
template <int lines, int bytes, class T>
__device__ inline void copy_lines(std::uint32_t to, const T* from, std::int64_t ld, int rows_there, std::int64_t bytes_there) {
  constexpr int apart = copied(bytes, 0).apart;
  static_assert(apart % 8 == 0 && line % bytes == 0);
  const Copied mine = copied(bytes, static_cast<int>(threadIdx.x));
  const std::int64_t left = bytes_there - mine.piece * piece_bytes;
  const int there = left <= 0 ? 0 : left < piece_bytes ? static_cast<int>(left) : piece_bytes;
  from += mine.first * ld + mine.piece * (piece_bytes / static_cast<int>(sizeof(T)));
  to += swizzled(bytes, mine.first, mine.piece);
#pragma unroll 1
  for (int row = mine.first; row < lines; row += apart) {
    copy_16(to, from, row < rows_there ? there : 0);
    from += apart * ld, to += apart * bytes;
  }
}

/// `count` neighbouring elements, as many as a word has or fewer, in f32.
template <class W, int count>
struct Widened {
  float at[count];
  __device__ explicit Widened(std::uint32_t bits) {
    if constexpr (sizeof(W) == 4) {
      at[0] = __uint_as_float(bits);
    } else {
      const float2 both = widened<W>(bits);
      at[0] = both.x;
      if constexpr (count == 2) at[1] = both.y;
    }
  }
  __device__ explicit Widened(const unsigned char* from)
      : Widened(count * sizeof(W) == 4 ? *reinterpret_cast<const std::uint32_t*>(from)
                                       : *reinterpret_cast<const std::uint16_t*>(from)) {}
};

/// sums[i] += numbers[i] · a line of `lines`, in f32.
template <int count, int ranks>
__device__ inline void add_line(float (&sums)[count][ranks], const float (&numbers)[count], const unsigned char* lines,
                                int index) {
#pragma unroll
  for (int q = 0; q < ranks / 4; ++q) {
    const float4 four = *reinterpret_cast<const float4*>(lines + swizzled(4 * ranks, index, q));
#pragma unroll
    for (int i = 0; i < count; ++i) {
      float* to = sums[i] + 4 * q;
      to[0] = std::fma(numbers[i], four.x, to[0]), to[1] = std::fma(numbers[i], four.y, to[1]);
      to[2] = std::fma(numbers[i], four.z, to[2]), to[3] = std::fma(numbers[i], four.w, to[3]);
    }
  }
}

/// What a thread has of a panel's sums along the rows.
template <class W, class N, int ranks>
struct Along {
  static constexpr int I = 2, J = ranks / 8;
  float sums[I][J][4] = {};

  __device__ void add(const unsigned char* wide, const unsigned char* factor, int rows_there) {
    constexpr int bytes = 2 * ranks;
    if (32 * warp() >= rows_there) return;
    const std::uint32_t a_at = shared_address(wide), b_at = shared_address(factor);
#pragma unroll(ranks == 64 ? 1 : 2)
    for (int k16 = 0; k16 < columns(2) / 16; ++k16) {
      Matrices a[I];
#pragma unroll
      for (int i = 0; i < I; ++i) a[i] = load_matrices<false>(a_at + along_wide(lane(), 32 * warp() + 16 * i, k16));
#pragma unroll
      for (int j = 0; j < J; j += 2) {
        const Matrices b = load_matrices<true>(b_at + along_factor(bytes, lane(), k16, j));
#pragma unroll
        for (int i = 0; i < I; ++i) {
          multiply<W>(sums[i][j], a[i].at, b.at[0], b.at[1]);
          multiply<W>(sums[i][j + 1], a[i].at, b.at[2], b.at[3]);
        }
      }
    }
  }
  /// Puts them by [row][rank].
  __device__ void put(float* to) const {
#pragma unroll
    for (int i = 0; i < I; ++i)
#pragma unroll
      for (int j = 0; j < J; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          to[(32 * warp() + 16 * i + sum_row(lane(), e)) * ranks + 8 * j + sum_column(lane(), e)] = sums[i][j][e];
  }
};

template <class W, int ranks>
struct Along<W, float, ranks> {
  float sums[1][ranks] = {};

  __device__ void add(const unsigned char* wide, const unsigned char* factor, int rows_there) {
    const int row = static_cast<int>(threadIdx.x);
    if (row >= rows_there) return;
#pragma unroll 1
    for (int piece = 0; piece < line / piece_bytes; ++piece) {
      const uint4 four = *reinterpret_cast<const uint4*>(wide + swizzled(line, row, piece));
      constexpr int per = 4 / sizeof(W);
#pragma unroll(ranks == 32 ? 1 : 4)  // more of them would have more under way than there are registers for
      for (int i = 0; i < 4; ++i) {
        const Widened<W, per> word(i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w);
#pragma unroll
        for (int e = 0; e < per; ++e) add_line(sums, {word.at[e]}, factor, per * (4 * piece + i) + e);
      }
    }
  }
  __device__ void put(float* to) const {
#pragma unroll
    for (int rank = 0; rank < ranks; ++rank) to[static_cast<int>(threadIdx.x) * ranks + rank] = sums[0][rank];
  }
};

/// The panel's sums down a tile's columns, of which the first is `first_column`. The tile may be overwritten afterwards, or by this.
template <class W, class N, int ranks>
__device__ inline void sum_down(const NarrowProducts& p, unsigned char* wide, const unsigned char* narrow, int panel,
                                int rows_there, int first_column) {
  if constexpr (sizeof(N) == 2) {
    constexpr int I = ranks / 16, bytes = 2 * ranks;
    const std::uint32_t a_at = shared_address(narrow), b_at = shared_address(wide);
    float sums[I][4] = {};
#pragma unroll(ranks == 16 ? 4 : 1)
    for (int pair = 0; 32 * pair < min(rows, rows_there); ++pair) {
      const Matrices b = load_matrices<true>(b_at + down_wide(lane(), warp(), pair));
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < I; ++i) {
          const Matrices a = load_matrices<true>(a_at + down_narrow(bytes, lane(), 2 * pair + half, i));
          multiply<W>(sums[i], a.at, b.at[2 * half], b.at[2 * half + 1]);
        }
    }
#pragma unroll
    for (int at = 0; at < I * 4; ++at) {
      const int column = first_column + 8 * warp() + sum_column(lane(), at % 4), rank = at / 4 * 16 + sum_row(lane(), at % 4);
      if (column < p.n && rank < p.k) write(p.down, panel, column, rank, sums[at / 4][at % 4]);
    }
  } else {
    constexpr int size = sizeof(W), per = lane_columns(size, ranks), side_by_side = warps_abreast(size, ranks);
    const int side = warp() % side_by_side, first = warp() / side_by_side * (32 * side_by_side);
    float sums[per][ranks] = {};
#pragma unroll 1
    for (int row = first; row < min(first + 32 * side_by_side, rows_there); ++row)
      add_line(sums, Widened<W, per>(wide + lane_piece(size, per, row, side, lane())).at, narrow, row);
#pragma unroll
    for (int i = 0; i < per; ++i) {
      __syncthreads();  // nobody needs the tile any more, nor the sums of the columns before
#pragma unroll
      for (int rank = 0; rank < ranks; ++rank)
        *reinterpret_cast<float*>(wide + warp_sum(ranks, warp(), rank, lane())) = sums[i][rank];
      __syncthreads();
#pragma unroll 1
      for (int at = static_cast<int>(threadIdx.x); at < 32 * side_by_side * ranks; at += threads) {
        const int in_side = at % 32, rank = at / 32 % ranks, its_side = at / 32 / ranks;
        const int column = first_column + (32 * its_side + in_side) * per + i;
        float sum = 0;
#pragma unroll
        for (int each = 0; each < warps / side_by_side; ++each)
          sum += *reinterpret_cast<const float*>(wide + warp_sum(ranks, each * side_by_side + its_side, rank, in_side));
        if (column < p.n && rank < p.k) write(p.down, panel, column, rank, sum);
      }
    }
  }
}

/// W is the wide matrix's type, N that of the narrow ones.
template <class W, class N, int ranks>
__device__ inline void products(const NarrowProducts& p) {
  constexpr int wide_size = sizeof(W), narrow_size = sizeof(N);
  constexpr Shared lies(wide_size, narrow_size, ranks);
  extern __shared__ __align__(128) unsigned char memory[];
  const std::uint32_t base = shared_address(memory);
  const int panel = static_cast<int>(blockIdx.x) % p.panels, part = static_cast<int>(blockIdx.x) / p.panels;
  const int first_row = panel * rows, rows_there = p.m - first_row;
  const int begin = part * p.part_steps, end = min(begin + p.part_steps, p.steps);

  const auto narrow_row = [](const NarrowProducts::Operand& x, std::int64_t row) {
    return static_cast<const N*>(x.data) + row * x.ld;
  };
  const W* const wide_row = static_cast<const W*>(p.wide.data) + first_row * p.wide.ld;
  const auto copy_tile = [&](int step) {
    if (step < end) {
      const int stage = (step - begin) % stages, column = step * columns(wide_size);
      copy_lines<rows, line>(base + lies.wide(stage), wide_row + column, p.wide.ld, rows_there,
                             static_cast<std::int64_t>(p.n - column) * wide_size);
      if (p.factor.data)
        copy_lines<columns(wide_size), lies.narrow_line>(base + lies.factor(stage), narrow_row(p.factor, column), p.factor.ld,
                                                         p.n - column, p.k * narrow_size);
    }
    commit_copies();
  };
  copy_lines<rows, lies.narrow_line>(base, narrow_row(p.narrow, first_row), p.narrow.ld, rows_there, p.k * narrow_size);
  for (int ahead = 0; ahead < stages; ++ahead) copy_tile(begin + ahead);

  Along<W, N, ranks> along;
  for (int step = begin; step < end; ++step) {
    unsigned char* const wide = memory + lies.wide((step - begin) % stages);
    wait_for_copies<stages - 1>();
    __syncthreads();
    if (p.factor.data) along.add(wide, wide + lies.wide_bytes, rows_there);
    sum_down<W, N, ranks>(p, wide, memory, panel, rows_there, step * columns(wide_size));
    __syncthreads();  // the tile was read
    copy_tile(step + stages);
  }
  if (!p.factor.data) return;
  auto* const sums = reinterpret_cast<float*>(memory + lies.wide(0));  // the stages are empty
  along.put(sums);
  __syncthreads();
  for (int number = static_cast<int>(threadIdx.x); number < min(rows, rows_there) * ranks; number += threads) {
    const int row = number / ranks, rank = number % ranks;
    if (rank < p.k) write(p.along, part, first_row + row, rank, sums[number]);
  }
}

}  // namespace
}  // namespace panels

extern "C" {

#define GRAFT_NARROW(name, W, N, ranks)                                                                  \
  __global__ void __launch_bounds__(panels::threads, 2) name(const __grid_constant__ NarrowProducts p) { \
    panels::products<W, N, ranks>(p);                                                                    \
  }
GRAFT_NARROW(narrow_products_bf16_bf16_16, bf16, bf16, 16)
GRAFT_NARROW(narrow_products_bf16_bf16_32, bf16, bf16, 32)
GRAFT_NARROW(narrow_products_bf16_bf16_64, bf16, bf16, 64)
GRAFT_NARROW(narrow_products_f16_f16_16, f16, f16, 16)
GRAFT_NARROW(narrow_products_f16_f16_32, f16, f16, 32)
GRAFT_NARROW(narrow_products_f16_f16_64, f16, f16, 64)
GRAFT_NARROW(narrow_products_bf16_f32_16, bf16, float, 16)
GRAFT_NARROW(narrow_products_bf16_f32_32, bf16, float, 32)
GRAFT_NARROW(narrow_products_f16_f32_16, f16, float, 16)
GRAFT_NARROW(narrow_products_f16_f32_32, f16, float, 32)
GRAFT_NARROW(narrow_products_f32_f32_16, float, float, 16)
GRAFT_NARROW(narrow_products_f32_f32_32, float, float, 32)
#undef GRAFT_NARROW

}  // extern "C"
}  // namespace graft::cuda
