#include <Eigen/Cholesky>
#include <Eigen/LU>
#include <Eigen/QR>

#include "graft/core/cpu/cpu.h"
#include "graft/core/cpu/matrices.h"

namespace graft::cpu {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Eigen::Map<RowMajor> map(const Matrices& matrices, std::int64_t i) {
  return {matrices.at(i), matrices.rows(), matrices.columns()};
}

}  // namespace

void inverse(const View& a, const View& y) {
  const auto from = Matrices::input(a, "inverse");
  const Matrices to(y);
  if (a.count() == 0) return;
  from.for_each([&](std::int64_t i) {
    const Eigen::PartialPivLU<Matrix> lu(map(from, i));
    // A pivot below the rounding of the elimination says singular, as an exact zero would in exact arithmetic.
    const double smallest = lu.matrixLU().diagonal().cwiseAbs().minCoeff(), largest = map(from, i).cwiseAbs().maxCoeff();
    check(smallest > static_cast<double>(from.rows()) * 0x1p-53 * largest, "inverse: matrix {} of the batch is singular", i);
    map(to, i) = lu.inverse();
  });
  to.finish();
}

void solve_triangular(const View& a, const View& b, bool upper, const View& y) {
  const auto left = Matrices::input(a, "solve_triangular"), right = Matrices::input(b, "solve_triangular");
  const Matrices to(y);
  left.for_each([&](std::int64_t i) {
    const auto triangle = map(left, i);
    check((triangle.diagonal().array() != 0).all(), "solve_triangular: matrix {} of the batch has a zero on its diagonal", i);
    Matrix solution = map(right, i);
    if (upper) {
      triangle.triangularView<Eigen::Upper>().solveInPlace(solution);
    } else {
      triangle.triangularView<Eigen::Lower>().solveInPlace(solution);
    }
    map(to, i) = solution;
  });
  to.finish();
}

void cholesky(const View& a, const View& lower) {
  const auto from = Matrices::input(a, "cholesky");
  const Matrices to(lower);
  from.for_each([&](std::int64_t i) {
    const Eigen::LLT<Matrix> factors(map(from, i));
    check(factors.info() == Eigen::Success, "cholesky: matrix {} of the batch is not positive definite", i);
    map(to, i) = Matrix(factors.matrixL());
  });
  to.finish();
}

void qr(const View& a, const View& q, const View& r) {
  const auto from = Matrices::input(a, "qr");
  const Matrices orthogonal(q), triangular(r);
  const std::int64_t k = std::min(from.rows(), from.columns());
  if (k > 0) {
    from.for_each([&](std::int64_t i) {
      const Eigen::HouseholderQR<Matrix> factors(map(from, i));
      Matrix basis = Matrix::Identity(from.rows(), k);
      basis.applyOnTheLeft(factors.householderQ());
      map(orthogonal, i) = basis;
      map(triangular, i) = Matrix(factors.matrixQR().topRows(k).triangularView<Eigen::Upper>());
    });
  }
  orthogonal.finish();
  triangular.finish();
}

}  // namespace graft::cpu
