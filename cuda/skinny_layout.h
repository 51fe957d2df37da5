// Who holds what in the product of few rows with a packed weight (skinny.cu): the weight as it lies is mma's A operand, 16 columns of W to a
// tile, and xᵀ is B, 8 rows of x to a tile. All of it is constexpr, for the kernel and for tests of every index.
//
// A block of threads has `slab` columns, a warp 32 of them, as two tiles of 16. Lane (g, t) = (lane / 4, lane % 4) has columns 4 g … 4 g + 3,
// one 16-byte piece of a row of words (12 bytes for 3 bits), and of four rows of words the t-th. Rows are taken by units of 64, four mma
// steps. An mma's order of k is free as long as both operands have the same: a lane's share of each step are codes of its own words, by
// pairs that lie half a word apart, so that one shift and one lop3 make both halves of a register.
#pragma once

#include <cstdint>

#include "graft/core/host_device.h"
#include "graft/quant/kernels.h"

namespace graft::cuda::skinny {

using quant::Packed;

inline constexpr int warps = 8, threads = 32 * warps;
inline constexpr int slab = 32 * warps;            // columns
inline constexpr int unit = 64, steps = 4;         // rows, and mma over 16 of them
inline constexpr int parts = unit / Packed::unit;  // of a unit: no group ends inside one
inline constexpr int most_rows = 32;               // of x
static_assert(slab % Packed::tile_columns == 0 && Packed::tile_rows % unit == 0);

// ---- weights ----

GRAFT_HD constexpr int rows_per_word(int bits) { return static_cast<int>(Packed::rows_per_word(bits)); }
GRAFT_HD constexpr int bytes_per_word(int bits) { return static_cast<int>(Packed::bytes_per_word(bits)); }

/// A load is what a warp copies at once: four rows of words.
GRAFT_HD constexpr int loads_per_unit(int bits) { return unit / (4 * rows_per_word(bits)); }
GRAFT_HD constexpr int loads_per_tile(int bits) { return static_cast<int>(Packed::tile_rows) / unit * loads_per_unit(bits); }
GRAFT_HD constexpr int load_bytes(int bits) { return 4 * 32 * bytes_per_word(bits); }
/// From one load of a tile to the next.
GRAFT_HD constexpr int load_stride(int bits) { return 4 * static_cast<int>(Packed::tile_columns) * bytes_per_word(bits); }

/// Lanes copy 16 bytes each: what they will read themselves, so that no other lane has to wait for them; with 3 bits, where a lane reads 12,
/// the first 24 copy.
GRAFT_HD constexpr int copying_lanes(int bits) { return load_bytes(bits) / 16; }
/// Where a lane's 16 bytes come from, counted from the first byte of the warp's columns, and where they go in a slot of the ring.
GRAFT_HD constexpr int copied_from(int bits, int lane) {
  const int pieces = 2 * bytes_per_word(bits);  // of 16 bytes in a row of words
  const int row = bits == 3 ? lane / pieces : lane % 4, piece = bits == 3 ? lane % pieces : lane / 4;
  return row * static_cast<int>(Packed::tile_columns) * bytes_per_word(bits) + 16 * piece;
}
GRAFT_HD constexpr int copied_to(int lane) { return 16 * lane; }
/// Where a lane's four words begin in a slot.
GRAFT_HD constexpr int read_from(int bits, int lane) {
  return bits == 3 ? lane % 4 * 32 * 3 + lane / 4 * 4 * 3 : copied_to(lane);
}

/// Loads are copied, waited for and read by batches. Of a ring's slots one is being read, and the others are under way: together 64 KB and
/// more on a multiprocessor that has two blocks.
GRAFT_HD constexpr int batch_loads(int bits) { return loads_per_unit(bits) < 2 ? 1 : 2; }
GRAFT_HD constexpr int batch_bytes(int bits) { return batch_loads(bits) * load_bytes(bits); }
GRAFT_HD constexpr int batches_per_unit(int bits) { return loads_per_unit(bits) / batch_loads(bits); }
GRAFT_HD constexpr int batches_per_tile(int bits) { return loads_per_tile(bits) / batch_loads(bits); }
GRAFT_HD constexpr int slots(int bits) { return bits == 2 ? 10 : bits == 3 ? 7 : 5; }
GRAFT_HD constexpr int ring_bytes(int bits) { return slots(bits) * batch_bytes(bits); }

// ---- fragments ----

/// Pair p of a word are its codes p and p + rows_per_word / 2. A step takes two pairs of each word, first_pair and the next.
GRAFT_HD constexpr int steps_per_load(int bits) { return steps / loads_per_unit(bits); }
GRAFT_HD constexpr int load_of(int bits, int step) { return step / steps_per_load(bits); }
GRAFT_HD constexpr int first_pair(int bits, int step) { return 2 * (step % steps_per_load(bits)); }

/// The row within a unit of a lane's word of a load, the first of its rows.
GRAFT_HD constexpr int word_row(int bits, int load, int t) { return (4 * load + t) * rows_per_word(bits); }
/// The row within a unit of a lane's element `e` (0 … 3) of a step: the low or high half (e % 2) of register e / 2 of B, or of the
/// registers e / 2 · 2 and + 1 of A.
GRAFT_HD constexpr int row_of(int bits, int step, int t, int e) {
  return word_row(bits, load_of(bits, step), t) + first_pair(bits, step) + e / 2 + e % 2 * rows_per_word(bits) / 2;
}
/// The part of a unit in which a lane's four elements of a step lie.
GRAFT_HD constexpr int part_of(int bits, int step, int t) { return row_of(bits, step, t, 0) / Packed::unit; }
/// The parts that a step touches, as a set of bits.
GRAFT_HD constexpr unsigned parts_of(int bits, int step) {
  unsigned set = 0;
  for (int t = 0; t < 4; ++t) set |= 1u << part_of(bits, step, t);
  return set;
}

/// A lane's first of four columns, among the warp's.
GRAFT_HD constexpr int lane_column(int lane) { return lane / 4 * 4; }
/// Which of a lane's four columns is in row g (upper 0) or g + 8 (upper 1) of a tile.
GRAFT_HD constexpr int column_of(int tile, int upper) { return 2 * tile + upper; }

// ---- codes as halves ----

template <class T>
inline constexpr bool is_bf16 = std::is_same_v<T, bf16>;

/// A code becomes 2^bits + code by being put right below the leading bit of a half: exact, without arithmetic, and the least that
/// has to be taken off the sum again. bf16 has no room for 8 bits there: it gets code − 128, as the sum of two.
struct Feed {
  int at;  // lowest bit of the code in the half
  std::uint32_t mask, exponent;
  float offset;  // what is fed, less the code
};
GRAFT_HD constexpr Feed feed(int bits, bool bf16) {
  const int mantissa = bf16 ? 7 : 10, bias = bf16 ? 127 : 15;
  if (bits > mantissa) return {0, 0x007f007f, 0x43004300, -128};
  const std::uint32_t mask = ((1u << bits) - 1) << (mantissa - bits);
  const auto exponent = static_cast<std::uint32_t>(bias + bits) << mantissa;
  return {mantissa - bits, mask << 16 | mask, exponent << 16 | exponent, static_cast<float>(1 << bits)};
}

/// A word's pairs lie half of 32 bits apart; those of 3 bits are brought there first. What is above a word's 24 bits does not matter.
GRAFT_HD constexpr std::uint32_t spread(int bits, std::uint32_t word) {
  return bits == 3 ? (word & 0x0000ffff) | (word << 4 & 0x0fff0000) : word;
}
GRAFT_HD constexpr std::uint32_t shifted(std::uint32_t word, int left) { return left >= 0 ? word << left : word >> -left; }
/// Pair p of a word that was spread, as two halves.
GRAFT_HD constexpr std::uint32_t fed(int bits, bool bf16, std::uint32_t word, int p) {
  const Feed f = feed(bits, bf16);
  return (shifted(word, f.at - bits * p) & f.mask) | f.exponent;
}
/// 8 bits in bf16: fed() has 128 + the lower 7 bits, and this, to be added to it, −128 where the eighth is set, else −256.
GRAFT_HD constexpr bool in_two(int bits, bool bf16) { return bf16 && bits == 8; }
GRAFT_HD constexpr std::uint32_t fed_more(std::uint32_t word, int p) {
  return (~shifted(word, -8 * p) & 0x00800080) | 0xc300c300;
}

// ---- shared memory ----

/// Rows of x are staged as B's fragments, 8 bytes for each lane and step: [unit][tile of rows][step][lane].
GRAFT_HD constexpr int staged_units(int row_tiles) { return row_tiles == 4 ? 4 : 32 / row_tiles; }
GRAFT_HD constexpr int staged_at(int row_tiles, int u, int tile, int step, int lane) {
  return 8 * (((u * row_tiles + tile) * steps + step) * 32 + lane);
}
/// Their sums in f32, [unit][part, and all parts together][row].
GRAFT_HD constexpr int sum_at(int row_tiles, int u, int part, int row) { return (u * (parts + 1) + part) * 8 * row_tiles + row; }
/// Groups of a unit's parts, −1 behind the last row, and the one of all parts, or −1.
GRAFT_HD constexpr int group_at(int u, int part) { return u * (parts + 1) + part; }
/// So many ranks of a low-rank term are staged at once, in x's place: v [rank][slab], then u [rank][most_rows].
inline constexpr int staged_ranks = 8;
/// Four tiles of rows have their totals in shared memory: 16 bytes for each lane, tile of columns and tile of rows.
GRAFT_HD constexpr bool totals_are_shared(int row_tiles) { return row_tiles == 4; }

struct Shared {
  int sums, groups, last, totals, ring, bytes;  // where each begins, behind x, and how much it is
};
GRAFT_HD constexpr Shared shared_layout(int bits, int row_tiles) {
  Shared s{};
  s.sums = staged_at(row_tiles, staged_units(row_tiles), 0, 0, 0);
  s.groups = s.sums + 4 * sum_at(row_tiles, staged_units(row_tiles), 0, 0);
  s.last = s.groups + 4 * group_at(staged_units(row_tiles), 0);
  s.totals = s.last + 16;
  s.ring = s.totals + (totals_are_shared(row_tiles) ? threads * 2 * row_tiles * 16 : 0);
  s.bytes = s.ring + warps * ring_bytes(bits);
  return s;
}

// ---- work ----

/// All units, those of a slab one after the other, are dealt to the blocks by equal and contiguous shares.
GRAFT_HD constexpr int share_begin(int units, int blocks, int block) {
  return static_cast<int>(static_cast<std::int64_t>(units) * block / blocks);
}
/// Whose share a unit is in.
GRAFT_HD constexpr int block_of(int units, int blocks, int u) {
  return static_cast<int>(((static_cast<std::int64_t>(u) + 1) * blocks - 1) / units);
}
/// Blocks and slabs that meet are numbered without gaps along the units; each meeting leaves its sums in a slot of its own.
GRAFT_HD constexpr int meeting(int block, int slab_index) { return block + slab_index; }
GRAFT_HD constexpr int meetings(int blocks, int slabs) { return blocks + slabs - 1; }

}  // namespace graft::cuda::skinny
