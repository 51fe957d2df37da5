// Shapes and strides: up to six dimensions, held inline.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "graft/core/error.h"

namespace graft {

inline constexpr int max_rank = 6;

/// A short list of extents or of strides (counted in elements).
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents) : Shape(std::span(extents.begin(), extents.size())) {}
  explicit Shape(std::span<const std::int64_t> extents) {
    check(extents.size() <= max_rank, "a tensor has at most {} dimensions, not {}", max_rank, extents.size());
    for (auto extent : extents) extents_[rank_++] = extent;
  }

  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return extents_[i]; }
  std::int64_t& operator[](int i) { return extents_[i]; }
  const std::int64_t* begin() const { return extents_.data(); }
  const std::int64_t* end() const { return extents_.data() + rank_; }
  std::int64_t back() const { return (*this)[rank_ - 1]; }
  bool empty() const { return rank_ == 0; }

  void push_back(std::int64_t extent) {
    check(rank_ < max_rank, "a tensor has at most {} dimensions", max_rank);
    extents_[rank_++] = extent;
  }
  void insert(int at, std::int64_t extent);
  void erase(int at);

  /// Product of the extents; ValueError if one is negative or the product overflows 63 bits.
  std::int64_t count() const;

  bool operator==(const Shape& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

 private:
  std::array<std::int64_t, max_rank> extents_{};
  int rank_ = 0;
};

using Strides = Shape;

/// Row-major strides of a shape.
Strides contiguous_strides(const Shape& shape);

/// The shape that two operands broadcast to (NumPy's rule); ValueError naming `what` otherwise.
Shape broadcast(const Shape& a, const Shape& b, const char* what);

/// `dim`, counted from the end when negative; ValueError unless it is one of `rank` dimensions.
int wrap_dim(int dim, int rank, const char* what);

std::string to_string(const Shape& shape);

}  // namespace graft

template <>
struct fmt::formatter<graft::Shape> : fmt::formatter<std::string> {
  fmt::format_context::iterator format(const graft::Shape& shape, fmt::format_context& context) const;
};
