// How the codes of a warp's columns reach its registers (skinny.cu).
#pragma once

#include "graft/cuda/skinny.h"
#include "graft/cuda/skinny_layout.h"
#include "graft/cuda/tensor_cores.cuh"

namespace graft::cuda::skinny {

/// The units of a block, slab by slab.
struct Walk {
  int slab_index, first, end;  // units of the slab
  __device__ Walk(const Skinny& p, int unit, int last) {
    slab_index = unit / p.units_per_slab;
    first = unit - slab_index * p.units_per_slab;
    end = min(p.units_per_slab, first + last - unit);
  }
};

/// A warp's copies of its columns' codes, in the order in which they are used, by batches: a ring of cp.async that no barrier stops.
template <int bits>
class Stream {
 public:
  static constexpr int loads = batch_loads(bits), words = bytes_per_word(bits);

  /// The units [begin, end) of all; `ring` is an address of shared memory.
  __device__ Stream(const Skinny& p, int begin, int end, std::uint32_t ring) : p_(p), lane_(threadIdx.x % 32), ring_(ring) {
    // Weights are used once: what is read again, x and sums, shall stay in the L2 cache.
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy_));
    constexpr int tile_columns = static_cast<int>(Packed::tile_columns), tiles = slab / tile_columns;
    const int warp = threadIdx.x / 32, tile = warp * 32 / tile_columns, column_tiles = p.columns / tile_columns;
    const Walk walk(p, begin, end);
    const int slabs = (column_tiles - tile + tiles - 1) / tiles;  // the last one may not have this warp's columns
    units_left_ = max(min(end, slabs * p.units_per_slab) - begin, 0);
    const int first = walk.first * batches_per_unit(bits);
    batch_ = first % batches_per_tile(bits);
    top_ = p.codes + static_cast<std::int64_t>(walk.slab_index * tiles + tile) * Packed::tile_bytes(bits) +
           warp * 32 % tile_columns * bytes_per_word(bits) + copied_from(bits, lane_);
    from_ = top_ + first / batches_per_tile(bits) * (skip() + Packed::tile_bytes(bits)) + batch_ * stride;
    count(walk.end - walk.first);
#pragma unroll 1
    for (int i = 0; i < slots(bits) - 1; ++i) copy(i * batch_bytes(bits));
  }

  /// The oldest batch: the words of this lane's four columns, as they lie. Its slot is filled again at the next call.
  __device__ void next(std::uint32_t (*to)[words]) {
    wait_for_copies<slots(bits) - 2>();
    if constexpr (bits == 3) __syncwarp();  // other lanes' copies are there, and other lanes have read the slot before
    copy(before_);
    const std::uint32_t at = ring_ + slot_ + read_from(bits, lane_);
#pragma unroll
    for (int i = 0; i < loads; ++i) {
      if constexpr (bits == 3) {
#pragma unroll
        for (int j = 0; j < words; ++j)
          asm volatile("ld.shared.u32 %0, [%1];" : "=r"(to[i][j]) : "r"(at + i * load_bytes(bits) + 4 * j) : "memory");
      } else {
        asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[i][0]), "=r"(to[i][1]), "=r"(to[i][2]), "=r"(to[i][3])
                     : "r"(at + i * load_bytes(bits))
                     : "memory");
      }
    }
    before_ = slot_;
    slot_ = slot_ == (slots(bits) - 1) * batch_bytes(bits) ? 0 : slot_ + batch_bytes(bits);
  }

 private:
  static constexpr int stride = loads * load_stride(bits);  // from a batch of a tile to the next

  /// From the end of a tile to the next below it.
  __device__ std::int64_t skip() const {
    return static_cast<std::int64_t>(p_.columns / static_cast<int>(Packed::tile_columns) - 1) * Packed::tile_bytes(bits);
  }
  /// Up to `units` of a slab come next.
  __device__ void count(int units) {
    units = min(units, units_left_);
    units_left_ -= units;
    left_ = units * batches_per_unit(bits);
  }
  __device__ void copy(int slot) {
    if (left_ > 0) {
      if (lane_ < copying_lanes(bits))
#pragma unroll
        for (int i = 0; i < loads; ++i)
          asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(ring_ + slot + i * load_bytes(bits) +
                                                                                            copied_to(lane_)),
                       "l"(from_ + i * load_stride(bits)), "l"(policy_)
                       : "memory");
      batch_ = (batch_ + 1) % batches_per_tile(bits);
      from_ += batch_ ? stride : stride + skip();
      if (--left_ == 0) {  // on to the next slab
        from_ = top_ += slab / Packed::tile_columns * Packed::tile_bytes(bits);
        batch_ = 0;
        count(p_.units_per_slab);
      }
    }
    commit_copies();
  }

  const Skinny& p_;
  int lane_;
  std::uint32_t ring_;
  int slot_ = 0, before_ = (slots(bits) - 1) * batch_bytes(bits);  // what is read next, and what was read last
  unsigned batch_;                                                 // of its tile, that is copied next
  int left_, units_left_;                                          // batches to the slab's end, units behind it
  const std::uint8_t *top_, *from_;                                // the slab's first batch, and the next
  std::uint64_t policy_;
};

}  // namespace graft::cuda::skinny
