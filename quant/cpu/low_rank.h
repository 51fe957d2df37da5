// The low-rank terms of a problem as operands: so many more steps of the depth for the blocked driver, and a share that the fused
// kernels add to their sums. Either way the result is written once.
#pragma once

#include "graft/quant/cpu/rows.h"

namespace graft::quant {

/// Both factors of all terms, one after the other: [m, depth] by [depth, columns of the result].
template <class T>
class LowRankPanels {
 public:
  LowRankPanels(const cpu::GemmKernels<T>& kernels, const Problem& problem) : kernels_(kernels), problem_(problem) {
    for (const LowRank& term : problem.terms) depth_ += term.u.sizes[1];
  }
  std::int64_t depth() const { return depth_; }
  /// As cpu::Panels::fill, of u. Lanes are rows of the result.
  void fill_left(std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, T* panel) const;
  /// Of v. Lanes are columns of the result, in the order of the packed rows where those are its columns.
  void fill_right(std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, T* panel) const;
  /// y[rows][columns] at stride ldy += the terms, from element (row, column) of the result on.
  void add(std::int64_t row, int rows, std::int64_t column, std::int64_t columns, T* y, std::int64_t ldy) const;

 private:
  /// Whether columns of the result are packed rows in an order of their own.
  bool gathered() const { return problem_.transposed && !problem_.weight.order.empty(); }
  /// Whether every v is read in place for so few rows, along its rows or its columns. The latter ends in a sum across a vector for
  /// each element, which only one row makes up for.
  bool as_it_lies(int rows) const {
    bool all = rows <= cpu::max_skinny && !gathered();
    for (const LowRank& term : problem_.terms) all = all && (term.v.strides[1] == 1 || (term.v.strides[0] == 1 && rows == 1));
    return all;
  }
  void add_as_it_lies(std::int64_t row, int rows, std::int64_t column, std::int64_t columns, T* y, std::int64_t ldy) const;
  void fill_gathered(const View& v, std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, T* panel) const;
  template <class Fill>
  void each(std::int64_t begin, std::int64_t count, int lanes, T* panel, Fill&& fill) const;

  const cpu::GemmKernels<T>& kernels_;
  const Problem& problem_;
  std::int64_t depth_ = 0;
};

}  // namespace graft::quant
