#include <algorithm>
#include <numeric>
#include <optional>

#include "graft/autograd/compute.h"
#include "graft/autograd/ops.h"

namespace graft {
namespace {

// The extents that `shape`, with one -1 at most, stands for when it holds the elements of `from`.
Shape resolve(Shape shape, const Shape& from) {
  const std::int64_t count = from.count();
  int open = -1;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] != -1) continue;
    check(open < 0, "reshape: shape {} leaves more than one extent open", shape);
    open = i;
    shape[i] = 1;
  }
  if (open >= 0) {
    const std::int64_t known = shape.count();
    check(known > 0, "reshape: any extent fits where shape {} is open, the others hold no element", shape);
    shape[open] = count / known;
  }
  check(shape.count() == count, "reshape: {} elements of shape {} do not fill shape {}", count, from, shape);
  return shape;
}

// The strides with which `shape` shows the elements of x in row-major order where they are, if there are such strides.
std::optional<Strides> strides_of_view(const Tensor& x, const Shape& shape) {
  if (x.count() == 0) return contiguous_strides(shape);
  // Runs of neighbouring dimensions that are evenly spaced, innermost first. A dimension of `shape` must not straddle two.
  struct Run {
    std::int64_t count, stride;
  };
  Run runs[max_rank + 1];
  int found = 0;
  for (int i = x.rank() - 1; i >= 0; --i) {
    const std::int64_t extent = x.shape()[i], stride = x.strides()[i];
    if (extent == 1) continue;
    if (found > 0 && stride == runs[found - 1].count * runs[found - 1].stride) runs[found - 1].count *= extent;
    else runs[found++] = {extent, stride};
  }
  Strides strides = shape;
  int at = 0;
  std::int64_t used = 1;  // elements of run `at` that the inner dimensions took
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = at < found ? runs[at].stride * used : 1;
    if (shape[i] == 1) continue;
    used *= shape[i];
    if (runs[at].count % used != 0) return std::nullopt;
    if (used == runs[at].count) ++at, used = 1;
  }
  return strides;
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  const Shape wanted = resolve(shape, x.shape());
  if (wanted == x.shape()) return x;
  const auto strides = strides_of_view(x, wanted);
  Tensor y = strides ? x.alias(wanted, *strides, x.offset()) : x.clone().alias(wanted, contiguous_strides(wanted), 0);
  return record("reshape", y).wrt(x, [from = x.shape()](const Tensor& dy) { return reshape(dy, from); });
}

Tensor permute(const Tensor& x, std::span<const int> order) {
  const int rank = x.rank();
  check(static_cast<int>(order.size()) == rank, "permute: {} dimensions are named for a tensor of shape {}", order.size(),
        x.shape());
  Shape shape = x.shape();
  Strides strides = x.strides();
  std::array<int, max_rank> back;
  back.fill(-1);
  for (int i = 0; i < rank; ++i) {
    const int from = wrap_dim(order[static_cast<std::size_t>(i)], rank, "permute");
    int& to = back[static_cast<std::size_t>(from)];
    check(to < 0, "permute: dimension {} is named twice", from);
    to = i;
    shape[i] = x.shape()[from];
    strides[i] = x.strides()[from];
  }
  return record("permute", x.alias(shape, strides, x.offset())).wrt(x, [back](const Tensor& dy) {
    return permute(dy, std::span(back).first(static_cast<std::size_t>(dy.rank())));
  });
}

Tensor transpose(const Tensor& x, int a, int b) {
  int order[max_rank];
  std::iota(order, order + x.rank(), 0);
  std::swap(order[wrap_dim(a, x.rank(), "transpose")], order[wrap_dim(b, x.rank(), "transpose")]);
  return permute(x, std::span<const int>(order, static_cast<std::size_t>(x.rank())));
}

Tensor unsqueeze(const Tensor& x, int dim) {
  const int at = wrap_dim(dim, x.rank() + 1, "unsqueeze");
  Shape shape = x.shape();
  Strides strides = x.strides();
  shape.insert(at, 1);
  strides.insert(at, 1);
  return record("unsqueeze", x.alias(shape, strides, x.offset())).wrt(x, [at](const Tensor& dy) { return squeeze(dy, at); });
}

Tensor squeeze(const Tensor& x, int dim) {
  const int at = wrap_dim(dim, x.rank(), "squeeze");
  check(x.shape()[at] == 1, "squeeze: dimension {} of shape {} has not extent 1", dim, x.shape());
  Shape shape = x.shape();
  Strides strides = x.strides();
  shape.erase(at);
  strides.erase(at);
  return record("squeeze", x.alias(shape, strides, x.offset())).wrt(x, [at](const Tensor& dy) { return unsqueeze(dy, at); });
}

