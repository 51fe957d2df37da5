// What one instruction set offers for packed weights, as plain functions over plain data: units compiled for wide sets share no
// inline code with the rest.
#pragma once

#include "graft/quant/kernels.h"

namespace graft::quant {

/// A Packed as its kernels see it.
struct Weights {
  const std::uint8_t* codes;
  const float* scales;
  const float* zeros;
  const Packed::Segment* segments;
  const std::int32_t* tiles;
  std::int64_t rows, columns, row_tiles, column_tiles;
  bool affine;
};

/// Rows of activations that one fused pass takes.
inline constexpr int fused_forward_rows = 6;
inline constexpr int fused_backward_rows = 4;

/// So many cache lines of memory, `step` of which are asked for at a time.
struct Ahead {
  const char* begin;
  std::int64_t lines, step;
};

struct CodeKernels {
  // ---- panels of dense weights, for the blocked driver (core/cpu/gemm.h) ----
  /// panel[depth][lanes] = w(row + d, column + l); whole units of rows, and whole panels of columns.
  void (*forward_panel)(const Weights& w, std::int64_t row, std::int64_t depth, std::int64_t column, int lanes, float* panel);
  /// panel[depth][lanes] = w(row + l, column + d); zeros past the last row.
  void (*backward_panel)(const Weights& w, std::int64_t column, std::int64_t depth, std::int64_t row, int lanes, float* panel);

  // ---- fused products: codes go from words to registers to sums ----
  /// y[m][tiles · tile_columns] = x W for a run of column tiles; x [rows][m], sums [segments][m] of x over each segment.
  void (*forward)(const Weights& w, const float* x, const float* sums, int m, std::int64_t tile, std::int64_t tiles, float* y);
  /// dx[m][tile_rows] = dy Wᵀ for one row tile; dy [m][columns]. Asks for the memory that is needed next with every column tile: while
  /// weights are unpacked, waiting for it costs nothing.
  void (*backward)(const Weights& w, const float* dy, int m, std::int64_t tile, float* dx, std::span<const Ahead> ahead);
};

struct Unit {
  CodeKernels bits2, bits3, bits4, bits8;
};

const Unit* unit_scalar();
const Unit* unit_avx2();  // null where the compiler's target does not have the set
const Unit* unit_avx512();
const Unit* unit_neon();

}  // namespace graft::quant
