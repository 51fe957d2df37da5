// Small dense matrices, a block each: the rotations of OFT and the factors that adapters need. In double, as on the CPU.
#include <cmath>

#include "graft/cuda/block_reduce.cuh"
#include "graft/cuda/elements.cuh"
#include "graft/cuda/linalg.h"

namespace graft::cuda {
namespace {

struct Pivot {
  double size;
  std::int64_t row;
};

__device__ inline Pivot larger(const Pivot& a, const Pivot& b) {
  return a.size > b.size || (a.size == b.size && a.row <= b.row) ? a : b;
}

template <class F>
__device__ void for_each(std::int64_t begin, std::int64_t end, F&& f) {
  for (std::int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) f(i);
}

}  // namespace

extern "C" {

__global__ void check_finite(const __grid_constant__ Finite f) {
  for (std::int64_t i = first_index(); i < f.each * f.batch; i += index_step())
    if (!(std::fabs(f.a[i]) <= std::numeric_limits<double>::max())) f.status[i / f.each] = 1;
}

// Gauss and Jordan with partial pivoting: [A | I] becomes [I | A⁻¹]. Columns of A that are done are not touched again.
__global__ void inverse(const __grid_constant__ Inverse v) {
  const std::int64_t n = v.n;
  double *a = v.a + blockIdx.x * n * n, *y = v.y + blockIdx.x * n * n;
  double largest = 0;
  for_each(0, n * n, [&](std::int64_t i) {
    largest = std::fmax(largest, std::fabs(a[i]));
    y[i] = i / n == i % n;
  });
  largest = fold_to_all(largest, [](double x, double z) { return std::fmax(x, z); });
  // A pivot below the rounding of the elimination says singular, as an exact zero would in exact arithmetic.
  const double least = static_cast<double>(n) * 0x1p-53 * largest;
  for (std::int64_t k = 0; k < n; ++k) {
    __syncthreads();
    Pivot mine{-1, n};
    for_each(k, n, [&](std::int64_t row) { mine = larger(mine, Pivot{std::fabs(a[row * n + k]), row}); });
    const Pivot pivot = fold_to_all(mine, larger);
    if (!(pivot.size > least)) {
      if (threadIdx.x == 0) v.status[blockIdx.x] = 1;
      return;
    }
    const double factor = 1 / a[pivot.row * n + k];
    __syncthreads();
    for_each(0, 2 * n, [&](std::int64_t i) {  // the pivot's row changes places with row k, and is divided by the pivot
      double* column = i < n ? a + i : y + (i - n);
      if (i < k) return;
      const double top = column[k * n], chosen = column[pivot.row * n];
      if (i != k) column[pivot.row * n] = top, column[k * n] = chosen * factor;
      else column[pivot.row * n] = top;
    });
    __syncthreads();
    for_each(0, n * (2 * n - k - 1), [&](std::int64_t i) {
      const std::int64_t row = i / (2 * n - k - 1), at = k + 1 + i % (2 * n - k - 1);
      if (row == k) return;
      double* column = at < n ? a + at : y + (at - n);
      column[row * n] -= a[row * n + k] * column[k * n];
    });
  }
}

// A thread takes a column of the right-hand side.
__global__ void solve_triangular(const __grid_constant__ SolveTriangular s) {
  const std::int64_t n = s.n;
  for (std::int64_t at = first_index(); at < s.batch * s.columns; at += index_step()) {
    const std::int64_t matrix = at / s.columns;
    const double* a = s.a + matrix * n * n;
    double* y = s.y + matrix * n * s.columns + at % s.columns;
    for (std::int64_t step = 0; step < n; ++step) {
      const std::int64_t i = s.upper ? n - 1 - step : step, begin = s.upper ? i + 1 : 0, end = s.upper ? n : i;
      if (a[i * n + i] == 0) {
        s.status[matrix] = 1;
        break;
      }
      double value = y[i * s.columns];
      for (std::int64_t j = begin; j < end; ++j) value = std::fma(-a[i * n + j], y[j * s.columns], value);
      y[i * s.columns] = value / a[i * n + i];
    }
  }
}

__global__ void cholesky(const __grid_constant__ Cholesky c) {
  const std::int64_t n = c.n;
  double* a = c.a + blockIdx.x * n * n;
  for (std::int64_t j = 0; j < n; ++j) {
    __syncthreads();
    double diagonal = a[j * n + j];
    for (std::int64_t k = 0; k < j; ++k) diagonal = std::fma(-a[j * n + k], a[j * n + k], diagonal);
    if (!(diagonal > 0)) {  // the same for all threads
      if (threadIdx.x == 0) c.status[blockIdx.x] = 1;
      return;
    }
    const double root = std::sqrt(diagonal);
    __syncthreads();
    if (threadIdx.x == 0) a[j * n + j] = root;
    for_each(j + 1, n, [&](std::int64_t i) {
      double value = a[i * n + j];
      for (std::int64_t k = 0; k < j; ++k) value = std::fma(-a[i * n + k], a[j * n + k], value);
      a[i * n + j] = value / root;
      a[j * n + i] = 0;
    });
  }
}

}  // extern "C"
}  // namespace graft::cuda
