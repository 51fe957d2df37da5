// Forward products by the dot products that instruction sets have for narrow numbers: two products of bf16, summed in f32, or four of
// bytes, summed in int32, for each 32 bits of a register. A code of up to eight bits is exact as either.
//
// Such a group of neighbours along the depth is an item. Codes are cut into items as is cheapest for their words (row_in_word), and
// activations follow that order.
//
// Few rows of other activations are made of bytes too: of the digits of integers (Digits in dots.cpp).
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

/// The activations of one pass. Items of a row tile are `stride` rows of them behind those of the one before. Where a row is digits, each
/// of them has items of its own, and what is [m] for items is [m][digits].
struct DotInput {
  const std::uint32_t* items;  // [row tiles][tile_rows / numbers per item][m]
  const float* factors;        // int8: [segments][m] at the stride, what a sum of products with codes is multiplied by
  const float* sums;           // the same of what the items stand for, factor included
  const std::uint32_t* starts;  // digits: [segments][m][digits], what sums start from: those of the digits times −origin
  std::int64_t stride;         // rows of activations of all passes
  int m;
};

/// Digits of activations in bf16 and in other types, and what products with them take codes less.
inline constexpr int bf16_digits = 3, f32_digits = 4;
constexpr int digits_origin(int bits) { return 1 << (bits - 1); }
/// Rows of activations up to which digits take less time than other products.
constexpr int most_rows_of_digits(int bits, int digits) { return digits == f32_digits || bits == 3 ? 1 : bits == 8 ? 2 : 0; }

using PackedProduct = void (*)(const Weights& w, const DotInput& x, std::int64_t tile, std::int64_t tiles, float* y);

struct DotKernels {
  /// y[m][tiles · tile_columns] = x W for a run of column tiles.
  PackedProduct packed;

  /// items[tile_rows / numbers per item][tile_columns] = the codes of a tile.
  void (*unpack)(const std::uint8_t* tile, std::uint32_t* items);
  /// y[m][tile_columns] at stride ldy += x W over a tile of those.
  void (*unpacked)(const Weights& w, const std::uint32_t* items, const DotInput& x, std::int64_t row_tile, std::int64_t column,
                   float* y, std::int64_t ldy);

  /// `packed` where each row of x is so many digits, if the set has it.
  PackedProduct bf16_digits_packed = nullptr, f32_digits_packed = nullptr;
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

/// Few rows straight from packed codes, or many through tiles unpacked once for all of them (dots.cpp). Where sums of activations in bf16 or
/// of digits are not finite, all of it is left to panels: beside a sum, an offset would make NaN of an infinite result.
void run_dots(const Problem& problem, Dot dot, Isa isa, bool unpacked);

/// What multiplies the problem's few rows as digits; null if nothing does, or not faster than by other products.
PackedProduct digits_kernel(const Problem& problem, Isa isa);
/// By that.
void run_digits(const Problem& problem, Isa isa);

}  // namespace graft::quant
