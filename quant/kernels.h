// Products with a packed integer weight, forward and for the input gradient, from one copy of its codes and never through a dense
// copy of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "graft/core/isa.h"
#include "graft/core/storage.h"
#include "graft/core/view.h"
#include "graft/quant/compute.h"

namespace graft::quant {

/// The weight as kernels read it. The input channels are the rows k of a matrix [in, out]; they are sorted by group, and every
/// group is filled up to a multiple of `unit` rows, so that a kernel never meets a group's end inside a vector or a word.
///
/// Codes are cut into tiles of tile_rows × tile_columns, stored [row tile][column tile]. Within a tile, a word holds consecutive rows of one
/// column, lowest row in the lowest bits, and words are stored [tile_rows / rows per word][tile_columns]:
///
///     bits  rows per word  bytes per word  bytes per tile
///      2         16              4              2048
///      3          8              3              3072
///      4          8              4              4096
///      8          4              4              8192
///
/// A vector of words is so many columns by a few rows: forward sums down the rows of a tile with a column per lane, backward sums
/// along its columns with the same loads, and both walk memory a page at a time. Stored column by column instead, one of the two
/// directions would stride through memory.
struct Packed {
  static constexpr std::int64_t tile_rows = 128, tile_columns = 64, unit = 16;

  /// Rows [begin, end) that share a group and a tile.
  struct Segment {
    std::int32_t begin, end, group;
  };

  std::int64_t in = 0, out = 0;
  int bits = 4;         // of a stored code: 2, 3, 4 or 8
  int shift = 0;        // codes of 5 to 7 bits are stored in 8, shifted up by this much; scale and zero are for shifted codes,
                        // which is exact, and keeps codes around the middle of their range
  bool affine = false;  // false: w = scale · (code − zero). true: w = scale · code + zero, for formats that round that product
  std::int64_t rows = 0;     // of packed codes: a multiple of `unit`, at least `in`
  std::int64_t columns = 0;  // `out`, filled up to a multiple of tile_columns; scale 0 beyond `out`
  std::int64_t groups = 0;
  std::vector<std::int32_t> order;  // [rows] input channel of each row, −1 for filling; empty when row k is channel k
  std::vector<Segment> segments;    // all rows, in order
  std::vector<std::int32_t> tiles;  // [row tiles + 1] first segment of each row tile
  std::shared_ptr<Storage> codes;
  std::shared_ptr<Storage> scales, zeros;  // f32 [groups, columns]
  std::shared_ptr<Storage> places;         // off the CPU: i32 [rows][2], channel (−1 for filling) and group of each row

