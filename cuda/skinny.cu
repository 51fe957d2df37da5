// Few rows of bf16 or f16 times a packed weight, at the speed at which its codes can be read. Which lane has what: skinny_layout.h.
//
// Weights stream through a ring of cp.async for each warp, which no barrier stops: x is staged while they are under way. A group's sum is
// made of codes as they are, exactly, with what they were raised by taken off with the sum of x afterwards: a weight is not rounded.
// Blocks have equal shares of all units. Those that meet in a slab leave their sums in memory, and the last to come adds them up, by
// number: who comes last does not matter.
#include "graft/cuda/elements.cuh"
#include "graft/cuda/skinny.h"
#include "graft/cuda/skinny_layout.h"

namespace graft::cuda {
namespace {

using namespace skinny;

// How many of the blocks that meet in a slab have come; 0 again when all have.
__device__ unsigned arrived[Skinny::most_slabs];

template <class T>
inline constexpr bool is_bf16 = std::is_same_v<T, bf16>;

__device__ std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

/// d += a b.
template <class T>
__device__ void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  if constexpr (is_bf16<T>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

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

/// The units of a block, slab by slab.
struct Walk {
  int slab_index, first, end;  // units of the slab
  __device__ Walk(const Skinny& p, int unit, int last) {
    slab_index = unit / p.units_per_slab;
    first = unit - slab_index * p.units_per_slab;
    end = min(p.units_per_slab, first + last - unit);
  }
};

/// A warp's copies of its columns' codes, in the order in which they are used.
template <int bits>
class Stream {
 public:
  __device__ Stream(const Skinny& p, int begin, int end, std::uint32_t ring) : p_(p), ring_(ring), lane_(threadIdx.x % 32) {
    // Weights are used once: what is read again, x and sums, shall stay in the L2 cache.
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy_));
    constexpr int tile_columns = static_cast<int>(Packed::tile_columns), tile_bytes = static_cast<int>(Packed::tile_bytes(bits));
    const int warp = threadIdx.x / 32, column_tiles = p.columns / tile_columns;
    const Walk walk(p, begin, end);
    const int column_tile = walk.slab_index * (slab / tile_columns) + warp * 32 / tile_columns;
    // The last slab may not have this warp's columns.
    const int slabs = (column_tiles - warp * 32 / tile_columns + slab / tile_columns - 1) / (slab / tile_columns);
    remaining_ = max(min(end, slabs * p.units_per_slab) - begin, 0) * loads_per_unit(bits);
    left_ = min(remaining_, (walk.end - walk.first) * loads_per_unit(bits));
    const int first = walk.first * loads_per_unit(bits), row_tile = first / loads_per_tile(bits);
    load_ = first % loads_per_tile(bits);
    top_ = p.codes + static_cast<std::int64_t>(column_tile) * tile_bytes + warp * 32 % tile_columns * bytes_per_word(bits) +
           copied_from(bits, lane_);
    from_ = top_ + row_tile * (skip() + tile_bytes) + load_ * load_stride(bits);
#pragma unroll 1
    for (int i = 0; i < slots(bits) - 1; ++i) copy(i);
  }
  /// The words of the oldest load, those of this lane's four columns, as they lie; its slot is filled again at the next call.
  __device__ void next(std::uint32_t (&words)[bytes_per_word(bits)]) {
    asm volatile("cp.async.wait_group %0;" ::"n"(slots(bits) - 2) : "memory");
    if constexpr (bits == 3) __syncwarp();  // other lanes' copies are there, and other lanes have read the slot before
    copy(slot_ == 0 ? slots(bits) - 1 : slot_ - 1);
    const std::uint32_t at = ring_ + slot_ * load_bytes(bits) + read_from(bits, lane_);
    slot_ = slot_ + 1 == slots(bits) ? 0 : slot_ + 1;
    if constexpr (bits == 3) {
#pragma unroll
      for (int i = 0; i < 3; ++i) asm volatile("ld.shared.u32 %0, [%1];" : "=r"(words[i]) : "r"(at + 4 * i) : "memory");
    } else {
      asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                   : "r"(at)
                   : "memory");
    }
  }

