// What the kernels of tiled.cu and tiled_sm90a.cu share: copies into shared memory, dequantizing, and what becomes of the sums.
#pragma once

#include <cmath>
#include <type_traits>

#include "graft/cuda/elements.cuh"
#include "graft/cuda/tensor_cores.cuh"
#include "graft/cuda/tiled.h"
#include "graft/cuda/warp.cuh"

namespace graft::cuda::tiles {

/// Waits for the `threads` threads that use barrier `id`.
template <int id, int threads>
__device__ inline void meet() {
  asm volatile("bar.sync %0, %1;" ::"n"(id), "n"(threads) : "memory");
}

/// Two values rounded to H, the first in the low half.
template <class H>
__device__ inline std::uint32_t rounded(float low, float high) {
  std::uint32_t both;
  if constexpr (std::is_same_v<H, f16>) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

/// A thread's share in copying a tile of x: the same 16-byte column of some rows.
template <int rows, int threads>
struct CopyX {
  static constexpr int apart = x_rows_apart(threads);
  static_assert(threads % warp_size == 0 && apart % 8 == 0 && rows % apart == 0);
  const std::uint16_t* from;
  int to, k, rows_there;

  __device__ CopyX(const TiledProduct& p, int row, int thread) {
    const XPiece piece = x_piece(thread);
    to = swizzled(piece.row, piece.k / chunk), k = piece.k, rows_there = p.m - row - piece.row;
    from = static_cast<const std::uint16_t*>(p.x) + (row + piece.row) * p.ld + k;
  }
  __device__ void operator()(const TiledProduct& p, int step, std::uint32_t stage) const {
    const int left = p.depth - step * depth - k, there = left <= 0 ? 0 : left < chunk ? 2 * left : 16;
    const std::uint16_t* at = from + step * depth;
#pragma unroll
    for (int i = 0; i < rows / apart; ++i) {
      copy_16(stage + to + i * apart * line, at, i * apart < rows_there ? there : 0);
      at += apart * p.ld;
    }
  }
};

/// Copies of the codes of a stage's boxes, those that exist.
template <bool backward, int threads>
__device__ inline void copy_codes(const TiledProduct& p, int tile, int step, int thread, std::uint32_t to) {
  constexpr int pieces = backward ? 1 : boxes;  // backward the boxes are one tile of Packed
  const int bytes = boxes / pieces * code_bytes(p.bits);
#pragma unroll
  for (int b = 0; b < pieces; ++b) {
    const Corner at = corner(backward, tile, step, b);
    if (at.n >= p.columns) continue;
    const std::uint8_t* from = p.codes + codes_at(p.bits, p.columns, at);
#pragma unroll 1
    for (int i = code_piece(thread); i < bytes; i += code_piece(threads)) copy_16(to + b * bytes + i, from + i, 16);
  }
}

/// What a thread must know of an item of work beside its codes. Of a row that is filling, or none at all, the weight is 0.
struct Scales {
  float scale[2], zero[2];  // of the item's two units
  unsigned valid;           // its rows
};
/// Channel and group of row `lane` of the item.
__device__ inline int2 load_place(const TiledProduct& p, const Corner& at, const Item& it) {
  const int row = at.k + it.first_row() + lane();
  return at.n < p.columns && row < p.rows ? reinterpret_cast<const int2*>(p.places)[row] : int2{-1, 0};
}
__device__ inline Scales load_scales(const TiledProduct& p, const Corner& at, const Item& it, int2 place) {
  Scales s;
  s.valid = __ballot_sync(all_lanes, place.x >= 0);
#pragma unroll
  for (int unit = 0; unit < 2; ++unit) {
    const std::int64_t entry =
        static_cast<std::int64_t>(__shfl_sync(all_lanes, place.y, unit * 16)) * p.columns + at.n + it.column;
    s.scale[unit] = s.valid ? p.scales[entry] : 0;
    s.zero[unit] = s.valid ? p.zeros[entry] : 0;
  }
  return s;
}

/// The 8 codes of a chunk, as integers that are added to 2²³ in its last bits: codes are spread over bytes, and a byte is moved there by
/// one instruction.
template <int bits>
struct Codes {
  unsigned words[bits == 3 ? 1 : 8 / bits > 2 ? 4 : 2];

  __device__ Codes(const unsigned char* from, int number) {
    if constexpr (bits == 3) {
      words[0] = from[0] | from[1] << 8 | from[2] << 16;
    } else if constexpr (bits == 8) {
      words[0] = *reinterpret_cast<const unsigned*>(from);
      words[1] = *reinterpret_cast<const unsigned*>(from + second_word);
    } else {
      const unsigned word = *reinterpret_cast<const unsigned*>(from) >> bits_at(bits, number);
#pragma unroll
      for (int i = 0; i < 8 / bits; ++i) words[i] = word >> (bits * i) & (bits == 4 ? 0x0f0f0f0fu : 0x03030303u);
    }
  }
  __device__ float operator[](int j) const {
    constexpr unsigned magic = 0x4b000000u;  // 2²³
    if constexpr (bits == 3) return __uint_as_float(magic | (words[0] >> (3 * j) & 7));
    constexpr int per = 8 / bits;
    const unsigned word = bits == 8 ? words[j / 4] : words[j % per];
    return __uint_as_float(__byte_perm(word, magic, 0x7540u | (bits == 8 ? j % 4 : j / per)));
  }
};

/// The weights of an item, as CPU and chunked product have them in f32, and rounded once. `codes` are those of the stage's boxes.
template <class H, int bits>
__device__ inline void dequantize(const unsigned char* codes, unsigned char* weights, const Item& it, const Scales& s,
                                  bool affine) {
  codes += it.box * code_bytes(bits);
#pragma unroll
  for (int c = 0; c < item_chunks; ++c) {
    const int number = item_chunks * it.half + c;
    const Codes<bits> all(codes + word_at(bits, number, it.column), c);
    // scale · (code − zero) + 0 or scale · (code − 0) + zero: each rounds as often as in the other two places.
    const float scale = s.scale[c / 2], shift = affine ? 0.0f : s.zero[c / 2], offset = affine ? s.zero[c / 2] : 0.0f;
    const auto weight = [&](int j) { return std::fma(all[j] - 8388608.0f - shift, scale, offset); };
    unsigned pairs[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) pairs[j] = rounded<H>(weight(2 * j), weight(2 * j + 1));
    if (s.valid != all_lanes) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const unsigned valid = s.valid >> (chunk * c + 2 * j);
        pairs[j] &= (valid & 1 ? 0xffffu : 0) | (valid & 2 ? 0xffff0000u : 0);
      }
    }
    *reinterpret_cast<uint4*>(weights + weight_at(it, c)) = uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
  }
}
template <class H>
__device__ inline void dequantize(const TiledProduct& p, const unsigned char* codes, unsigned char* weights, const Item& it,
                                  const Scales& s) {
  if (s.valid == 0) {  // the codes may not be there
#pragma unroll
    for (int c = 0; c < item_chunks; ++c) *reinterpret_cast<uint4*>(weights + weight_at(it, c)) = uint4{};
    return;
  }
  switch (p.bits) {
    case 2: return dequantize<H, 2>(codes, weights, it, s, p.affine);
    case 3: return dequantize<H, 3>(codes, weights, it, s, p.affine);
    case 4: return dequantize<H, 4>(codes, weights, it, s, p.affine);
    default: return dequantize<H, 8>(codes, weights, it, s, p.affine);
  }
}