  static constexpr std::int64_t rows_per_word(int bits) { return bits == 3 ? 8 : 32 / bits; }
  static constexpr std::int64_t bytes_per_word(int bits) { return bits == 3 ? 3 : 4; }
  static constexpr std::int64_t tile_bytes(int bits) {
    return tile_rows / rows_per_word(bits) * tile_columns * bytes_per_word(bits);
  }
  std::int64_t row_tiles() const { return (rows + tile_rows - 1) / tile_rows; }
  std::int64_t column_tiles() const { return columns / tile_columns; }
  /// Memory held, in bytes.
  std::int64_t bytes() const { return codes->bytes() + scales->bytes() + zeros->bytes() + (places ? places->bytes() : 0); }
  Device device() const { return codes->device(); }
};

/// The same weight on another device; the same pointer where it is already there.
std::shared_ptr<const Packed> move_to(std::shared_ptr<const Packed> weight, Device device);

/// How a share joins a product whose result is rounded to y's dtype; fl is that rounding. Shares but summed ones join one after the other,
/// in sums of their own.
enum class Join {
  summed,   // in the product's own sums: y = fl(x W + share)
  added,    // to the rounded product: y = fl(fl(x W) + share)
  rounded,  // y = fl(fl(x W) + fl(share))
  scaled,   // y = fl(fl(x W) + fl(scale · fl(share)))
};
/// The columns of x [m, k] by groups: [m, k / group, group].
inline View by_groups(const View& x, std::int64_t group) {
  return {x.data, x.dtype, 3, {x.sizes[0], x.sizes[1] / group, group}, {x.strides[0], x.strides[1] * group, x.strides[1]}};
}
/// A share u v of a product's result [m, n], or of some of its rows: u [m or fewer, r], v [r, n], dtypes and strides as free as those of
/// the product's own operands. Where there is the factor A [r, k] that u is made from, the product of x [m, k] writes u before it reads it:
/// u = u_scale · x Aᵀ, from x's rows as they lie, summed like the product, rounded to u's dtype, and again when it is scaled.
struct LowRank {
  View u, v;
  Join join = Join::summed;    // all terms of a product are summed, or none
  double scale = 1;            // of Join::scaled
  std::int64_t first_row = 0;  // of the result's, which u's rows are from there on; the others are as if there were no such term
  View A = {};                 // or u is given
  double u_scale = 1;
  std::int64_t group = 1;  // of x's columns that are summed before they meet A, which is [r, k / group] then
  /// What a rounded share is multiplied with.
  double factor() const { return join == Join::scaled ? scale : 1; }
  /// Those rows of a matrix of m that the term is for.
  View rows_of(View matrix) const {
    matrix.data = static_cast<char*>(matrix.data) + first_row * matrix.strides[0] * size_of(matrix.dtype);
    matrix.sizes[0] = u.sizes[0];
    return matrix;
  }
};
/// What a product's x is made from before anything reads it, by a block-diagonal R: x = from · R, block by block, summed like the product and
/// rounded to x's dtype once.
struct Rotated {
  View from;    // [m, in]; x has its dtype, or that of the blocks
  View blocks;  // [in / b, b, b], or one for all blocks, [1, b, b]; of from's dtype, or f32 beside a half type
};
/// The columns of x [m, k] by blocks of b: [k / b, m, b].
inline View by_blocks(const View& x, std::int64_t b) {
  return {x.data, x.dtype, 3, {x.sizes[1] / b, x.sizes[0], b}, {x.strides[1] * b, x.strides[0], x.strides[1]}};
}
/// x = from · R by multiply(a, b, y), which takes matrices or batches of them as the kernel table's matmul does.
template <class Multiply>
void multiply_blocks(const View& from, const View& blocks, const View& x, Multiply multiply) {
  const std::int64_t b = blocks.sizes[1], width = x.sizes[1];
  const auto is_flat = [&](const View& view) { return view.strides[1] == 1 && (view.sizes[0] == 1 || view.strides[0] == width); };
  if (blocks.sizes[0] == 1 && is_flat(from) && is_flat(x)) {  // every block of every row is a row
    const auto flat = [&](const View& view) { return View{view.data, view.dtype, 2, {view.sizes[0] * (width / b), b}, {b, 1}}; };
    return multiply(flat(from), {blocks.data, blocks.dtype, 2, {b, b}, {blocks.strides[1], blocks.strides[2]}}, flat(x));
  }
  View all = blocks;
  if (all.sizes[0] == 1) all.sizes[0] = width / b, all.strides[0] = 0;
  multiply(by_blocks(from, b), all, by_blocks(x, b));
}

/// Terms that a product has at most on a GPU's fused kernels, one for each row that is streamed: 4 KB are a kernel's whole argument.
inline constexpr std::size_t most_terms = 32;

/// y [m, out] = x [m, in] · W (+ bias [out], unless null) (+ terms). Any strides; f64, f32, f16 or bf16, x and y f64 together or not at
/// all. Half types are widened, summed in f32 and rounded once; f64 is summed in f64 over exact weights. Where the set multiplies bytes, one
/// row (or two of bf16, by codes of eight bits) may be integers in units of 2^-29 or less (bf16: 2^-21) of the largest of 128, summed exactly. ValueError for shapes that
/// do not fit, TypeError for other dtypes. Everything lies on the weight's device; on a GPU the weight is rounded once more, to half types
/// that are multiplied as such, unless these are up to 32 rows of a forward product.
/// Compute::int8_activations takes f32, f16 and bf16 and sums integers exactly within a stretch, stretches and terms in f32. Its error
/// is that of the activations' rounding, at most 1/254 of the largest in the stretch each: some 1 % of a result's size, and compute_error
/// (quant_linear.h) says how much for a layer and its input.
/// Where x is `rotated` from something, it is memory that may be written on the way, or not.
void forward(const Packed& weight, const View& x, const View* bias, const View& y, std::span<const LowRank> terms = {},
             Compute compute = Compute::exact, const Rotated* rotated = nullptr);

/// product [i, j] = aᵀ b with a [m, i] and b [m, j], floating types, f64 together or not at all: the gradient of a term's factor.
struct Outer {
  View a, b, product;
};
/// Rows of a and b up to which writing a product takes longer than computing it, so that each part of its memory is a task, and half
/// precision is widened by the tasks that read it.
inline constexpr std::int64_t few_rows = 16;
/// All of them; ValueError for shapes that do not fit, TypeError for dtypes. Of few rows side by side, each a part at a time: a part of the
/// work is the same part of every product's memory, so that a thread finds in its own caches what it wrote the last time, even in blocks
/// that have changed places since.
void outer_products(std::span<const Outer> all, Device device);

/// dx [m, in] = dy [m, out] · Wᵀ (+ terms), in the same way; but where the set multiplies pairs of bf16, more than a few rows of bf16 meet
/// weights that are rounded to bf16, once. Makes outer products besides, which is faster than afterwards.
void backward(const Packed& weight, const View& dy, const View& dx, std::span<const LowRank> terms = {},
              std::span<const Outer> outer = {});

/// Rows [begin, end) of the dense weight [out, in] to out[(end − begin) · in] on the CPU, each entry exact and rounded once.
void dequantize(const Packed& weight, std::int64_t begin, std::int64_t end, float* out);

// ---- the rows behind them ----

struct Problem {
  const Packed& weight;
  bool transposed = false;  // backward
  const View& x;            // [m, in], or dy [m, out]
  const View* bias = nullptr;
  const View& y;  // [m, out], or dx [m, in]
  std::span<const LowRank> terms = {};
  Compute compute = Compute::exact;  // of a forward product
  std::span<const Outer> outer = {};
  const Rotated* rotated = nullptr;  // forward
  std::int64_t m() const { return x.sizes[0]; }
  /// Whether terms join a rounded result. The bias is then rounded with the product.
  bool joins_rounded() const { return !terms.empty() && terms.front().join != Join::summed; }
  /// Whether every term is for all rows.
  bool joins_all_rows() const {
    return std::ranges::all_of(terms, [&](const LowRank& term) { return term.u.sizes[0] == m(); });
  }
};

struct Row {
  std::string_view name;
  Isa isa;  // the set that is needed
  bool (*supports)(const Problem& problem);
  void (*run)(const Problem& problem);
  bool takes_outer = false;  // makes the outer products too, where they can be made in parts
};

/// All rows of the CPU, preferred first: forward and backward make x and u and run the first one whose set isa() includes and that supports
/// the problem.
std::span<const Row> rows();

namespace cuda {
// What a weight on a GPU is given to: defined by exactly one of cuda/quantized.cpp and cuda/absent.cpp. The problem has been checked, and its
// x is still to be made where it is rotated, and its terms' u where they have their A.
void product(const Problem& problem);
void dequantize(const Packed& weight, std::int64_t begin, std::int64_t end, float* out);
}  // namespace cuda

}  // namespace graft::quant
