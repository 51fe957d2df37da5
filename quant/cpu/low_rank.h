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
  void fill_gathered(const View& v, std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, T* panel) const;
  template <class Fill>
  void each(std::int64_t begin, std::int64_t count, int lanes, T* panel, Fill&& fill) const;

  const cpu::GemmKernels<T>& kernels_;
  const Problem& problem_;
  std::int64_t depth_ = 0;
};

}  // namespace graft::quant