 private:
  /// From the end of a tile to the next below it.
  __device__ std::int64_t skip() const { return (p_.columns / Packed::tile_columns - 1) * Packed::tile_bytes(bits); }
  __device__ void copy(int slot) {
    if (remaining_ > 0) {
      if (lane_ < copying_lanes(bits))
        asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(ring_ + slot * load_bytes(bits) +
                                                                                          copied_to(lane_)),
                     "l"(from_), "l"(policy_)
                     : "memory");
      from_ += load_stride(bits);
      --remaining_;
      if (++load_ == loads_per_tile(bits)) {
        load_ = 0;
        from_ += skip();
      }
      if (--left_ == 0) {
        from_ = top_ += slab / Packed::tile_columns * Packed::tile_bytes(bits);
        load_ = 0;
        left_ = min(remaining_, p_.units_per_slab * loads_per_unit(bits));
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  const Skinny& p_;
  std::uint32_t ring_;
  int lane_, slot_ = 0;              // the slot that is read next
  int remaining_, left_, load_;      // loads: to the share's end, to the slab's; which of its tile comes next
  const std::uint8_t *top_, *from_;  // the slab's first load, and the next
  std::uint64_t policy_;
};

/// A lane's 16 elements of a unit of x, those of word after word, two to a register; 0 for fillings and beyond the last row.
template <int bits>
__device__ void fetch(const Skinny& p, int row, int t, int m, std::uint32_t (&elements)[8]) {
  constexpr int per = rows_per_word(bits);
  const auto* x = static_cast<const std::uint16_t*>(p.x) + m * p.x_strides[0];
#pragma unroll
  for (int i = 0; i < 8; ++i) elements[i] = 0;
  if (m >= p.m) return;
  if (p.by_vectors && row + unit <= p.in) {
#pragma unroll
    for (int load = 0; load < loads_per_unit(bits); ++load) {
      const std::uint16_t* from = x + row + (4 * load + t) * per;
      if constexpr (per == 4) {
        const uint2 v = *reinterpret_cast<const uint2*>(from);
        elements[2 * load] = v.x, elements[2 * load + 1] = v.y;
      } else {
#pragma unroll
        for (int i = 0; i < per / 8; ++i) {
          const uint4 v = reinterpret_cast<const uint4*>(from)[i];
          std::uint32_t* to = elements + load * per / 2 + 4 * i;
          to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
        }
      }
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int at = row + (4 * (2 * i / per) + t) * per + 2 * i % per;
    if (at >= p.rows) continue;  // as the word's other rows
    const int4 places = __ldg(reinterpret_cast<const int4*>(p.places + 2 * at));
    const std::uint32_t low = x[max(places.x, 0) * p.x_strides[1]], high = x[max(places.z, 0) * p.x_strides[1]];
    elements[i] = (places.x < 0 ? 0 : low) | (places.z < 0 ? 0 : high) << 16;
  }
}

template <class T>
__device__ float number(std::uint32_t element) {
  T x;
  x.bits = static_cast<std::uint16_t>(element);
  if constexpr (is_bf16<T>) return static_cast<float>(x);
  else return widen(x);
}

/// x as fragments, its sums and the groups of `units` units from `row` on. Every warp of the block takes units and row tiles.
template <int bits, class T, int row_tiles>
__device__ void stage(const Skinny& p, int row, int units, char* shared) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  constexpr Shared layout = shared_layout(bits, row_tiles);
  auto* sums = reinterpret_cast<float*>(shared + layout.sums);
  auto* groups = reinterpret_cast<std::int32_t*>(shared + layout.groups);
#pragma unroll 1
  for (int task = threadIdx.x / 32; task < units * row_tiles; task += warps) {
    const int u = task / row_tiles, tile = task % row_tiles, first = row + u * unit;
    if (tile == 0 && lane < parts) {
      const int at = first + lane * static_cast<int>(Packed::unit);
      groups[u * parts + lane] = at < p.rows ? p.places[2 * at + 1] : -1;
    }
    std::uint32_t elements[8];
    fetch<bits>(p, first, t, tile * 8 + g, elements);
    float sum[parts] = {};
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      std::uint32_t halves[4];
      float four = 0;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        // Lane 0's row says which of the lane's words and of their codes it is.
        const int at = row_of(bits, step, 0, e), per = rows_per_word(bits), index = at / (4 * per) * per + at % per;
        halves[e] = elements[index / 2] >> 16 * (index % 2) & 0xffff;
        four += number<T>(halves[e]);
      }
      *reinterpret_cast<uint2*>(shared + staged_at(row_tiles, u, tile, step, lane)) =
          make_uint2(halves[0] | halves[1] << 16, halves[2] | halves[3] << 16);
#pragma unroll
      for (int part = 0; part < parts; ++part) sum[part] += part == part_of(bits, step, t) ? four : 0.0f;
    }
    float mine = 0, all = 0;
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      sum[part] += __shfl_xor_sync(~0u, sum[part], 1);
      sum[part] += __shfl_xor_sync(~0u, sum[part], 2);
      all += sum[part];
      if (part == t) mine = sum[part];
    }
    sums[sum_at(row_tiles, u, t, tile * 8 + g)] = mine;
    if (t == 0) sums[sum_at(row_tiles, u, parts, tile * 8 + g)] = all;
  }
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
    column_ = slab_index * slab + static_cast<int>(threadIdx.x) / 32 * 32 + lane_ / 4 * 4;
    clear();
