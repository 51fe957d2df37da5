// The low-rank terms of a problem as operands: so many more steps of the depth for the blocked driver, or shares that are added to sums
// before these are written. Either way the result is written once.
#pragma once

#include "graft/quant/cpu/rows.h"

namespace graft::quant {

/// Both factors of all terms, one after the other: [m, depth] by [depth, columns of the result].
template <class T>
class LowRankPanels {
 public:
  LowRankPanels(const cpu::GemmKernels<T>& kernels, const Problem& problem);
  /// Whether terms join sums of the product alone, rather than being steps of its depth: they are rounded on their own, or for some rows.
  bool joins_sums() const { return problem_.joins_rounded() || !problem_.joins_all_rows(); }
  /// Of the terms that are steps of the product.
  std::int64_t depth() const { return depth_; }
  /// As cpu::Panels::fill, of u. Lanes are rows of the result.
  void fill_left(std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, T* panel) const;
  /// Of v. Lanes are columns of the result, in the order of the packed rows where those are its columns.
  void fill_right(std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, T* panel) const;
  /// The terms join y[rows][columns] at stride ldy, which are sums of the product alone from element (row, column) of the result on.
  void add(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns, T* y, std::int64_t ldy) const;

 private:
  /// Whether columns of the result are packed rows in an order of their own.
  bool gathered() const { return problem_.transposed && !problem_.weight.order.empty(); }
  /// Whether v is read in place for so few rows, along its rows or its columns.
  bool as_it_lies(const LowRank& term, std::int64_t rows) const {
    return rows <= cpu::max_skinny && !gathered() && (term.v.strides[1] == 1 || term.v.strides[0] == 1);
  }
  /// A term's rows among [row, row + rows), counted from the first row of its u.
  struct Rows {
    std::int64_t first, count;
    Rows(const LowRank& term, std::int64_t row, std::int64_t rows)
        : first(std::max<std::int64_t>(row - term.first_row, 0)),
          count(std::min(row + rows - term.first_row, term.u.sizes[0]) - first) {}
  };
  /// The rows of a term's u, each of which is contiguous.
  struct Left {
    const T* data;
    std::int64_t stride;
  };
  /// The share of a term for few rows, whose v is read as it lies, joins y[rows][columns]; x are its rows of u. And for any number of rows.
  void add_few(const LowRank& term, const T* x, std::int64_t ldx, int rows, std::int64_t column, std::int64_t columns, T* y,
               std::int64_t ldy) const;
  void add_many(const LowRank& term, const T* x, std::int64_t ldx, std::int64_t rows, std::int64_t column, std::int64_t columns,
                T* y, std::int64_t ldy) const;
  /// y[rows][n] takes a share in, in the term's order of rounding; the share's memory is used up.
  void join(const LowRank& term, T* share, std::int64_t lds, std::int64_t rows, std::int64_t n, T* y, std::int64_t ldy) const;
  /// v from `begin` of its depth on, as fill_right.
  void fill_v(const View& v, std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, T* panel) const;
  void fill_gathered(const View& v, std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, T* panel) const;
  template <class Fill>
  void each(std::int64_t begin, std::int64_t count, int lanes, T* panel, Fill&& fill) const;

  const cpu::GemmKernels<T>& kernels_;
  const Problem& problem_;
  std::int64_t depth_ = 0;
  std::vector<T> bias_;      // that is rounded with the product
  cpu::Scratch<T> copies_;   // of every u that does not lie as `left_` has it
  std::vector<Left> left_;   // of every term
};

/// LowRankPanels::add for the blocked driver.
template <class T>
class JoinSums final : public cpu::Epilogue<T> {
 public:
  explicit JoinSums(const LowRankPanels<T>& terms) : terms_(terms) {}
  void apply(std::int64_t row, std::int64_t column, std::int64_t rows, std::int64_t columns, T* c,
             std::int64_t ldc) const override {
    terms_.add(row, rows, column, columns, c, ldc);
  }

 private:
  const LowRankPanels<T>& terms_;
};

}  // namespace graft::quant
