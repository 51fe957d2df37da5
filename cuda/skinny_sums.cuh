// What a warp of skinny.cu sums, and how.
#pragma once

#include "graft/cuda/skinny_stream.cuh"

namespace graft::cuda::skinny {

/// Pair p of a word as one register of A.
template <int bits, class T>
__device__ std::uint32_t operand(std::uint32_t word, int p) {
  const std::uint32_t low = fed(bits, is_bf16<T>, word, p);
  if constexpr (!in_two(bits, is_bf16<T>)) return low;
  std::uint32_t sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(low), "r"(0x3f803f80u), "r"(fed_more(word, p)));
  return sum;
}

/// The word of column i of four, ready for fed().
template <int bits>
__device__ std::uint32_t word_of(const std::uint32_t (&words)[bytes_per_word(bits)], int i) {
  if constexpr (bits == 3)
    return spread(3, i == 0 ? words[0] : i == 3 ? words[2] >> 8 : __funnelshift_r(words[i - 1], words[i], 32 - 8 * i));
  else return words[i];
}

/// The sums of all groups so far, four to each tile of columns and of rows. With four tiles of rows there are not registers enough.
template <int row_tiles>
class Totals {
 public:
  static constexpr int count = 2 * row_tiles;
  __device__ explicit Totals(char* shared)
      : shared_(reinterpret_cast<float4*>(shared) + threadIdx.x / 32 * count * 32 + threadIdx.x % 32) {
#pragma unroll
    for (int i = 0; i < count; ++i) put(i, make_float4(0, 0, 0, 0));
  }
  __device__ float4 get(int i) const {
    if constexpr (totals_are_shared(row_tiles)) return shared_[i * 32];
    else return kept_[i];
  }
  __device__ void put(int i, float4 sums) {
    if constexpr (totals_are_shared(row_tiles)) shared_[i * 32] = sums;
    else kept_[i] = sums;
  }

 private:
  float4* shared_;
  float4 kept_[totals_are_shared(row_tiles) ? 1 : count];
};

/// What a warp sums: 32 columns by all rows of x. A lane has, for each tile of rows, rows 2 t and 2 t + 1 of its four columns.
template <int bits, class T, int row_tiles>
class Sums {
 public:
  __device__ Sums(const Skinny& p, int slab_index, char* shared)
      : p_(p), lane_(threadIdx.x % 32), totals_(shared + layout.totals) {
    column_ = slab_index * slab + static_cast<int>(threadIdx.x) / 32 * 32 + lane_column(lane_);
    clear();
#pragma unroll
    for (int i = 0; i < 2 * row_tiles; ++i) x_sum_[i / 2][i % 2] = 0;
  }
  /// Whether there are such columns: the last slab may have fewer.
  __device__ bool exists() const { return column_ < p_.columns; }

  __device__ void add_unit(Stream<bits>& stream, const char* shared, int u) {
    Words words;
#pragma unroll
    for (int load = 0; load < loads_per_unit(bits); load += Stream<bits>::loads) stream.next(words + load);
    const auto* groups = reinterpret_cast<const std::int32_t*>(shared + layout.groups) + group_at(u, 0);
    const int common = groups[parts];
    unsigned left = common < 0 ? whole : 0;
    do {  // once for each group
      int group = common;
      unsigned set = whole;
      if (common < 0) {
        group = groups[__ffs(static_cast<int>(left)) - 1], set = 0;
#pragma unroll
        for (int part = 0; part < parts; ++part) set |= (groups[part] == group) << part;
        left &= ~set;
        if (group < 0) continue;  // behind the last row
      }
      if (group != group_) begin(group);
      if (set == whole) add_parts<true>(words, shared, u, set);
      else add_parts<false>(words, shared, u, set);
    } while (left);
  }

