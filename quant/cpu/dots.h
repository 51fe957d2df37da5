// Forward products by the dot products that instruction sets have for narrow numbers: two products of bf16, summed in f32, or four of
// bytes, summed in int32, for each 32 bits of a register. A code of up to eight bits is exact as either.
//
// Such a group of neighbours along the depth is an item. Codes are cut into items as is cheapest for their words (row_in_word), and
// activations follow that order.
#pragma once

#include "graft/quant/cpu/units.h"

namespace graft::quant {

/// Numbers per item.
enum class Dot { bf16 = 2, int8 = 4 };

/// The row that is number `part` of item `item` of a word: rows a half or a quarter of a word apart, so that one shift and one mask (or
/// one look-up) finds all of them.
constexpr int row_in_word(int rows_per_word, Dot dot, int item, int part) {
  return item + part * rows_per_word / static_cast<int>(dot);
}

/// Rows of activations that one pass takes.
inline constexpr int dot_rows = 6;

/// The activations of one pass. Items of a row tile are `stride` rows of them behind those of the one before.
struct DotInput {
  const std::uint32_t* items;  // [row tiles][tile_rows / numbers per item][m]
  const float* factors;        // int8: [segments][m] at the stride, what a sum of products with codes is multiplied by
  const float* sums;           // the same of what the items stand for, factor included
  std::int64_t stride;         // rows of activations of all passes
  int m;
};

struct DotKernels {
  /// y[m][tiles · tile_columns] = x W for a run of column tiles.
  void (*packed)(const Weights& w, const DotInput& x, std::int64_t tile, std::int64_t tiles, float* y);

  /// items[tile_rows / numbers per item][tile_columns] = the codes of a tile.
  void (*unpack)(const std::uint8_t* tile, std::uint32_t* items);
  /// y[m][tile_columns] at stride ldy += x W over a tile of those.
  void (*unpacked)(const Weights& w, const std::uint32_t* items, const DotInput& x, std::int64_t row_tile, std::int64_t column,
                   float* y, std::int64_t ldy);
};

struct DotUnit {
  DotKernels bits2, bits3, bits4, bits8;
};

const DotUnit* int8_dots_scalar();
const DotUnit* int8_dots_avx2();  // null where the compiler's target does not have the set
const DotUnit* int8_dots_avx512_dot();
const DotUnit* bf16_dots_avx512_dot();

/// Null if the build or the set has none of the kind.
const DotKernels* dot_kernels(Dot dot, Isa isa, int bits);

/// Few rows straight from packed codes, or many through tiles unpacked once for all of them (dots.cpp).
void run_dots(const Problem& problem, Dot dot, Isa isa, bool unpacked);

}  // namespace graft::quant
