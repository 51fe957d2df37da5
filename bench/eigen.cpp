#include "graft/bench/eigen.h"

#include <Eigen/Core>

namespace graft::bench {

void eigen_sgemm(int m, int n, int k, const float* x, const float* w, bool transposed, float* y) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using In = Eigen::Map<const Matrix>;
  Eigen::Map<Matrix> result(y, m, n);
  if (transposed) result.noalias() = In(x, m, k) * In(w, n, k).transpose();
  else result.noalias() = In(x, m, k) * In(w, k, n);
}

}  // namespace graft::bench