#pragma unroll
    for (int i = 0; i < 2 * row_tiles; ++i) x_sum_[i / 2][i % 2] = 0;
  }
  /// Whether there are such columns: the last slab may have fewer.
  __device__ bool exists() const { return column_ < p_.columns; }

  __device__ void add_unit(Stream<bits>& stream, const char* shared, int u) {
    std::uint32_t words[loads_per_unit(bits)][bytes_per_word(bits)];
#pragma unroll
    for (int load = 0; load < loads_per_unit(bits); ++load) stream.next(words[load]);
    const int4 groups = reinterpret_cast<const int4*>(shared + layout.groups)[u];
    unsigned left = (groups.x >= 0) | (groups.y >= 0) << 1 | (groups.z >= 0) << 2 | (groups.w >= 0) << 3;
    while (left) {  // once for each group
      const int group =
          reinterpret_cast<const std::int32_t*>(shared + layout.groups)[u * parts + __ffs(static_cast<int>(left)) - 1];
      const unsigned set =
          left & ((groups.x == group) | (groups.y == group) << 1 | (groups.z == group) << 2 | (groups.w == group) << 3);
      left &= ~set;
      if (group != group_) begin(group);
      add_parts(words, shared, u, set);
    }
  }

  /// v [rank][slab] and u [rank][rows] of a low-rank term.
  __device__ void add_ranks(const float* u, const float* v, int ranks) {
#pragma unroll 1
    for (int r = 0; r < ranks; ++r) {
      const float4 four = *reinterpret_cast<const float4*>(v + r * slab + threadIdx.x / 32 * 32 + lane_ / 4 * 4);
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
    for (int i = 0; i < 4; ++i) share[i] = p_.affine ? fmaf(-scales[i], offset, zeros[i]) : -scales[i] * (offset + zeros[i]);
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
  /// The parts of a unit that are in `set`.
  __device__ void add_parts(const std::uint32_t (&words)[loads_per_unit(bits)][bytes_per_word(bits)], const char* shared, int u,
                            unsigned set) {
    constexpr unsigned whole = (1u << parts) - 1;
    const int t = lane_ % 4;
    const auto* sums = reinterpret_cast<const float*>(shared + layout.sums);
    const auto add_sums = [&](int part) {
#pragma unroll
      for (int tile = 0; tile < row_tiles; ++tile) {
        const float2 pair = *reinterpret_cast<const float2*>(sums + sum_at(row_tiles, u, part, tile * 8 + 2 * t));
        x_sum_[tile][0] += pair.x;
        x_sum_[tile][1] += pair.y;
      }
    };
    if (set == whole) add_sums(parts);
    else
#pragma unroll 1
      for (int part = 0; part < parts; ++part)
        if (set >> part & 1) add_sums(part);
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      if (!(parts_of(bits, step) & set)) continue;
      const auto& four = words[load_of(bits, step)];
      std::uint32_t a[2][4];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        a[i / 4][i % 4] = operand<bits, T>(word_of<bits>(four, column_of(i / 4, i % 2)), first_pair(bits, step) + i % 4 / 2);
#pragma unroll
      for (int tile = 0; tile < row_tiles; ++tile) {
        uint2 b = *reinterpret_cast<const uint2*>(shared + staged_at(row_tiles, u, tile, step, lane_));
        if (set != whole && !(set >> part_of(bits, step, t) & 1)) b = make_uint2(0, 0);
#pragma unroll
        for (int i = 0; i < 2; ++i) multiply<T>(group_sum_[i][tile], a[i], b.x, b.y);
      }
    }
  }

  static constexpr Shared layout = shared_layout(bits, row_tiles);
  const Skinny& p_;
  int lane_, column_, group_ = -1;
  float4 scale_, zero_;
  Totals<row_tiles> totals_;
  float group_sum_[2][row_tiles][4], x_sum_[row_tiles][2];
};

