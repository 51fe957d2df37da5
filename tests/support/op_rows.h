// What the files of the op table share: makers of rows that look alike, and small pieces of references.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "graft/autograd/ops.h"

#include "op_table.h"

namespace graft::test {

using Kind = Input::Kind;
using Tensors = std::span<const Tensor>;
using Arrays = std::vector<Array>;

template <class F>
Array mapped(const Array& x, F f) {
  Array y(x.shape);
  for (std::size_t i = 0; i < x.data.size(); ++i) y.data[i] = f(x.data[i]);
  return y;
}

template <class F>
Array broadcast_map(const Array& a, const Array& b, F f) {
  Array y(broadcast(a.shape, b.shape, "reference"));
  y.each([&](const Array::Index& at, double& out) { out = f(a.broadcast(at, y.shape.rank()), b.broadcast(at, y.shape.rank())); });
  return y;
}

inline Row unary(const char* name, Tensor (*op)(const Tensor&), double (*f)(double), double low = -2, double high = 2) {
  return {.name = name,
          .inputs =
              [=](std::int64_t n) {
                return std::vector<Input>{{{3 * n, 5}, low, high}};
              },
          .op = [=](Tensors x) { return op(x[0]); },
          .reference = [=](const Arrays& x) { return mapped(x[0], f); }};
}

inline Row binary(const char* name, Tensor (*op)(const Tensor&, const Tensor&), double (*f)(double, double), double low = -2) {
  return {.name = name,
          .inputs =
              [=](std::int64_t n) {
                return std::vector<Input>{{{3 * n, 1, 5}, low, 2}, {{4, 5}, low, 2}};
              },
          .op = [=](Tensors x) { return op(x[0], x[1]); },
          .reference = [=](const Arrays& x) { return broadcast_map(x[0], x[1], f); }};
}

inline Row integers_too(Row row) {
  row.floating_only = false;
  return row;
}

inline double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

// Σ or another fold over the dimensions that are 1 in `kept`.
template <class F>
Array folded(const Array& x, const Shape& kept, double start, F fold) {
  Array y(kept);
  std::fill(y.data.begin(), y.data.end(), start);
  Array source = x;
  source.each([&](const Array::Index& at, double& element) {
    Array::Index to = at;
    for (int i = 0; i < kept.rank(); ++i)
      if (kept[i] == 1) to[static_cast<std::size_t>(i)] = 0;
    std::int64_t offset = 0;
    for (int i = 0; i < kept.rank(); ++i) offset = offset * kept[i] + to[static_cast<std::size_t>(i)];
    double& out = y.data[static_cast<std::size_t>(offset)];
    out = fold(out, element);
  });
  return y;
}

inline Array reshaped(Array x, const Shape& shape) {
  x.shape = shape;
  return x;
}

inline double plus(double a, double b) { return a + b; }
inline double larger(double a, double b) { return std::max(a, b); }
inline double smaller(double a, double b) { return std::min(a, b); }
inline constexpr double infinity = std::numeric_limits<double>::infinity();

inline Array transposed(const Array& x) {
  Shape shape = x.shape;
  const int rank = shape.rank();
  std::swap(shape[rank - 2], shape[rank - 1]);
  Array y(shape);
  y.each([&](const Array::Index& at, double& out) {
    Array::Index from = at;
    std::swap(from[static_cast<std::size_t>(rank - 2)], from[static_cast<std::size_t>(rank - 1)]);
    out = x.broadcast(from, rank);
  });
  return y;
}

inline Row shape_row(const char* name, std::function<Tensor(const Tensor&)> op, std::function<Array(const Array&)> reference,
                     bool unit = false) {
  return {.name = name,
          .inputs =
              [=](std::int64_t n) {
                return std::vector<Input>{{unit ? Shape{2, 1, 3 * n} : Shape{2, 4, 3 * n}}};
              },
          .op = [=](Tensors x) { return op(x[0]); },
          .reference = [=](const Arrays& x) { return reference(x[0]); },
          .floating_only = false};
}

// f(row in, row out) over the last dimension.
template <class F>
Array by_rows(const Array& x, F f) {
  Array y = x;
  const auto n = static_cast<std::size_t>(x.shape.back());
  for (std::size_t at = 0; at < x.data.size(); at += n) f(&x.data[at], &y.data[at], n);
  return y;
}

inline void softmax_row(const double* x, double* y, std::size_t n) {
  double total = 0;
  for (std::size_t i = 0; i < n; ++i) total += std::exp(x[i]);
  for (std::size_t i = 0; i < n; ++i) y[i] = std::exp(x[i]) / total;
}

// The groups of the table, in the order of ops.h.
void add_elementwise_rows(std::vector<Row>& rows);
void add_shape_rows(std::vector<Row>& rows);
void add_reduction_rows(std::vector<Row>& rows);
void add_product_rows(std::vector<Row>& rows);
void add_index_rows(std::vector<Row>& rows);
void add_norm_rows(std::vector<Row>& rows);
void add_attention_rows(std::vector<Row>& rows);
void add_loss_rows(std::vector<Row>& rows);
void add_random_rows(std::vector<Row>& rows);
void add_tape_rows(std::vector<Row>& rows);
void add_linalg_rows(std::vector<Row>& rows);

}  // namespace graft::test
