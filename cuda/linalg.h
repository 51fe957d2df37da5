// Arguments of the kernels in linalg.cu: batches of dense row-major matrices in double.
#pragma once

#include <cstdint>

namespace graft::cuda {

struct Finite {
  const double* a;
  std::int64_t each, batch;
  std::int32_t* status;  // [batch]: set to 1 where an element is not finite
};
struct Inverse {
  double *a, *y;  // [batch][n][n]; a is used up
  std::int64_t n;
  std::int32_t* status;  // set to 1 where a matrix is singular
};
struct SolveTriangular {
  const double* a;  // [batch][n][n]
  double* y;        // [batch][n][columns], b on entry
  std::int64_t n, columns, batch;
  bool upper;
  std::int32_t* status;  // set to 1 where the diagonal has a zero
};
struct Cholesky {
  double* a;  // [batch][n][n], the factor at the end
  std::int64_t n;
  std::int32_t* status;  // set to 1 where a matrix is not positive definite
};

}  // namespace graft::cuda
