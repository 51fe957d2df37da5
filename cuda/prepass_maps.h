// How the pre-pass of a product with adapters is cut, and which thread has what (prepass.cu): for the kernel, its host half, and the tests that
// hold these maps against the matrices.
//
// A block has some rows of x and a part of the columns, which it copies to shared memory once, line after line. A warp has two ranks of a factor A,
// whose rows it reads where they lie in memory, 16 bytes of each by a lane, and all of the block's rows of x: each number of A meets as many
// rows as there are registers for sums. Where a product has too few ranks for its warps, these share the columns.
#pragma once

#include <cstdint>

#include "graft/core/host_device.h"

namespace graft::cuda::shrink {

inline constexpr int threads = 256, warps = threads / 32;
inline constexpr int lane_columns = 4, stretch = 32 * lane_columns;  // of a row, that a lane and a warp have at a time
inline constexpr int unit_ranks = 2;
inline constexpr int few_rows = 4, many_rows = 16;  // of a block
/// Rows of x up to which a block has few. A comes from the L2 cache once for each block.
inline constexpr int most_in_few = 128;
inline constexpr int copied_bytes = 64 << 10;  // by a block, unless it needs whole rows: three are on a multiprocessor at once
inline constexpr int most_row_blocks = 8192;   // of a launch: their parts are counted
inline constexpr std::int64_t most_rows = std::int64_t{most_row_blocks} * few_rows;

/// Sums of a unit, two ranks by the block's rows: number, and the lane of a warp that has it when all lanes' are added up.
GRAFT_HD constexpr int unit_sums(int rows) { return unit_ranks * rows; }
GRAFT_HD constexpr int sum_rank(int rows, int number) { return number / rows; }
GRAFT_HD constexpr int sum_row(int rows, int number) { return number % rows; }
GRAFT_HD constexpr int lanes_per_sum(int rows) { return 32 / unit_sums(rows); }

/// A lane's first column of a stretch's, and the piece of a line that a thread copies first; it goes on `threads` pieces further.
GRAFT_HD constexpr int lane_column(int lane) { return lane_columns * lane; }
GRAFT_HD constexpr int copied_piece(int thread) { return thread; }

/// Of so many units, how many the warps take at once: a power of two, or as many as there are warps. Warps of a group share its columns, stretch by
/// stretch.
GRAFT_HD constexpr int groups_of(int units) {
  int groups = 1;
  while (groups < units && groups < warps) groups *= 2;
  return groups;
}

struct Cut {
  int rows, row_blocks;     // of a block, and how many blocks it takes for all of x
  int parts, part_columns;  // of the columns; whole stretches, but for the end
  bool whole;               // the block's rows are copied whole
  int line;                 // bytes from row to row in shared memory
  constexpr int sums_at() const { return rows * line; }
  constexpr int shared_bytes() const { return sums_at() + warps * unit_sums(rows) * static_cast<int>(sizeof(float)) + 16; }
};

/// For x [m, columns] of elements of `size` bytes. `arranged`: a packed order of the columns is written too, for which a block has its rows
/// whole if they fit into shared memory; `sums`: any are wanted.
constexpr Cut cut(std::int64_t m, std::int64_t columns, int size, bool arranged, bool sums, int multiprocessors,
                  std::int64_t most_shared) {
  const auto divide_up = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  const auto smaller = [](std::int64_t a, std::int64_t b) { return a < b ? a : b; };
  const std::int64_t stretches = divide_up(columns, stretch), stretch_bytes = stretch * size;
  const auto room = [&](int rows) { return most_shared - (warps * unit_sums(rows) * 4 + 16); };
  Cut c{};
  c.rows =
      m <= most_in_few || !sums || (arranged && many_rows * stretches * stretch_bytes > room(many_rows)) ? few_rows : many_rows;
  c.whole = arranged && c.rows * stretches * stretch_bytes <= room(c.rows);
  c.row_blocks = static_cast<int>(divide_up(m, c.rows));
  // Two blocks for each multiprocessor.
  const std::int64_t wanted = smaller(divide_up(2 * multiprocessors, c.row_blocks), stretches);
  std::int64_t part = divide_up(stretches, wanted);
  if (!c.whole) part = smaller(part, smaller(copied_bytes, room(c.rows)) / (c.rows * stretch_bytes));
  c.part_columns = static_cast<int>(part * stretch);
  c.parts = static_cast<int>(divide_up(stretches, part));
  c.line = static_cast<int>((c.whole ? stretches : part) * stretch_bytes);
  return c;
}

}  // namespace graft::cuda::shrink
