// Arguments of the kernels in index.cu.
#pragma once

#include "graft/core/strided.h"

namespace graft::cuda {

/// y[…, i, …] = x[…, index[…, i, …], …]: walks y, index, and x without the dimension that is indexed.
struct Gather {
  Strided<3> walk;
  void* y;
  const std::int64_t* index;
  const void* x;
  std::int64_t jump, count;  // of x along the dimension; elements of y
};

/// y[…, index[…, i, …], …] += x[…, i, …]: walks x, index and y without the dimension; a thread adds the elements along it in order.
struct ScatterAdd {
  Strided<3> walk;
  const void* x;
  const std::int64_t* index;
  void* y;
  std::int64_t lines, length, x_step, index_step, jump;
};

}  // namespace graft::cuda
