#include "graft/core/shape.h"

#include <algorithm>

namespace graft {

void Shape::insert(int at, std::int64_t extent) {
  push_back(extent);
  std::rotate(extents_.begin() + at, extents_.begin() + rank_ - 1, extents_.begin() + rank_);
}

void Shape::erase(int at) {
  std::copy(extents_.begin() + at + 1, extents_.begin() + rank_, extents_.begin() + at);
  --rank_;
}

std::int64_t Shape::count() const {
  std::int64_t product = 1;
  for (auto extent : *this) {
    check(extent >= 0, "shape {} has a negative extent", *this);
    check(!__builtin_mul_overflow(product, extent, &product), "shape {} has more elements than can be counted", *this);
  }
  return product;
}

Strides contiguous_strides(const Shape& shape) {
  Strides strides = shape;
  std::int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= std::max<std::int64_t>(shape[i], 1);
  }
  return strides;
}

Shape broadcast(const Shape& a, const Shape& b, const char* what) {
  const Shape& longer = a.rank() >= b.rank() ? a : b;
  const Shape& shorter = a.rank() >= b.rank() ? b : a;
  Shape out = longer;
  const int skip = longer.rank() - shorter.rank();
  for (int i = 0; i < shorter.rank(); ++i) {
    const auto x = longer[skip + i], y = shorter[i];
    check(x == y || x == 1 || y == 1, "{}: shapes {} and {} do not broadcast", what, a, b);
    out[skip + i] = x == 1 ? y : x;
  }
  return out;
}

int wrap_dim(int dim, int rank, const char* what) {
  const int wrapped = dim < 0 ? dim + rank : dim;
  check(wrapped >= 0 && wrapped < rank, "{}: dimension {} of a tensor with {} dimensions", what, dim, rank);
  return wrapped;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.rank(); ++i) text += fmt::format("{}{}", i ? ", " : "", shape[i]);
  return text + "]";
}

}  // namespace graft

fmt::format_context::iterator fmt::formatter<graft::Shape>::format(const graft::Shape& shape,
                                                                   fmt::format_context& context) const {
  return fmt::formatter<std::string>::format(graft::to_string(shape), context);
}