/// 8 elements of a half type, `step` apart, to 16 bytes of shared memory: of these `there`, the others 0.
__device__ inline void copy_eight(unsigned char* to, const std::uint16_t* from, std::int64_t step, int there) {
  if (step == 1 && there >= chunk && reinterpret_cast<std::uintptr_t>(from) % piece_bytes == 0) {
    copy_16(shared_address(to), from, piece_bytes);
    return;
  }
  std::uint32_t words[chunk / 2] = {};
#pragma unroll
  for (int e = 0; e < chunk; ++e, from += step)
    if (e < there) words[e / 2] |= std::uint32_t{*from} << (16 * (e % 2));
  *reinterpret_cast<uint4*>(to) = uint4{words[0], words[1], words[2], words[3]};
}

/// The sums of a thread of a Tile. They leave few registers: which thread, block and term it is about is asked for anew at every step, in
/// a way that the compiler cannot see to have the same answer, or it would keep what follows from it in registers in between.
template <class Tile>
struct Sums {
  static constexpr int I = Tile::I, J = Tile::J, threads = Tile::threads, rows = Tile::rows;
  float at[I][J][4] = {};

  __device__ static int thread() {
    int in_block;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(in_block));
    return in_block - Tile::first_thread;
  }
  __device__ static Owner owner() { return Tile::owner(thread()); }
  __device__ static Work here(const TiledProduct& p) {
    unsigned block;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
    return work(block, p.row_tiles, p.result_tiles);
  }
  /// Where the results of the tile's columns belong, −1 for nowhere.
  template <bool backward>
  struct Channels {
    const TiledProduct& p;
    int first;
    __device__ explicit Channels(const TiledProduct& p) : p(p), first(here(p).tile * width) {}
    __device__ int operator()(int column) const {
      const int result = first + column;
      if (result >= p.results) return -1;
      return backward ? p.places[2 * result] : result;
    }
  };
  /// A term for some rows of the tile.
  struct Share {
    const TiledProduct& p;
    int number;
    __device__ const Term& term() const {
      int same = number;
      asm volatile("" : "+r"(same));
      return p.added.term[same];
    }
    /// The tile's first row, counted from the term's.
    __device__ int first_row() const { return here(p).rows * rows - term().first_row; }
    /// A bit for each of a thread's rows that are the term's.
    __device__ unsigned owns() const {
      const Owner own = owner();
      const int first = first_row(), end = term().rows;
      unsigned all = 0;
#pragma unroll
      for (int i = 0; i < 2 * I; ++i) {
        const int row = first + own.row_of(i / 2, i % 2);
        all |= static_cast<unsigned>(row >= 0 && row < end) << i;
      }
      return all;
    }
  };

  /// The other parts of the sum, if there are any. The block that is last finds all of them, and adds them up in their order.
  __device__ bool collect(const TiledProduct& p, unsigned char* memory) {
    if (p.parts == 1) return true;
    constexpr int count = I * J;
    const Work own = here(p);
    const std::int64_t tile = static_cast<std::int64_t>(own.tile) * p.row_tiles + own.rows;
    auto* part = reinterpret_cast<float4*>(p.partial) + tile * p.parts * (count * threads) + thread();
    auto* mine = part + own.part * (count * threads);
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const float* from = at[i / J][i % J];
      mine[i * threads] = float4{from[0], from[1], from[2], from[3]};
    }
    __threadfence();
    meet<1, threads>();
    auto* before = reinterpret_cast<unsigned*>(memory);
    if (thread() == 0) *before = atomicAdd(p.parts_done + tile, 1u);
    meet<1, threads>();
    if (*before + 1 != static_cast<unsigned>(p.parts)) return false;
    __threadfence();
