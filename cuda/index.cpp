#include "graft/cuda/index.h"

#include "graft/cuda/dense.h"
#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"

namespace graft::cuda {
namespace {

/// One position for all elements that share an index along `dim`: index [n] as a view of `like`'s shape.
View spread(const View& index, int dim, const View& like) {
  View wide = like;
  wide.data = index.data;
  wide.dtype = index.dtype;
  std::fill_n(wide.strides, max_rank, 0);
  wide.strides[dim] = index.rank > 0 ? index.strides[0] : 0;
  return wide;
}

/// `view` over the extents of `like`, standing still along `dim`.
View without(const View& view, int dim, const View& like) {
  View fixed = view;
  std::copy_n(like.sizes, max_rank, fixed.sizes);
  fixed.strides[dim] = 0;
  return fixed;
}

void add(const View& y, int dim, const View& index, const View& x) {
  View lines = x;
  lines.sizes[dim] = 1;
  const View indices = without(index, dim, lines), targets = without(y, dim, lines);
  const ScatterAdd s{Strided<3>({&lines, &indices, &targets}),
                     x.data,
                     index.as<const std::int64_t>(),
                     y.data,
                     lines.count(),
                     x.sizes[dim],
                     x.strides[dim],
                     index.strides[dim],
                     y.strides[dim]};
  launch({"index", fmt::format("scatter_add_{}", x.dtype)}, blocks_for(s.lines), block_threads, s);
}

}  // namespace

void gather(const View& x, int dim, const View& index, const View& y) {
  if (y.count() == 0) return;
  const View from = without(x, dim, y);
  const Gather g{Strided<3>({&y, &index, &from}), y.data, index.as<const std::int64_t>(), x.data, x.strides[dim], y.count()};
  launch({"index", fmt::format("gather_{}", size_of(x.dtype))}, blocks_for(g.count), block_threads, g);
}

void index_select(const View& x, int dim, const View& index, const View& y) { gather(x, dim, spread(index, dim, y), y); }

void scatter_add(const View& y, int dim, const View& index, const View& x) {
  if (x.count() == 0) return;
  check<TypeError>(y.dtype != DType::boolean, "scatter_add: does not take elements of type {}", y.dtype);
  if (!is_half(y.dtype)) return add(y, dim, index, x);
  const Dense sums(y, DType::f32);  // sums of many halves are kept in float and rounded once
  copy(y, sums.view());
  add(sums.view(), dim, index, x);
  copy(sums.view(), y);
}

void index_add(const View& y, int dim, const View& index, const View& x) { scatter_add(y, dim, spread(index, dim, x), x); }

}  // namespace graft::cuda
