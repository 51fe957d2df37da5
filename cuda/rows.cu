// Normalisations and losses over rows. A block takes a row and reads it as often as the formula needs; all but the first time it lies in
// a cache. Sums are those of block_reduce.cuh.
#include <cmath>

#include "graft/cuda/block_reduce.cuh"
#include "graft/cuda/elements.cuh"
#include "graft/cuda/rows.h"

namespace graft::cuda {
namespace {

template <class A>
struct Row {
  void* data;
  DType dtype;
  std::int64_t begin, stride;
  __device__ Row(const RowsOf& of, std::int64_t row) : data(of.data), dtype(of.dtype), begin(of.rows(row)), stride(of.stride) {}
  __device__ A operator[](std::int64_t i) const { return load<A>(data, dtype, begin + i * stride); }
  __device__ void set(std::int64_t i, A value) const { store_same<A>(data, dtype, begin + i * stride, value); }
};

/// Σ f(i) over a row; every thread gets it.
template <class A, class F>
__device__ A sum_of(std::int64_t n, F&& f) {
  A total = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) total += f(i);
  return fold_to_all(total, [](A a, A b) { return a + b; });
}

/// The largest element, NaN if there is one.
template <class A>
__device__ A largest_of(const Row<A>& x, std::int64_t n) {
  const auto larger = [](A a, A b) { return a > b || a != a ? a : b; };
  A best = -std::numeric_limits<A>::infinity();
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) best = larger(best, x[i]);
  return fold_to_all(best, larger);
}

template <class F>
__device__ void for_each(std::int64_t n, F&& f) {
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) f(i);
}

template <class A>
__device__ void softmax(const Softmax& s) {
  const std::int64_t row = blockIdx.x, n = s.x.size;
  const Row<A> x(s.x, row), y(s.y, row);
  const A largest = largest_of(x, n);
  const A sum = sum_of<A>(n, [&](std::int64_t i) { return std::exp(x[i] - largest); });
  if (s.log) {
    const A log_sum = std::log(sum);
    for_each(n, [&](std::int64_t i) { y.set(i, x[i] - largest - log_sum); });
  } else {
    const A factor = 1 / sum;
    for_each(n, [&](std::int64_t i) { y.set(i, std::exp(x[i] - largest) * factor); });
  }
}

template <class A>
__device__ void softmax_backward(const SoftmaxBackward& s) {
  const std::int64_t row = blockIdx.x, n = s.y.size;
  const Row<A> y(s.y, row), dy(s.dy, row), dx(s.dx, row);
  if (s.log) {  // dx = dy − softmax · Σ dy
    const A sum = sum_of<A>(n, [&](std::int64_t i) { return dy[i]; });
    for_each(n, [&](std::int64_t i) { dx.set(i, dy[i] - sum * std::exp(y[i])); });
  } else {  // dx = y (dy − Σ y dy)
    const A sum = sum_of<A>(n, [&](std::int64_t i) { return y[i] * dy[i]; });
    for_each(n, [&](std::int64_t i) { dx.set(i, y[i] * (dy[i] - sum)); });
  }
}

template <class A>
__device__ void rms_norm(const RmsNorm& r) {
  const std::int64_t row = blockIdx.x, n = r.x.size;
  const Row<A> x(r.x, row), weight(r.weight, 0), y(r.y, row);
  const A squares = sum_of<A>(n, [&](std::int64_t i) { return x[i] * x[i]; });
  const A scale = 1 / std::sqrt(squares / static_cast<A>(n) + static_cast<A>(r.eps));
  for_each(n, [&](std::int64_t i) { y.set(i, x[i] * scale * weight[i]); });
  if (threadIdx.x == 0) Row<A>(r.rstd, row).set(0, scale);
}

// With g = weight · dy: dx = rstd g − rstd³ x mean(g x).
template <class A>
__device__ void rms_norm_dx(const RmsNormBackward& r) {
  const std::int64_t row = blockIdx.x, n = r.x.size;
  const Row<A> x(r.x, row), weight(r.weight, 0), dy(r.dy, row), dx(r.dx, row);
  const A scale = Row<A>(r.rstd, row)[0];
  const A mean = sum_of<A>(n, [&](std::int64_t i) { return weight[i] * dy[i] * x[i]; }) / static_cast<A>(n);
  const A shift = scale * scale * scale * mean;
  for_each(n, [&](std::int64_t i) { dx.set(i, weight[i] * dy[i] * scale - shift * x[i]); });
}

