// The matrices of a batch, for the factorizations. They are dense, row-major and in double whatever the tensor is: rounding is
// better and the libraries behind are compiled once.
#pragma once

#include <cmath>
#include <limits>

#include "graft/core/cpu/loop.h"
#include "graft/core/cpu/temporary.h"

namespace graft::cpu {

class Matrices {
 public:
  /// Room for the result that belongs into `view`; `finish` writes it there. `dims` is 1 for rows of numbers.
  explicit Matrices(const View& view, int dims = 2)
      : view_(view),
        dense_(view, DType::f64),
        rows_(dims == 2 ? view.sizes[view.rank - 2] : 1),
        columns_(view.sizes[view.rank - 1]) {
    for (int i = 0; i < view.rank - dims; ++i) batch_ *= view.sizes[i];
  }
  /// A copy of `view`; TypeError naming `what` unless it is f32 or f64, ValueError if an element is not finite.
  static Matrices input(const View& view, const char* what) {
    check<TypeError>(view.dtype == DType::f32 || view.dtype == DType::f64, "{}: needs f32 or f64, not {}", what, view.dtype);
    Matrices matrices(view);
    copy(view, matrices.dense_.view());
    const std::int64_t each = matrices.rows_ * matrices.columns_;
    for (std::int64_t i = 0; i < matrices.batch_ * each; ++i)
      check(std::abs(matrices.at(0)[i]) <= std::numeric_limits<double>::max(),
            "{}: matrix {} of the batch has an element that is not finite", what, i / each);
    return matrices;
  }
  void finish() const { copy(dense_.view(), view_); }

  double* at(std::int64_t i) const { return dense_.data<double>() + i * rows_ * columns_; }
  std::int64_t batch() const { return batch_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }

  /// Calls f(i) for every matrix, in parallel when they are many or large.
  template <class F>
  void for_each(F&& f) const {
    const std::int64_t n = std::max(rows_, columns_);
    parallel_ranges(batch_, steps_per_chunk(n * n * n), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) f(i);
    });
  }

 private:
  View view_;
  Temporary dense_;
  std::int64_t rows_, columns_, batch_ = 1;
};

}  // namespace graft::cpu