/// load<float> for all but f64, without a jump, so that loads are under way together.
__device__ float narrow_element(const void* data, DType dtype, std::int64_t i) {
  std::uint32_t bits = 0;
  if (dtype == DType::f32) bits = static_cast<const std::uint32_t*>(data)[i];
  else bits = static_cast<const std::uint16_t*>(data)[i];
  return dtype == DType::f16 ? number<f16>(bits) : __uint_as_float(dtype == DType::bf16 ? bits << 16 : bits);
}

/// The block's share of the low-rank terms, as large as its share of the slab's units: all blocks have equal work, and it is done while
/// the first weights are under way.
template <class Sums>
__device__ void add_terms(const Skinny& p, const Walk& walk, Sums& sums, char* shared) {
  auto* v = reinterpret_cast<float*>(shared);
  float* u = v + staged_ranks * slab;
  const int thread = static_cast<int>(threadIdx.x), column = walk.slab_index * slab + thread;
#pragma unroll 1
  for (int i = 0; i < p.terms; ++i) {
    const Skinny::Term& term = p.term[i];
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

/// The sums of all blocks that meet in a slab, in their order, and the bias.
__device__ void add_up(const Skinny& p, int slab_index, int first, int last) {
  const int column = slab_index * slab + static_cast<int>(threadIdx.x);
  if (column >= p.out) return;
  const float bias = p.bias ? load<float>(p.bias, p.bias_dtype, column * p.bias_stride) : 0.0f;
  const std::int64_t size = static_cast<std::int64_t>(p.m) * slab;
#pragma unroll 1
  for (int m = 0; m < p.m; ++m) {
    const float* from = p.sums + meeting(first, slab_index) * size + m * slab + threadIdx.x;
    float sum = bias;
#pragma unroll 4
    for (int block = first; block <= last; ++block, from += size) sum += __ldcg(from);
    store_same<float>(p.y, p.y_dtype, m * p.y_strides[0] + column * p.y_strides[1], sum);
  }
}

template <int bits, class T, int row_tiles>
__device__ void product(const Skinny& p) {
  extern __shared__ __align__(16) char shared[];
  constexpr Shared layout = shared_layout(bits, row_tiles);
  auto* last_one = reinterpret_cast<bool*>(shared + layout.last);
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x), warp = static_cast<int>(threadIdx.x) / 32;
  const int begin = share_begin(p.units, blocks, block), end = share_begin(p.units, blocks, block + 1);
  Stream<bits> stream(p, begin, end, shared_address(shared + layout.ring + warp * slots(bits) * load_bytes(bits)));
  for (int at = begin; at < end;) {
    const Walk walk(p, at, end);
    at += walk.end - walk.first;
    Sums<bits, T, row_tiles> sums(p, walk.slab_index, shared);
    add_terms(p, walk, sums, shared);
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
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      *last_one = atomicAdd(&arrived[walk.slab_index], 1u) == static_cast<unsigned>(last - first);
      if (*last_one) arrived[walk.slab_index] = 0;
    }
    __syncthreads();
    if (!*last_one) continue;
    __threadfence();
    add_up(p, walk.slab_index, first, last);
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
