// What is added to a product with a packed weight before it is rounded, as its kernel is told.
#pragma once

#include <algorithm>

#include "graft/quant/kernels.h"

namespace graft::cuda {

/// A share u v of some rows of the result.
struct Term {
  const void *u, *v;
  std::int64_t u_strides[2], v_strides[2];
  int rank;
  DType u_dtype, v_dtype;
  quant::Join join;
  float factor;         // of a rounded share
  int first_row, rows;  // of the result
  int rows_before;      // of all earlier terms together
};

/// The bias, if there is one, and the terms.
struct Added {
  const void* bias;  // or null
  std::int64_t bias_stride;
  DType bias_dtype;
  bool joins_rounded;  // terms have sums of their own, and join a result that is rounded, bias included
  int terms, term_rows;
  Term term[quant::most_terms];

  static bool holds(const quant::Problem& problem) {
    return problem.terms.size() <= quant::most_terms && (problem.joins_rounded() || problem.joins_all_rows());
  }
  void take(const quant::Problem& problem) {
    if (problem.bias) bias = problem.bias->data, bias_stride = problem.bias->strides[0], bias_dtype = problem.bias->dtype;
    joins_rounded = problem.joins_rounded();
    for (const quant::LowRank& low_rank : problem.terms) {
      const View &u = low_rank.u, &v = low_rank.v;
      Term& t = term[terms++];
      t.u = u.data, t.u_dtype = u.dtype, t.v = v.data, t.v_dtype = v.dtype, t.rank = static_cast<int>(u.sizes[1]);
      t.join = low_rank.join, t.factor = static_cast<float>(low_rank.factor());
      t.first_row = static_cast<int>(low_rank.first_row), t.rows = static_cast<int>(u.sizes[0]);
      t.rows_before = term_rows, term_rows += t.rows;
      std::copy_n(u.strides, 2, t.u_strides), std::copy_n(v.strides, 2, t.v_strides);
    }
  }
};

}  // namespace graft::cuda