#pragma unroll
    for (int i = 0; i < count; ++i) {
      float* to = at[i / J][i % J];
      float4 sum = __ldcg(part + i * threads);
      for (int other = 1; other < p.parts; ++other) {
        const float4 more = __ldcg(part + (static_cast<std::int64_t>(other) * count + i) * threads);
        sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
      }
      to[0] = sum.x, to[1] = sum.y, to[2] = sum.z, to[3] = sum.w;
    }
    return true;
  }

  /// A share in f32: some ranks of u and v at a time lie in shared memory, [rank][row] and [rank][column].
  template <bool backward>
  __device__ void add_wide(const Share& share, unsigned char* memory) {
    auto* u = reinterpret_cast<float*>(memory);
    float* v = u + wide_ranks * rows;
    for (int rank = 0; rank < share.term().rank; rank += wide_ranks) {
      const int left_over = share.term().rank - rank, ranks = left_over < wide_ranks ? left_over : wide_ranks;
      meet<1, threads>();
      const Term& term = share.term();
      const int first_row = share.first_row();
      for (int i = thread(); i < rows * ranks; i += threads) {
        const int row = first_row + i / ranks;
        const std::int64_t r = rank + i % ranks;
        u[i % ranks * rows + i / ranks] =
            row >= 0 && row < term.rows ? load<float>(term.u, term.u_dtype, row * term.u_strides[0] + r * term.u_strides[1]) : 0;
      }
      const Channels<backward> channel(share.p);
      for (int i = thread(); i < width * ranks; i += threads) {
        const int to = channel(i % width);
        const std::int64_t r = rank + i / width;
        v[i] = to >= 0 ? load<float>(term.v, term.v_dtype, r * term.v_strides[0] + to * term.v_strides[1]) : 0;
      }
      meet<1, threads>();
      const Owner own = owner();
      for (int r = 0; r < ranks; ++r) {
        float left[I][2];
#pragma unroll
        for (int i = 0; i < 2 * I; ++i) left[i / 2][i % 2] = u[r * rows + own.row_of(i / 2, i % 2)];
#pragma unroll
        for (int j = 0; j < J; ++j) {
          const float2 right = *reinterpret_cast<const float2*>(v + r * width + own.column_of(j));
#pragma unroll
          for (int i = 0; i < 2 * I; ++i) {
            float* to = at[i / 2][j] + i % 2 * 2;
            to[0] = std::fma(left[i / 2][i % 2], right.x, to[0]);
            to[1] = std::fma(left[i / 2][i % 2], right.y, to[1]);
          }
        }
      }
    }
  }

  /// `depth` ranks of a term or what is left of them, from `rank` on, as a stage: u [row][rank], then v [column][rank], whole steps filled
  /// up with 0. Returns how many steps.
  template <bool backward>
  __device__ static int copy_stage(const Share& share, int rank, unsigned char* memory) {
    const Term& term = share.term();
    const int left = term.rank - rank, steps = left < depth ? (left + 15) / 16 : depth / 16, first_row = share.first_row();
    const XPiece of_u = x_piece(thread());
#pragma unroll 1
    for (int n = of_u.row; of_u.k < 16 * steps && n < rows; n += x_rows_apart(threads)) {
      const std::int64_t row = first_row + n, r = rank + of_u.k;
      copy_eight(memory + swizzled(n, of_u.k / chunk),
                 static_cast<const std::uint16_t*>(term.u) + row * term.u_strides[0] + r * term.u_strides[1], term.u_strides[1],
                 row >= 0 && row < term.rows ? left - of_u.k : 0);
    }
    const Channels<backward> channel(share.p);
    const bool ranks_first = term.v_strides[0] == 1;
    const VPiece apart = v_pieces_apart(ranks_first, threads);
#pragma unroll 1
    for (VPiece of_v = v_piece(ranks_first, thread()); of_v.rank < 16 * steps && of_v.column < width;
         of_v.rank += apart.rank, of_v.column += apart.column) {
      const std::int64_t to = channel(of_v.column), r = rank + of_v.rank;
      copy_eight(memory + rows * line + v_at(of_v),
                 static_cast<const std::uint16_t*>(term.v) + r * term.v_strides[0] + to * term.v_strides[1], term.v_strides[0],
                 to >= 0 ? left - of_v.rank : 0);
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    return steps;
  }

  /// A share of halves, by the tensor cores: so many more steps of the product.
  template <class H, bool backward>
  __device__ void add_halves(const Share& share, unsigned char* memory) {
    for (int rank = 0; rank < share.term().rank; rank += depth) {
      meet<1, threads>();
      const int steps = copy_stage<backward>(share, rank, memory);
      meet<1, threads>();
      const Owner own = owner();
      const std::uint32_t u = shared_address(memory) + x_row_of(own.lane, own.row, 0);
      const std::uint32_t v = shared_address(memory) + rows * line + weight_row_of(false, own.lane, own.column, 0);
#pragma unroll 1
      for (int k16 = 0; k16 < steps; ++k16) {
        Matrices a[I];
#pragma unroll
        for (int i = 0; i < I; ++i) a[i] = load_matrices<false>((u ^ k16 * k16_bytes) + i * own.step * line);
#pragma unroll
        for (int j = 0; j < J; j += 2) {
          const Matrices b = load_matrices<false>((v ^ k16 * k16_bytes) + j * chunk * line);
#pragma unroll
          for (int i = 0; i < I; ++i)
            multiply<H>(at[i][j], a[i].at, b.at[0], b.at[1]), multiply<H>(at[i][j + 1], a[i].at, b.at[2], b.at[3]);
        }
      }
    }
  }

  /// change(sum, next sum, number, i, h) for all pairs of neighbouring results, in row owner().row_of(i, h).
  template <class Change>
  __device__ void each_pair(Change change) {
#pragma unroll
    for (int n = 0; n < 2 * I * J; ++n) {
      float* pair = at[n / 2 / J][n / 2 % J] + n % 2 * 2;
      change(pair[0], pair[1], n, n / 2 / J, n % 2);
    }
  }

  /// The terms' shares. For one with a sum of its own (quant::Join) the result so far is rounded and put aside.
  template <class H, bool backward>
  __device__ void add_terms(const TiledProduct& p, unsigned char* memory) {
    constexpr DType type = std::is_same_v<H, f16> ? DType::f16 : DType::bf16;
    const auto aside = [&] {  // [pair][thread]
      return reinterpret_cast<std::uint32_t*>(memory + term_bytes(rows)) + thread();
    };
    for (int t = 0; t < p.added.terms; ++t) {
      const Share share{p, t};
      if (const int first = share.first_row(); first + rows <= 0 || first >= share.term().rows) continue;
      if (p.added.joins_rounded)
        each_pair([to = aside()](float& a, float& b, int n, int, int) {
          to[n * threads] = rounded<H>(a, b);
          a = b = 0;
        });
      if (share.term().u_dtype == type && share.term().v_dtype == type) add_halves<H, backward>(share, memory);
      else add_wide<backward>(share, memory);
      if (!p.added.joins_rounded) continue;
      const bool rounds = share.term().join != quant::Join::added;
      const float factor = share.term().factor;
      each_pair([=, from = aside(), owns = share.owns()](float& a, float& b, int n, int i, int h) {
        const float2 once = widened<H>(rounded<H>(a, b)), scaled = widened<H>(rounded<H>(once.x * factor, once.y * factor));
        const float2 result = widened<H>(from[n * threads]);
        const bool own = owns >> (2 * i + h) & 1;
        a = result.x + (!own ? -0.0f : rounds ? scaled.x : a), b = result.y + (!own ? -0.0f : rounds ? scaled.y : b);
      });
    }
  }

  template <class Channel>
  __device__ void add_bias(const TiledProduct& p, Channel channel) {
    const Owner own = owner();
#pragma unroll
    for (int j = 0; j < J; ++j)
      for (int e = 0; e < 2; ++e) {
        const int to = channel(own.column_of(j) + e);
        const float bias = to >= 0 ? load<float>(p.added.bias, p.added.bias_dtype, to * p.added.bias_stride) : 0;
#pragma unroll
        for (int i = 0; i < 2 * I; ++i) at[i / 2][j][i % 2 * 2 + e] += bias;
      }
  }

  /// Adds what there is to add, rounds and writes. `memory` is shared memory that nobody uses any more.
  template <class H, bool backward>
  __device__ void finish(const TiledProduct& p, unsigned char* memory) {
    meet<1, threads>();
    if (!collect(p, memory)) return;
    if (p.added.bias) add_bias(p, Channels<backward>(p));
    add_terms<H, backward>(p, memory);
    const Channels<backward> channel(p);
    const Owner own = owner();
    const int first_row = here(p).rows * rows;
#pragma unroll
    for (int j = 0; j < J; ++j) {
      const int to[2] = {channel(own.column_of(j)), channel(own.column_of(j) + 1)};
      const bool pair = p.y_in_pairs && to[0] >= 0 && to[0] % 2 == 0 && to[1] == to[0] + 1;
#pragma unroll
      for (int i = 0; i < 2 * I; ++i) {
        const int row = first_row + own.row_of(i / 2, i % 2);
        const float* from = at[i / 2][j] + i % 2 * 2;
        if (row < p.m) write(p, row, to, from[0], from[1], pair);
      }
    }
  }

  __device__ static void write(const TiledProduct& p, int row, const int (&to)[2], float a, float b, bool pair) {
    const std::int64_t at = row * p.y_strides[0];
    if (pair) {
      const std::int64_t half = (at + to[0]) / 2;
      if (p.y_dtype == DType::f32) static_cast<float2*>(p.y)[half] = float2{a, b};
      else static_cast<unsigned*>(p.y)[half] = p.y_dtype == DType::f16 ? rounded<f16>(a, b) : rounded<bf16>(a, b);
      return;
    }
    if (to[0] >= 0) store_same<float>(p.y, p.y_dtype, at + to[0] * p.y_strides[1], a);
    if (to[1] >= 0) store_same<float>(p.y, p.y_dtype, at + to[1] * p.y_strides[1], b);
  }
};

}  // namespace graft::cuda::tiles
