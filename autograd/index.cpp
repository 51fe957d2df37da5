#include "graft/autograd/compute.h"
#include "graft/autograd/ops.h"

namespace graft {
namespace {

void require_index_list(const Tensor& index, const char* what) {
  check(index.rank() == 1, "{}: an index has one dimension, not shape {}", what, index.shape());
}

// Zeros of `shape` with `source` added at index: what undoes index_select. The index has been checked.
Tensor spread(const Shape& shape, int dim, const Saved& index, const Tensor& source) {
  Tensor y = Tensor::zeros(shape, source.dtype(), source.device());
  kernel(y.device(), &Kernels::index_add, "index_select")(y.view(), dim, index().view(), source.view());
  return record("spread", y).wrt(source, [dim, index](const Tensor& dy) { return index_select(dy, dim, index()); });
}

// Every extent of the index, but the one along `dim`, must lie within x's.
void require_fitting(const Tensor& x, int dim, const Tensor& index, const char* what) {
  compute::require_same_device(x, index, what);
  bool fits = index.rank() == x.rank();
  for (int i = 0; fits && i < x.rank(); ++i) fits = i == dim || index.shape()[i] <= x.shape()[i];
  check(fits, "{}: an index of shape {} does not fit a tensor of shape {} along dimension {}", what, index.shape(), x.shape(),
        dim);
  compute::require_index(index, x.shape()[dim], what);
}

// As `spread`, for gather.
Tensor scattered(const Shape& shape, int dim, const Saved& index, const Tensor& source) {
  Tensor y = Tensor::zeros(shape, source.dtype(), source.device());
  kernel(y.device(), &Kernels::scatter_add, "gather")(y.view(), dim, index().view(), source.view());
  return record("scattered", y).wrt(source, [dim, index](const Tensor& dy) { return gather(dy, dim, index()); });
}

}  // namespace

Tensor index_select(const Tensor& x, int dim, const Tensor& index) {
  const int at = wrap_dim(dim, x.rank(), "index_select");
  require_index_list(index, "index_select");
  compute::require_same_device(x, index, "index_select");
  compute::require_index(index, x.shape()[at], "index_select");
  Shape shape = x.shape();
  shape[at] = index.dim(0);
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  kernel(x.device(), &Kernels::index_select, "index_select")(x.view(), at, index.view(), y.view());
  return record("index_select", y).wrt(x, [at, from = x.shape(), index = saved(index)](const Tensor& dy) {
    return spread(from, at, index, dy);
  });
}

Tensor index_add(const Tensor& x, int dim, const Tensor& index, const Tensor& source) {
  const int at = wrap_dim(dim, x.rank(), "index_add");
  require_index_list(index, "index_add");
  compute::require_same_device(x, index, "index_add");
  compute::require_same_device(x, source, "index_add");
  Shape wanted = x.shape();
  wanted[at] = index.dim(0);
  check(source.shape() == wanted, "index_add: a source of shape {} where {} is wanted", source.shape(), wanted);
  compute::require_index(index, x.shape()[at], "index_add");
  const DType dtype = promote(x.dtype(), source.dtype());
  Tensor y = Tensor::empty(x.shape(), dtype, x.device());
  y.copy_(x);
  kernel(x.device(), &Kernels::index_add, "index_add")(y.view(), at, index.view(), compute::cast(source, dtype).view());
  return record("index_add", y)
      .wrt(x, [](const Tensor& dy) { return dy; })
      .wrt(source, [at, index = saved(index)](const Tensor& dy) { return index_select(dy, at, index()); });
}

Tensor gather(const Tensor& x, int dim, const Tensor& index) {
  const int at = wrap_dim(dim, x.rank(), "gather");
  require_fitting(x, at, index, "gather");
  Tensor y = Tensor::empty(index.shape(), x.dtype(), x.device());
  kernel(x.device(), &Kernels::gather, "gather")(x.view(), at, index.view(), y.view());
  return record("gather", y).wrt(x, [at, from = x.shape(), index = saved(index)](const Tensor& dy) {
    return scattered(from, at, index, dy);
  });
}

Tensor scatter_add(const Tensor& x, int dim, const Tensor& index, const Tensor& source) {
  const int at = wrap_dim(dim, x.rank(), "scatter_add");
  require_fitting(x, at, index, "scatter_add");
  compute::require_same_device(x, source, "scatter_add");
  check(source.shape() == index.shape(), "scatter_add: a source of shape {} for an index of shape {}", source.shape(),
        index.shape());
  const DType dtype = promote(x.dtype(), source.dtype());
  Tensor y = Tensor::empty(x.shape(), dtype, x.device());
  y.copy_(x);
  kernel(x.device(), &Kernels::scatter_add, "scatter_add")(y.view(), at, index.view(), compute::cast(source, dtype).view());
  return record("scatter_add", y)
      .wrt(x, [](const Tensor& dy) { return dy; })
      .wrt(source, [at, index = saved(index)](const Tensor& dy) { return gather(dy, at, index()); });
}

Tensor embedding(const Tensor& weight, const Tensor& ids) {
  check(weight.rank() == 2, "embedding: a weight has shape [vocabulary, width], not {}", weight.shape());
  const Tensor rows = index_select(weight, 0, reshape(ids, {ids.count()}));
  return reshape(rows, compute::joined(ids.shape(), {weight.dim(1)}));
}

}  // namespace graft
