#include "graft/autograd/compute.h"

#include <algorithm>
#include <numeric>

#include "graft/core/elementwise.h"

namespace graft::compute {

void require_floating(const Tensor& x, const char* what) {
  check<TypeError>(is_floating(x.dtype()), "{}: takes a floating tensor, not {}", what, x.dtype());
}

void require_rank(const Tensor& x, int rank, const char* what) {
  check(x.rank() >= rank, "{}: a tensor of shape {} has fewer than {} dimensions", what, x.shape(), rank);
}

void require_same_device(const Tensor& a, const Tensor& b, const char* what) {
  check(a.device() == b.device(), "{}: one tensor is on {}, the other on {}", what, a.device(), b.device());
}

void require_index(const Tensor& index, std::int64_t extent, const char* what) {
  check<TypeError>(index.dtype() == DType::i64, "{}: an index has elements of type i64, not {}", what, index.dtype());
  if (index.count() == 0) return;
  int all[max_rank];
  std::iota(all, all + max_rank, 0);
  const std::span<const int> dims(all, static_cast<std::size_t>(index.rank()));
  const double low = reduce(ReduceOp::min, index, dims, what).item(), high = reduce(ReduceOp::max, index, dims, what).item();
  check(low >= 0 && high < static_cast<double>(extent), "{}: index {} is outside 0 … {}", what, low < 0 ? low : high, extent - 1);
}

Tensor empty_like(const Tensor& x) {
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  int order[max_rank];
  std::iota(order, order + max_rank, 0);
  std::stable_sort(order, order + x.rank(), [&](int a, int b) { return x.strides()[a] > x.strides()[b]; });
  Strides strides = y.strides();
  std::int64_t step = 1;
  for (int i = x.rank() - 1; i >= 0; step *= x.dim(order[i--])) {
    if (x.strides()[order[i]] == 0) return y;  // broadcast: it has no order
    strides[order[i]] = step;
  }
  return y.alias(x.shape(), strides, 0);
}

Tensor cast(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  Tensor y = Tensor::empty(x.shape(), dtype, x.device());
  kernel(x.device(), &Kernels::copy, "to")(x.view(), y.view());
  return y;
}

Tensor unary(UnaryOp op, const Tensor& x, const char* what, double p0, double p1) {
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernel(x.device(), &Kernels::unary, what)(op, x.view(), y.view(), p0, p1);
  return y;
}

Tensor binary(BinaryOp op, const Tensor& a, const Tensor& b, const char* what) {
  require_same_device(a, b, what);
  const DType dtype = promote(a.dtype(), b.dtype());
  const Tensor x = cast(a, dtype), w = cast(b, dtype);
  Tensor y = Tensor::empty(broadcast(a.shape(), b.shape(), what), is_comparison(op) ? DType::boolean : dtype, a.device());
  kernel(a.device(), &Kernels::binary, what)(op, broadcast_view(x, y.shape()), broadcast_view(w, y.shape()), y.view());
  return y;
}

Tensor reduce(ReduceOp op, const Tensor& x, std::span<const int> dims, const char* what) {
  const Tensor source = op == ReduceOp::sum && !is_floating(x.dtype()) ? cast(x, DType::i64) : x;
  Shape shape = x.shape();
  for (int dim : dims) {
    check(op == ReduceOp::sum || shape[dim] > 0, "{}: dimension {} of shape {} has no elements", what, dim, x.shape());
    shape[dim] = 1;
  }
  Tensor y = Tensor::empty(shape, source.dtype(), x.device());
  kernel(x.device(), &Kernels::reduce, what)(op, source.view(), y.view());
  return y;
}

View broadcast_view(const Tensor& x, const Shape& shape) {
  const View from = x.view();
  View view = from;
  view.rank = shape.rank();
  const int skip = view.rank - from.rank;
  for (int i = 0; i < view.rank; ++i) {
    view.sizes[i] = shape[i];
    view.strides[i] = i < skip || from.sizes[i - skip] != shape[i] ? 0 : from.strides[i - skip];
  }
  return view;
}

Tensor lower_triangle(std::int64_t rows, std::int64_t columns, std::int64_t diagonal, Device device) {
  const Tensor row = Tensor::arange(rows, DType::i64, device), column = Tensor::arange(columns, DType::i64, device);
  const Tensor last =
      binary(BinaryOp::add, row, Tensor::scalar(static_cast<double>(diagonal), DType::i64, device), "lower_triangle");
  return binary(BinaryOp::less_equal, column, last.alias({rows, 1}, {1, 0}, 0), "lower_triangle");
}

Shape leading(const Shape& shape, int matrix) {
  return Shape(std::span(shape.begin(), static_cast<std::size_t>(shape.rank() - matrix)));
}

Shape joined(Shape head, std::initializer_list<std::int64_t> tail) {
  for (auto extent : tail) head.push_back(extent);
  return head;
}

}  // namespace graft::compute