Tensor expand(const Tensor& x, const Shape& shape) {
  if (shape == x.shape()) return x;
  check(x.rank() <= shape.rank() && broadcast(x.shape(), shape, "expand") == shape, "expand: shape {} does not broadcast to {}",
        x.shape(), shape);
  const View seen = compute::broadcast_view(x, shape);
  const Strides strides(std::span(seen.strides, static_cast<std::size_t>(seen.rank)));
  // The engine sums over what was broadcast.
  return record("expand", x.alias(shape, strides, x.offset())).wrt(x, [](const Tensor& dy) { return dy; });
}

Tensor slice(const Tensor& x, int dim, std::int64_t begin, std::int64_t end) {
  const int at = wrap_dim(dim, x.rank(), "slice");
  const std::int64_t extent = x.shape()[at];
  check(0 <= begin && begin <= end && end <= extent, "slice: {} … {} is outside dimension {} of shape {}", begin, end, dim,
        x.shape());
  Shape shape = x.shape();
  shape[at] = end - begin;
  const std::int64_t offset = begin < end ? x.offset() + begin * x.strides()[at] : x.offset();
  return record("slice", x.alias(shape, x.strides(), offset)).wrt(x, [at, begin, end, whole = x.shape()](const Tensor& dy) {
    auto zeros = [&](std::int64_t length) {
      Shape gap = whole;
      gap[at] = length;
      return Tensor::zeros(gap, dy.dtype(), dy.device());
    };
    return concat(std::vector<Tensor>{zeros(begin), dy, zeros(whole[at] - end)}, at);
  });
}

Tensor concat(std::span<const Tensor> xs, int dim) {
  check(!xs.empty(), "concat: there is nothing to join");
  const int at = wrap_dim(dim, xs[0].rank(), "concat");
  Shape shape = xs[0].shape();
  DType dtype = xs[0].dtype();
  shape[at] = 0;
  for (const Tensor& x : xs) {
    compute::require_same_device(xs[0], x, "concat");
    Shape but_here = x.shape();
    if (but_here.rank() == shape.rank()) but_here[at] = shape[at];
    check(but_here == shape, "concat: shapes {} and {} differ outside dimension {}", xs[0].shape(), x.shape(), dim);
    shape[at] += x.shape()[at];
    dtype = promote(dtype, x.dtype());
  }
  Tensor y = Tensor::empty(shape, dtype, xs[0].device());
  std::int64_t begin = 0;
  for (const Tensor& x : xs) {
    if (x.count() > 0) y.alias(x.shape(), y.strides(), begin * y.strides()[at]).copy_(x);
    begin += x.shape()[at];
  }
  Recorder recorder = record("concat", y);
  begin = 0;
  for (const Tensor& x : xs) {
    const std::int64_t end = begin + x.shape()[at];
    recorder.wrt(x, [at, begin, end](const Tensor& dy) { return slice(dy, at, begin, end); });
    begin = end;
  }
  return recorder;
}

Tensor contiguous(const Tensor& x) {
  if (x.is_contiguous()) return x;
  return record("contiguous", x.clone()).wrt(x, [](const Tensor& dy) { return dy; });
}

Tensor to(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const Tensor y = compute::cast(x, dtype);
  if (!is_floating(dtype)) return y;
  // The engine casts gradients back.
  return record("to", y).wrt(x, [](const Tensor& dy) { return dy; });
}

Tensor to(const Tensor& x, Device device) {
  if (x.device() == device) return x;
  Tensor y = Tensor::empty(x.shape(), x.dtype(), device);
  y.copy_(x);
  return record("to", y).wrt(x, [from = x.device()](const Tensor& dy) { return to(dy, from); });
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  check(shape.rank() <= x.rank() && broadcast(x.shape(), shape, "sum_to") == x.shape(), "sum_to: shape {} is no broadcast of {}",
        x.shape(), shape);
  const int skip = x.rank() - shape.rank();
  std::vector<int> dims;
  for (int i = 0; i < x.rank(); ++i)
    if (i < skip || (shape[i - skip] == 1 && x.shape()[i] != 1)) dims.push_back(i);
  return reshape(sum(x, dims, true), shape);
}

// ---- the recorded members of Tensor ----

Tensor Tensor::t() const {
  compute::require_rank(*this, 2, "t");
  return graft::transpose(*this, -2, -1);
}
Tensor Tensor::to(DType dtype) const { return graft::to(*this, dtype); }
Tensor Tensor::to(Device device) const { return graft::to(*this, device); }
Tensor Tensor::reshape(const Shape& shape) const { return graft::reshape(*this, shape); }
Tensor Tensor::contiguous() const { return graft::contiguous(*this); }

}  // namespace graft
