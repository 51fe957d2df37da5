// What a product with adapters needs of its operand before it begins, made in one reading of it, and the argument of the kernels that make it.
#pragma once

#include <span>

#include "graft/cuda/dense.h"
#include "graft/cuda/prepass_maps.h"
#include "graft/quant/kernels.h"

namespace graft::cuda {

/// Where a pre-pass writes x in the order of the weight's packed rows, fillings 0: [m, ld], rows of aligned pieces. x is of a half type.
struct Arranged {
  std::uint16_t* x;  // or null
  std::int64_t ld;
  const std::int32_t* places;  // channel, −1 for filling, and group of each of `packed` rows
  int packed;
};

/// u = scale · x Aᵀ for some rows of x [m, columns] and each of the terms, in f32, where `group` columns share one of A; and x in the packed
/// order.
struct Prepass {
  struct Term {
    const float* A;  // [rank, columns / group], in rows of aligned 16-byte pieces
    float* u;
    std::int64_t ld, u_strides[2];
    int rank, group, first_row, rows;
    int units_before;  // of earlier terms: pairs of ranks
    float scale;
  };
  const void* x;  // rows of aligned 16-byte pieces
  std::int64_t ld;
  int m, columns;
  int parts, part_columns, line;  // shrink::Cut
  bool whole;
  Arranged arranged;
  int terms, units;
  float* partial;  // [row blocks][parts][units][sums of a unit]; null where there is one part
  Term term[quant::most_terms];
};

/// Writes u of each of the problem's terms that has its A, and x, which lies in `lines`, in the packed order where that is wanted. x is
/// read from memory once for all of it: in bf16, f16 or f32 with f32 factors and u. Other terms' u are products of the kernel table.
void prepass(const quant::Problem& problem, const Lines& lines, const Arranged* arranged);
/// x, where it is rotated, and u alone.
void prepass(const quant::Problem& problem);
/// u alone, of terms of any product of x.
void prepass(const View& x, std::span<const quant::LowRank> terms);

}  // namespace graft::cuda
