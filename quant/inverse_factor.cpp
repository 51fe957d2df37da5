#include "graft/quant/inverse_factor.h"

#include <Eigen/Dense>

#include "graft/core/kernels.h"
#include "graft/core/parallel.h"

namespace graft::quant {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Everything but the blocks on the diagonal is left to the matrix product.
constexpr std::int64_t block = 128;

// Rows [r, r + rows) and columns [c, c + columns) of a square matrix.
Tensor part(const Tensor& a, std::int64_t r, std::int64_t c, std::int64_t rows, std::int64_t columns) {
  return a.alias({rows, columns}, {a.dim(1), 1}, a.offset() + r * a.dim(1) + c);
}

Tensor transposed(const Tensor& a) { return a.alias({a.dim(1), a.dim(0)}, {a.strides()[1], a.strides()[0]}, a.offset()); }

Eigen::Map<Matrix, 0, Eigen::OuterStride<>> map(const Tensor& a) {
  return {a.data<double>(), a.dim(0), a.dim(1), Eigen::OuterStride<>(a.strides()[0])};
}

Tensor product(const Tensor& a, const Tensor& b) {
  const Tensor y = Tensor::empty({a.dim(0), b.dim(1)}, DType::f64);
  kernel(Device{}, &Kernels::matmul, "inverse_factor")(a.view(), b.view(), y.view());
  return y;
}

// The lower Cholesky factor in place of the lower triangle, block column by block column. False if a is not positive definite.
bool factorize(const Tensor& a) {
  const std::int64_t n = a.dim(0);
  for (std::int64_t j = 0; j < n; j += block) {
    const std::int64_t width = std::min(block, n - j), below = n - j - width;
    const Tensor column = part(a, j, j, n - j, width), corner = part(a, j, j, width, width);
    if (j > 0) map(column) -= map(product(part(a, j, 0, n - j, j), transposed(part(a, j, 0, width, j))));
    const Eigen::LLT<Matrix> llt(map(corner));
    if (llt.info() != Eigen::Success || !llt.matrixLLT().diagonal().allFinite()) return false;
    map(corner) = llt.matrixL();
    if (below == 0) break;
    const Tensor inverse = Tensor::empty({width, width}, DType::f64), rest = part(a, j + width, j, below, width);
    map(inverse) = Matrix(llt.matrixL()).triangularView<Eigen::Lower>().solve(Matrix::Identity(width, width));
    map(rest) = map(product(rest, transposed(inverse)));
  }
  return true;
}

// The inverse of a lower triangle in its place: a block row needs the rows above it inverted, and of the original only itself.
void invert_lower(const Tensor& a) {
  const std::int64_t n = a.dim(0);
  for (std::int64_t i = 0; i < n; i += block) {
    const std::int64_t height = std::min(block, n - i);
    const Tensor corner = part(a, i, i, height, height);
    map(corner) = Matrix(map(corner)).triangularView<Eigen::Lower>().solve(Matrix::Identity(height, height));
    if (i == 0) continue;
    const Tensor row = part(a, i, 0, height, i);
    map(row) = -map(product(corner, product(row, part(a, 0, 0, i, i))));
  }
}

}  // namespace

std::optional<Tensor> inverse_factor(const Tensor& h, double damping) {
  check(h.rank() == 2 && h.dim(0) == h.dim(1) && h.is_contiguous() && h.device().is_cpu(),
        "inverse_factor: a square, contiguous matrix on the CPU is wanted, not shape {}", h.shape());
  const std::int64_t n = h.dim(0);
  auto a = map(h);
  // With H = R Rᵀ, R upper, U is R⁻¹; and R is the lower factor of H with rows and columns in reverse order, turned back. So one
  // factorization and one triangular inverse do, where the definition asks for two factorizations and a full inverse.
  parallel_ranges(n, block, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t j = 0; j < i; ++j) a(j, i) = a(i, j);
      a(i, i) += damping;
    }
  });
  parallel_ranges((n + 1) / 2, block, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      for (std::int64_t j = 0; j < (2 * i + 1 == n ? n / 2 : n); ++j) std::swap(a(i, j), a(n - 1 - i, n - 1 - j));
  });
  if (!factorize(h)) return {};
  // The products below read whole blocks, so what lies above the diagonal must be zero.
  parallel_ranges(n, block, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) std::fill(&a(i, i) + 1, &a(i, i) + n - i, 0.0);
  });
  invert_lower(h);
  const Tensor upper = Tensor::empty({n, n});
  float* u = upper.data<float>();
  parallel_ranges(n, block, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      for (std::int64_t j = 0; j < n; ++j) u[i * n + j] = static_cast<float>(a(n - 1 - i, n - 1 - j));
  });
  return upper;
}

}  // namespace graft::quant