// A thread takes a column and some rows: parts[piece][column] = Σ dy · x · rstd.
template <class A>
__device__ void rms_norm_dweight(const RmsNormBackward& r) {
  const std::int64_t column = first_index(), piece = blockIdx.y;
  if (column >= r.x.size) return;
  A total = 0;
  const std::int64_t end = (piece + 1) * r.piece < r.count ? (piece + 1) * r.piece : r.count;
  for (std::int64_t row = piece * r.piece; row < end; ++row)
    total += Row<A>(r.dy, row)[column] * (Row<A>(r.x, row)[column] * Row<A>(r.rstd, row)[0]);
  static_cast<A*>(r.parts)[piece * r.x.size + column] = total;
}

template <class A>
__device__ void rotary(const Rotary& r) {
  for (std::int64_t at = first_index(); at < r.count; at += index_step()) {
    std::int64_t rest = at;
    const std::int64_t i = Strided<1>::divide(rest, r.half), t = Strided<1>::divide(rest, r.length);
    const std::int64_t h = Strided<1>::divide(rest, r.heads), b = rest;
    const A c = load<A>(r.cos, r.table_dtype, b * r.cos_strides[0] + t * r.cos_strides[1] + i * r.cos_strides[2]);
    const A table = load<A>(r.sin, r.table_dtype, b * r.sin_strides[0] + t * r.sin_strides[1] + i * r.sin_strides[2]);
    const A s = r.inverse ? -table : table;
    const std::int64_t from = b * r.x_strides[0] + h * r.x_strides[1] + t * r.x_strides[2];
    const std::int64_t to = b * r.y_strides[0] + h * r.y_strides[1] + t * r.y_strides[2];
    const A first = load<A>(r.x, r.dtype, from + i * r.x_strides[3]);
    const A second = load<A>(r.x, r.dtype, from + (i + r.half) * r.x_strides[3]);
    store_same<A>(r.y, r.y_dtype, to + i * r.y_strides[3], first * c - second * s);
    store_same<A>(r.y, r.y_dtype, to + (i + r.half) * r.y_strides[3], second * c + first * s);
  }
}

__device__ inline std::int64_t label_of(const RowsOf& labels, std::int64_t row) {
  return static_cast<const std::int64_t*>(labels.data)[labels.rows(row)];
}

template <class A>
__device__ void cross_entropy(const CrossEntropy& c) {
  const std::int64_t row = blockIdx.x, n = c.logits.size;
  const Row<A> x(c.logits, row);
  const A largest = largest_of(x, n);
  // A row of −∞ has no finite shift; its sum is then 0 and its lse −∞.
  const A shift = largest == -std::numeric_limits<A>::infinity() ? A(0) : largest;
  const A total = shift + std::log(sum_of<A>(n, [&](std::int64_t i) { return std::exp(x[i] - shift); }));
  if (threadIdx.x != 0) return;
  const std::int64_t label = label_of(c.labels, row);
  Row<A>(c.losses, row).set(0, label == c.ignored ? A(0) : total - x[label]);
  Row<A>(c.lse, row).set(0, total);
}

// (softmax − one-hot) · dloss
template <class A>
__device__ void cross_entropy_backward(const CrossEntropyBackward& c) {
  const std::int64_t row = blockIdx.x, n = c.logits.size, label = label_of(c.labels, row);
  const Row<A> x(c.logits, row), dx(c.dlogits, row);
  const A total = Row<A>(c.lse, row)[0], grad = Row<A>(c.dlosses, row)[0];
  for_each(n, [&](std::int64_t i) {
    A value = 0;
    if (label != c.ignored) value = std::exp(x[i] - total) * grad;
    if (label != c.ignored && i == label) value -= grad;
    dx.set(i, value);
  });
}

}  // namespace

extern "C" {

#define GRAFT_KERNELS(suffix, A)                                                                                  \
  __global__ void softmax##suffix(const __grid_constant__ Softmax a) { softmax<A>(a); }                           \
  __global__ void softmax_backward##suffix(const __grid_constant__ SoftmaxBackward a) { softmax_backward<A>(a); } \
  __global__ void rms_norm##suffix(const __grid_constant__ RmsNorm a) { rms_norm<A>(a); }                         \
  __global__ void rms_norm_dx##suffix(const __grid_constant__ RmsNormBackward a) { rms_norm_dx<A>(a); }           \
  __global__ void rms_norm_dweight##suffix(const __grid_constant__ RmsNormBackward a) { rms_norm_dweight<A>(a); } \
  __global__ void rotary##suffix(const __grid_constant__ Rotary a) { rotary<A>(a); }                              \
  __global__ void cross_entropy##suffix(const __grid_constant__ CrossEntropy a) { cross_entropy<A>(a); }          \
  __global__ void cross_entropy_backward##suffix(const __grid_constant__ CrossEntropyBackward a) { cross_entropy_backward<A>(a); }
GRAFT_KERNELS(_f64, double)
GRAFT_KERNELS(_f32, float)
#undef GRAFT_KERNELS

}  // extern "C"
}  // namespace graft::cuda
