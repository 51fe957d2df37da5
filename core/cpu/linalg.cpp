#include <Eigen/Cholesky>
#include <Eigen/LU>
#include <Eigen/QR>
#include <Eigen/SVD>

#include "graft/core/cpu/cpu.h"
#include "graft/core/cpu/loop.h"
#include "graft/core/cpu/temporary.h"

namespace graft::cpu {
namespace {

// Everything is computed in double: f32 callers get the better rounding, and Eigen's templates are compiled once.
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A view as dense matrices, number i of a batch. An input is copied in, an output copied back by `finish`.
class Matrices {
 public:
  explicit Matrices(const View& view, int dims = 2) : view_(view), dense_(view, DType::f64) {
    columns_ = view.sizes[view.rank - 1];
    rows_ = dims == 2 ? view.sizes[view.rank - 2] : 1;
    for (int i = 0; i < view.rank - dims; ++i) batch_ *= view.sizes[i];
  }
  static Matrices input(const View& view, const char* what) {
    check<TypeError>(view.dtype == DType::f32 || view.dtype == DType::f64, "{}: needs f32 or f64, not {}", what, view.dtype);
    Matrices matrices(view);
    copy(view, matrices.dense_.view());
    return matrices;
  }
  Eigen::Map<Matrix> operator[](std::int64_t i) const {
    return {dense_.data<double>() + i * rows_ * columns_, rows_, columns_};
  }
  std::int64_t batch() const { return batch_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  void finish() const { copy(dense_.view(), view_); }

 private:
  View view_;
  Temporary dense_;
  std::int64_t rows_ = 1, columns_ = 1, batch_ = 1;
};

/// Calls f(i) for the matrices of a batch, in parallel when they are many or large.
template <class F>
void for_each_matrix(const Matrices& a, F&& f) {
  const std::int64_t n = std::max(a.rows(), a.columns());
  parallel_ranges(a.batch(), steps_per_chunk(n * n * n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) f(i);
  });
}

void check_finite(const Eigen::Map<Matrix>& matrix, const char* what, std::int64_t i) {
  check(matrix.allFinite(), "{}: matrix {} of the batch has elements that are not finite", what, i);
}

}  // namespace

void inverse(const View& a, const View& y) {
  const auto from = Matrices::input(a, "inverse");
  const Matrices to(y);
  for_each_matrix(from, [&](std::int64_t i) {
    check_finite(from[i], "inverse", i);
    if (from.rows() == 0) return;
    const Eigen::PartialPivLU<Matrix> lu(from[i]);
    check(lu.matrixLU().diagonal().cwiseAbs().minCoeff() > 0, "inverse: matrix {} of the batch is singular", i);
    to[i] = lu.inverse();
    check(to[i].allFinite(), "inverse: matrix {} of the batch is singular", i);
  });
  to.finish();
}

void solve_triangular(const View& a, const View& b, bool upper, const View& y) {
  const auto left = Matrices::input(a, "solve_triangular"), right = Matrices::input(b, "solve_triangular");
  const Matrices to(y);
  for_each_matrix(left, [&](std::int64_t i) {
    check((left[i].diagonal().array() != 0).all(), "solve_triangular: matrix {} of the batch has a zero on its diagonal", i);
    if (upper) {
      to[i] = left[i].triangularView<Eigen::Upper>().solve(right[i]);
    } else {
      to[i] = left[i].triangularView<Eigen::Lower>().solve(right[i]);
    }
  });
  to.finish();
}

void cholesky(const View& a, const View& lower) {
  const auto from = Matrices::input(a, "cholesky");
  const Matrices to(lower);
  for_each_matrix(from, [&](std::int64_t i) {
    check_finite(from[i], "cholesky", i);
    const Eigen::LLT<Matrix> factors(from[i]);
    check(factors.info() == Eigen::Success, "cholesky: matrix {} of the batch is not positive definite", i);
    to[i] = factors.matrixL();
  });
  to.finish();
}

void qr(const View& a, const View& q, const View& r) {
  const auto from = Matrices::input(a, "qr");
  const Matrices orthogonal(q), triangular(r);
  const std::int64_t k = std::min(from.rows(), from.columns());
  for_each_matrix(from, [&](std::int64_t i) {
    check_finite(from[i], "qr", i);
    if (k == 0) return;
    const Eigen::HouseholderQR<Matrix> factors(from[i]);
    orthogonal[i] = factors.householderQ() * Matrix::Identity(from.rows(), k);
    triangular[i] = factors.matrixQR().topRows(k).triangularView<Eigen::Upper>();
  });
  orthogonal.finish();
  triangular.finish();
}

void svd(const View& a, const View& u, const View& s, const View& vt) {
  const auto from = Matrices::input(a, "svd");
  const Matrices left(u), values(s, 1), right(vt);
  for_each_matrix(from, [&](std::int64_t i) {
    check_finite(from[i], "svd", i);
    if (std::min(from.rows(), from.columns()) == 0) return;
    const Eigen::BDCSVD<Matrix> factors(from[i], Eigen::ComputeThinU | Eigen::ComputeThinV);
    check(factors.info() == Eigen::Success, "svd: no convergence on matrix {} of the batch", i);
    left[i] = factors.matrixU();
    values[i] = factors.singularValues().transpose();
    right[i] = factors.matrixV().transpose();
  });
  left.finish();
  values.finish();
  right.finish();
}

}  // namespace graft::cpu
