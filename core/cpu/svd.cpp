// Singular values by one-sided Jacobi rotations (Hestenes, 1958): columns are rotated in pairs until all are orthogonal; their
// lengths are then the singular values. Small values come out with full relative accuracy, and it compiles in a
// second where Eigen's divide and conquer takes most of a minute.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "graft/core/cpu/cpu.h"
#include "graft/core/cpu/matrices.h"
#include "graft/core/cpu/vector.h"

namespace graft::cpu {
namespace {

/// Columns of equal length, one after the other.
struct Columns {
  Columns(std::int64_t length, std::int64_t count) : length(length), count(count), data(length * count) {}
  double* operator[](std::int64_t j) { return data.data() + j * length; }
  double dot(std::int64_t i, std::int64_t j) { return vector_loops<double>().dot((*this)[i], (*this)[j], length); }

  /// Columns (i, j) ← (c i − s j, s i + c j).
  void rotate(std::int64_t i, std::int64_t j, double c, double s) {
    double *a = (*this)[i], *b = (*this)[j];
    for (std::int64_t k = 0; k < length; ++k) {
      const double x = a[k], y = b[k];
      a[k] = c * x - s * y;
      b[k] = s * x + c * y;
    }
  }

  std::int64_t length, count;
  std::vector<double> data;
};

/// Rotates until every pair of `work` is orthogonal; `rotations` undergoes the same. False if that takes too long.
bool orthogonalize(Columns& work, Columns& rotations) {
  constexpr int most_sweeps = 60;
  const double tolerance = 0x1p-51 * std::sqrt(static_cast<double>(work.length));  // a little above the rounding of a dot product
  for (int sweep = 0; sweep < most_sweeps; ++sweep) {
    bool done = true;
    for (std::int64_t i = 0; i < work.count; ++i) {
      for (std::int64_t j = i + 1; j < work.count; ++j) {
        const double ii = work.dot(i, i), jj = work.dot(j, j), ij = work.dot(i, j);
        if (ii == 0 || jj == 0 || std::abs(ij) <= tolerance * std::sqrt(ii) * std::sqrt(jj)) continue;
        done = false;
        const double zeta = (jj - ii) / (2 * ij);
        const double t = std::copysign(1 / (std::abs(zeta) + std::hypot(1, zeta)), zeta), c = 1 / std::hypot(1, t);
        work.rotate(i, j, c, c * t);
        rotations.rotate(i, j, c, c * t);
        // A column that depended on the other leaves only its rounding behind, which would be rotated for ever.
        const std::int64_t shorter = ii < jj ? i : j;
        if (work.dot(shorter, shorter) <= 0x1p-100 * std::min(ii, jj)) std::fill_n(work[shorter], work.length, 0.0);
      }
    }
    if (done) return true;
  }
  return false;
}

/// Makes column `j` a unit vector orthogonal to the columns in `basis`: the axis that they cover least, without its part in them.
void complete(Columns& columns, const std::vector<std::int64_t>& basis, std::int64_t j) {
  std::int64_t axis = 0;
  double least = std::numeric_limits<double>::infinity();
  for (std::int64_t k = 0; k < columns.length; ++k) {
    double covered = 0;
    for (auto i : basis) covered += columns[i][k] * columns[i][k];
    if (covered < least) least = covered, axis = k;
  }
  double* column = columns[j];
  std::fill_n(column, columns.length, 0.0);
  column[axis] = 1;
  for (int twice = 0; twice < 2; ++twice)
    for (auto i : basis) vector_loops<double>().add_scaled(column, -columns.dot(i, j), columns[i], column, columns.length);
  vector_loops<double>().unary(UnaryOp::affine, column, column, columns.length, 1 / std::sqrt(columns.dot(j, j)), 0);
}

/// a [rows, columns] with rows ≥ columns = u s vᵀ; `a_at(row, column)` reads it, `write(k, u column, s, v column)` takes the
/// results in descending order.
template <class Read, class Write>
void factor(std::int64_t rows, std::int64_t columns, Read&& a_at, Write&& write, std::int64_t number) {
  Columns u(rows, columns), v(columns, columns);
  double scale = 0;
  for (std::int64_t j = 0; j < columns; ++j)
    for (std::int64_t i = 0; i < rows; ++i) scale = std::max(scale, std::abs(u[j][i] = a_at(i, j)));
  // Scaled so that no square overflows; a power of two, so that nothing is rounded.
  const int exponent = scale > 0 ? std::ilogb(scale) : 0;
  for (double& value : u.data) value = std::scalbn(value, -exponent);
  for (std::int64_t j = 0; j < columns; ++j) v[j][j] = 1;
  check(orthogonalize(u, v), "svd: no convergence on matrix {} of the batch", number);

  std::vector<double> lengths(columns);
  for (std::int64_t j = 0; j < columns; ++j) lengths[j] = std::sqrt(u.dot(j, j));
  std::vector<std::int64_t> order(columns), basis;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return lengths[i] > lengths[j]; });
  for (std::int64_t k = 0; k < columns; ++k) {
    const std::int64_t j = order[k];
    if (lengths[j] > 0) {
      for (std::int64_t i = 0; i < rows; ++i) u[j][i] /= lengths[j];
    } else {
      complete(u, basis, j);
    }
    basis.push_back(j);
    write(k, u[j], std::scalbn(lengths[j], exponent), v[j]);
  }
}

}  // namespace

void svd(const View& a, const View& u, const View& s, const View& vt) {
  const auto from = Matrices::input(a, "svd");
  const Matrices left(u), values(s, 1), right(vt);
  const std::int64_t m = from.rows(), n = from.columns(), k = std::min(m, n);
  from.for_each([&](std::int64_t i) {
    const double* matrix = from.at(i);
    const auto write = [&](std::int64_t at, const double* left_column, double value, const double* right_column) {
      values.at(i)[at] = value;
      for (std::int64_t row = 0; row < m; ++row) left.at(i)[row * k + at] = left_column[row];
      for (std::int64_t column = 0; column < n; ++column) right.at(i)[at * n + column] = right_column[column];
    };
    if (m >= n) {
      factor(
          m, n, [&](std::int64_t row, std::int64_t column) { return matrix[row * n + column]; }, write, i);
    } else {  // the transpose has the factors swapped
      factor(
          n, m, [&](std::int64_t row, std::int64_t column) { return matrix[column * n + row]; },
          [&](std::int64_t at, const double* x, double value, const double* y) { write(at, y, value, x); }, i);
    }
  });
  left.finish();
  values.finish();
  right.finish();
}

}  // namespace graft::cpu
