// Where everything lies in the products of a wide matrix with narrow ones (narrow.cu): for the kernel, and for the tests that hold these
// maps against the matrices.
//
// A block has a panel of `rows` rows of the wide matrix and goes along it by tiles, 128 bytes of each row at a time. Every tile is read twice where
// it lies in shared memory: along its rows, with the factor [n, k] as the other operand, and down its columns, with the narrow matrix [m, k]. The
// former's sums stay in registers until the end; the latter's are whole, as far as the panel goes, with each tile.
//
// Half types go through mma.sync: along, warp w has rows 32 w … 32 w + 31; down, 8 columns from 8 w on. Where the narrow operands are f32,
// halves are widened as they are read: thread t has row t along, and a lane one or two columns down, where the warps lie side by side until they
// span the tile, each side's as many rows as are left to one.
#pragma once

#include "graft/cuda/swizzle.h"

namespace graft::cuda::panels {

inline constexpr int threads = 256, warps = threads / 32, rows = 256, line = 128;
inline constexpr int stages = 2;  // of tiles; two blocks of a multiprocessor keep 64 KB under way
inline constexpr int most_ranks = 64;

/// Columns of a tile of elements of `size` bytes.
GRAFT_HD constexpr int columns(int size) { return line / size; }

/// Bytes from the beginning of shared memory. `ranks` is k filled up to 16, 32 or 64; the factor is of the narrow matrix's type.
struct Shared {
  int narrow_line, narrow_bytes, wide_bytes = rows * line, stage_bytes;
  GRAFT_HD constexpr Shared(int wide_size, int narrow_size, int ranks)
      : narrow_line(ranks * narrow_size),
        narrow_bytes(rows * narrow_line),
        stage_bytes(wide_bytes + columns(wide_size) * narrow_line) {}
  GRAFT_HD constexpr int wide(int stage) const { return narrow_bytes + stage * stage_bytes; }
  GRAFT_HD constexpr int factor(int stage) const { return wide(stage) + wide_bytes; }
  GRAFT_HD constexpr int total() const { return wide(stages); }
};

/// The piece that a thread copies of every so many lines of `bytes` bytes, and the first of these lines.
struct Copied {
  int first, piece, apart;
};
GRAFT_HD constexpr Copied copied(int bytes, int thread) {
  const int pieces = bytes / piece_bytes;
  return {thread / pieces, thread % pieces, threads / pieces};
}

// ---- half types: the 16 bytes that a lane gives ldmatrix.x4 the address of ----

/// Along: A's four registers, 16 rows of the tile from `row` on by the k16-th 16 columns.
GRAFT_HD constexpr int along_wide(int lane, int row, int k16) { return swizzled(line, row + lane % 16, 2 * k16 + lane / 16); }
/// Along: B's two registers for 8 ranks from 8 j on, then for the next 8; transposed on their way.
GRAFT_HD constexpr int along_factor(int narrow_line, int lane, int k16, int j) {
  return swizzled(narrow_line, 16 * k16 + lane % 16, j + lane / 16);
}
/// Down: A's four registers, 16 ranks from 16 i on by the k16-th 16 rows; transposed on their way.
GRAFT_HD constexpr int down_narrow(int narrow_line, int lane, int k16, int i) {
  return swizzled(narrow_line, 16 * k16 + lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2);
}
/// Down: B's two registers for 16 rows from 32 · pair on, then for the next 16, by a warp's 8 columns; transposed on their way.
GRAFT_HD constexpr int down_wide(int lane, int warp, int pair) { return swizzled(line, 32 * pair + lane, warp); }

/// Element e (0 … 3) of a product's sums: row and column in its 16 by 8.
GRAFT_HD constexpr int sum_row(int lane, int e) { return lane / 4 + e / 2 * 8; }
GRAFT_HD constexpr int sum_column(int lane, int e) { return lane % 4 * 2 + e % 2; }

// ---- narrow operands in f32 ----

/// Down: a lane's columns, neighbours. Two of them have each of the narrow matrix's numbers read once, if there are registers for their sums.
GRAFT_HD constexpr int lane_columns(int size, int ranks) { return size == 2 && ranks == 16 ? 2 : 1; }
/// Down: warps that it takes to span the tile's columns. The rows are divided between as many groups of these as there are.
GRAFT_HD constexpr int warps_abreast(int size, int ranks) { return columns(size) / (32 * lane_columns(size, ranks)); }
/// Down: byte of a lane's `per` columns in the tile, in the `side`-th of its warps.
GRAFT_HD constexpr int lane_piece(int size, int per, int row, int side, int lane) {
  const int at = (32 * side + lane) * per * size;
  return swizzled(line, row, at / piece_bytes) + at % piece_bytes;
}
/// Down: where a warp's sum for a rank and a lane's column waits for those of the other warps, in the place of the tile.
GRAFT_HD constexpr int warp_sum(int ranks, int warp, int rank, int lane) { return 4 * ((warp * ranks + rank) * 32 + lane); }

}  // namespace graft::cuda::panels
