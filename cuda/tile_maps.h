// Where everything lies in the products of tiled.cu and tiled_sm90a.cu: for the kernels, and for the tests that hold these maps
// against the matrices.
//
// A block makes a tile of `width` results of some rows of x. It goes along the sum `depth` at a time, a stage. The weights of a stage are
// two boxes of 64 k by 64 n: side by side forward, where k is summed, one below the other backward, where n is. A box's codes are
// half a tile of Packed, one piece of memory, and its dequantized weights lie [n][k] in 128 bytes to an n: the 8 k of 16 bytes are what
// words of 3 and 4 bits hold, and what a thread makes at a time. Forward reads the box along k and backward across it (ldmatrix.trans; the
// transposed operand of wgmma), so that one copy and one way of making it serve both.
#pragma once

#include "graft/cuda/swizzle.h"
#include "graft/quant/kernels.h"

namespace graft::cuda::tiles {

using quant::Packed;

inline constexpr int depth = 64;   // of a stage, along the sum
inline constexpr int width = 128;  // results of a block
inline constexpr int box = 64, boxes = 2, box_threads = 128;
inline constexpr int chunk = 8;         // elements of 16 bytes
inline constexpr int line = 2 * depth;  // bytes of a row of x, or of an n of a box
inline constexpr int box_bytes = box * line, weight_bytes = boxes * box_bytes;
static_assert(boxes * box == width && box == depth && Packed::tile_columns == box && Packed::tile_rows == 2 * box);

/// Byte of 16-byte column `chunk_number` of a line.
constexpr int swizzled(int line_number, int chunk_number) { return cuda::swizzled(line, line_number, chunk_number); }

/// First k and n of a box.
struct Corner {
  int k, n;
};
/// Box `b` of stage `step` for results from width · `tile` on.
constexpr Corner corner(bool backward, int tile, int step, int b) {
  if (backward) return {tile * width + b * box, step * depth};
  return {step * depth, tile * width + b * box};
}
constexpr int code_bytes(int bits) { return static_cast<int>(Packed::tile_bytes(bits)) / 2; }
/// Byte of Packed::codes at which those of a box begin.
constexpr std::int64_t codes_at(int bits, std::int64_t columns, const Corner& at) {
  const std::int64_t tile = at.k / (2 * box) * (columns / box) + at.n / box;
  return (2 * tile + at.k / box % 2) * code_bytes(bits);
}

// ---- copies, of 16 bytes each ----

/// Of a tile of x, what a thread copies: k … k + 7 of a row, and of every x_rows_apart-th below it.
struct XPiece {
  int row, k;
};
constexpr XPiece x_piece(int thread) { return {thread / (depth / chunk), thread % (depth / chunk) * chunk}; }
constexpr int x_rows_apart(int threads) { return threads / (depth / chunk); }
/// Byte of a box's codes at which a thread's first piece begins; so many threads on begins its next.
constexpr int code_piece(int thread) { return piece_bytes * thread; }

// ---- dequantizing ----

/// What one of `box_threads` threads dequantizes: 32 k of one column, 4 chunks. They are two units of Packed, which have one group each; a warp
/// has the same k for all its lanes.
struct Item {
  int box, half, column;
  constexpr int first_row() const { return 32 * half; }  // in the box
};
inline constexpr int items = boxes * box_threads, item_rows = 32, item_chunks = 4;
constexpr Item item(int number) { return {number / box_threads, number / box % 2, number % box}; }

/// Byte among a box's codes of the word that holds the first code of a chunk (0 … 7), and how far up its bits begin there. 8-bit codes are
/// in two words, `second_word` bytes apart.
constexpr int word_at(int bits, int chunk_number, int column) {
  const int per = static_cast<int>(Packed::rows_per_word(bits)), bytes = static_cast<int>(Packed::bytes_per_word(bits));
  return (chunk_number * chunk / per * box + column) * bytes;
}
constexpr int bits_at(int bits, int chunk_number) {
  return chunk_number * chunk % static_cast<int>(Packed::rows_per_word(bits)) * bits;
}
inline constexpr int second_word = 4 * box;

/// Byte among a stage's weights at which a chunk of an item is written.
constexpr int weight_at(const Item& it, int c) { return it.box * box_bytes + swizzled(it.column, item_chunks * it.half + c); }

// ---- mma.sync m16n8k16 with ldmatrix.x4: the 16 bytes that a lane gives the address of ----

/// Of 16 rows of x from `row` on, at the k16-th step of a stage: A's four registers.
constexpr int x_row_of(int lane, int row, int k16) { return swizzled(row + lane % 16, 2 * k16 + lane / 16); }
/// Of 16 results from `result` on: B's two registers for 8 of them, then for the other 8. Backward, the matrices are transposed on their way.
constexpr int weight_row_of(bool backward, int lane, int result, int k16) {
  if (backward) {
    const int c = result / chunk + lane / 16;
    return c / 8 * box_bytes + swizzled(16 * k16 + lane % 16, c % 8);
  }
  const int n = result + lane % 8 + lane / 16 * 8;
  return n / box * box_bytes + swizzled(n % box, 2 * k16 + lane / 8 % 2);
}

/// With which, times k16, x_row_of and weight_row_of forward are XORed: 16 k are two pieces of a line.
inline constexpr int k16_bytes = 2 * piece_bytes;

// ---- wgmma: what descriptors are made of, in bytes ----

struct Operand {
  int leading, stride, step;  // step: from one k16 to the next
};
inline constexpr Operand along = {16, 8 * line, 32};                 // x, and weights forward: K-major
inline constexpr Operand across = {box_bytes, 8 * line, 16 * line};  // weights backward: MN-major

/// Row and first of two columns of a lane's sums [i][j][2 h, 2 h + 1]: of 16 rows from warp_row(i) on and the j-th 8 columns from `column`
/// on. mma.sync and wgmma share it, a warp of the latter being one of four with 16 rows each.
struct Owner {
  int lane, row, column, step;
  constexpr int warp_row(int i) const { return row + i * step; }
  constexpr int row_of(int i, int h) const { return warp_row(i) + lane / 4 + 8 * h; }
  constexpr int column_of(int j) const { return column + 8 * j + lane % 4 * 2; }
};
/// A block's tile on 8 warps, 2 along the rows by 4 along the results.
template <int rows_>
struct MmaTile {
  static constexpr int rows = rows_, threads = items, first_thread = 0, I = rows / 2 / 16, J = width / 4 / 8;
  static constexpr Owner owner(int thread) {
    return {thread % 32, thread / 32 % 2 * (rows / 2), thread / 32 / 2 * (width / 4), 16};
  }
};
inline constexpr int group_threads = 128;  // of a warpgroup
/// And on one or two warpgroups that multiply, behind one that makes their operands.
template <int rows_>
struct WgmmaTile {
  static constexpr int rows = rows_, groups = rows > 64 ? 2 : 1, group_rows = rows / groups, I = group_rows / 64, J = width / 8;
  static constexpr int threads = groups * group_threads, first_thread = group_threads;
  static constexpr Owner owner(int thread) {
    return {thread % 32, thread / group_threads * group_rows + thread % group_threads / 32 * 16, 0, 64};
  }
};

// ---- low-rank terms in half precision: `depth` ranks are a stage, u its x and v its weights, along k ----

/// Of v, the first of 8 ranks of a column that a thread copies; it goes on v_pieces_apart further. Lanes have neighbouring ranks where
/// these are neighbours in memory, as those of B [out, r] forward, else neighbouring columns, as of A [r, in] backward.
struct VPiece {
  int rank, column;
};
constexpr VPiece v_piece(bool ranks_first, int thread) {
  if (ranks_first) return {thread % (depth / chunk) * chunk, thread / (depth / chunk)};
  return {thread / width * chunk, thread % width};
}
constexpr VPiece v_pieces_apart(bool ranks_first, int threads) {
  return ranks_first ? VPiece{0, threads / (depth / chunk)} : VPiece{threads / width * chunk, 0};
}
/// Its byte, where weight_row_of finds it.
constexpr int v_at(const VPiece& at) { return at.column / box * box_bytes + swizzled(at.column % box, at.rank / chunk); }

/// A block of the grid: rows of x first, so that blocks which run together read few weights; then tiles of results; then parts of the sum.
struct Work {
  int rows, tile, part;
};
constexpr Work work(unsigned number, unsigned row_tiles, unsigned result_tiles) {
  return {static_cast<int>(number % row_tiles), static_cast<int>(number / row_tiles % result_tiles),
          static_cast<int>(number / row_tiles / result_tiles)};
}

}  // namespace graft::cuda::tiles