  /// v [rank][slab] and u [rank][rows] of a low-rank term.
  __device__ void add_ranks(const float* u, const float* v, int ranks) {
#pragma unroll 1
    for (int r = 0; r < ranks; ++r) {
      const float4 four = *reinterpret_cast<const float4*>(v + r * slab + threadIdx.x / 32 * 32 + lane_column(lane_));
      const float column[] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int tile = 0; tile < row_tiles; ++tile) {
        const float2 pair = *reinterpret_cast<const float2*>(u + r * most_rows + tile * 8 + lane_ % 4 * 2);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float4 total = totals_.get(2 * tile + i);
          total.x = fmaf(pair.x, column[column_of(i, 0)], total.x), total.y = fmaf(pair.y, column[column_of(i, 0)], total.y);
          total.z = fmaf(pair.x, column[column_of(i, 1)], total.z), total.w = fmaf(pair.y, column[column_of(i, 1)], total.w);
          totals_.put(2 * tile + i, total);
        }
      }
    }
  }

  /// Writes everything to [m][slab].
  __device__ void finish(float* to) {
    end();
    const int column = column_ % slab;
#pragma unroll
    for (int tile = 0; tile < row_tiles; ++tile) {
      const int row = tile * 8 + lane_ % 4 * 2;
      const float4 left = totals_.get(2 * tile), right = totals_.get(2 * tile + 1);
      auto* four = reinterpret_cast<float4*>(to + row * slab + column);
      if (row < p_.m) *four = make_float4(left.x, left.z, right.x, right.z);
      if (row + 1 < p_.m) four[slab / 4] = make_float4(left.y, left.w, right.y, right.w);
    }
  }

 private:
  using Words = std::uint32_t[loads_per_unit(bits)][Stream<bits>::words];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 8 * row_tiles; ++i) group_sum_[i / 4 % 2][i / 8][i % 4] = 0;
  }
  /// The group's sum is whole: scale · (Σ x fed − (offset + zero) Σ x), or scale · (Σ x fed − offset Σ x) + zero Σ x.
  __device__ void end() {
    constexpr float offset = feed(bits, is_bf16<T>).offset;
    if (group_ < 0) return;
    const float scales[] = {scale_.x, scale_.y, scale_.z, scale_.w}, zeros[] = {zero_.x, zero_.y, zero_.z, zero_.w};
    float share[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) share[i] = fmaf(-scales[i], p_.affine ? offset : offset + zeros[i], p_.affine ? zeros[i] : 0.0f);
#pragma unroll
    for (int tile = 0; tile < row_tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float(&sum)[4] = group_sum_[i][tile];
        const float even = x_sum_[tile][0], odd = x_sum_[tile][1];
        constexpr auto c = column_of;
        float4 total = totals_.get(2 * tile + i);
        total.x = fmaf(scales[c(i, 0)], sum[0], fmaf(share[c(i, 0)], even, total.x));
        total.y = fmaf(scales[c(i, 0)], sum[1], fmaf(share[c(i, 0)], odd, total.y));
        total.z = fmaf(scales[c(i, 1)], sum[2], fmaf(share[c(i, 1)], even, total.z));
        total.w = fmaf(scales[c(i, 1)], sum[3], fmaf(share[c(i, 1)], odd, total.w));
        totals_.put(2 * tile + i, total);
      }
      x_sum_[tile][0] = x_sum_[tile][1] = 0;
    }
    clear();
  }
  __device__ void begin(int group) {
    end();
    group_ = group;
    const std::int64_t at = static_cast<std::int64_t>(group) * p_.columns + column_;
    scale_ = __ldg(reinterpret_cast<const float4*>(p_.scales + at));
    zero_ = __ldg(reinterpret_cast<const float4*>(p_.zeros + at));
  }
  /// The parts of a unit that are in `set`, which is all of them or not.
  template <bool all>
  __device__ void add_parts(Words& words, const char* shared, int u, unsigned set) {
    // Both cases begin with the same arithmetic. Done for them in advance, all of it would need registers at once.
#pragma unroll
    for (int i = 0; i < loads_per_unit(bits) * Stream<bits>::words; ++i)
      asm volatile("" : "+r"(words[i / Stream<bits>::words][i % Stream<bits>::words]));
    const int t = lane_ % 4;
#pragma unroll
    for (int part = all ? parts : 0; part < (all ? parts + 1 : parts); ++part) {
      if (!all && !(set >> part & 1)) continue;
#pragma unroll
      for (int tile = 0; tile < row_tiles; ++tile) {
        const auto* sums = reinterpret_cast<const float*>(shared + layout.sums) + sum_at(row_tiles, u, part, tile * 8 + 2 * t);
        const float2 pair = *reinterpret_cast<const float2*>(sums);
        x_sum_[tile][0] += pair.x;
        x_sum_[tile][1] += pair.y;
      }
    }
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      if (!all && !(parts_of(bits, step) & set)) continue;
      const auto& four = words[load_of(bits, step)];
      std::uint32_t a[2][4];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        a[i / 4][i % 4] = operand<bits, T>(word_of<bits>(four, column_of(i / 4, i % 2)), first_pair(bits, step) + i % 4 / 2);
#pragma unroll
      for (int tile = 0; tile < row_tiles; ++tile) {
        uint2 b = *reinterpret_cast<const uint2*>(shared + staged_at(row_tiles, u, tile, step, lane_));
        if (!all && !(set >> part_of(bits, step, t) & 1)) b = make_uint2(0, 0);
#pragma unroll
        for (int i = 0; i < 2; ++i) multiply<T>(group_sum_[i][tile], a[i], b.x, b.y);
      }
    }
  }

  static constexpr unsigned whole = (1u << parts) - 1;
  static constexpr Shared layout = shared_layout(bits, row_tiles);
  const Skinny& p_;
  int lane_, column_, group_ = -1;
  float4 scale_, zero_;
  Totals<row_tiles> totals_;
  float group_sum_[2][row_tiles][4], x_sum_[row_tiles][2];
};

}  // namespace graft::cuda::skinny
