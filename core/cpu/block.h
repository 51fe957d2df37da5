// Elements in the type that arithmetic happens in: kernels are written for double, float and int64 (Accumulator<T>), and read
// and write every other dtype through short buffers.
#pragma once

#include "graft/core/view.h"

namespace graft::cpu {

/// Elements that a kernel converts at a time: small enough that its buffers stay in the first-level cache.
inline constexpr std::int64_t block = 1024;

/// n elements, `from_stride` apart, converted and stored `to_stride` apart. Floating to integer truncates and saturates (NaN
/// gives 0), integer to integer wraps, anything to bool is "≠ 0".
void convert(DType from_dtype, const void* from, std::int64_t from_stride, DType to_dtype, void* to, std::int64_t to_stride,
             std::int64_t n);

inline void* element(const View& view, std::int64_t offset) {
  return static_cast<char*>(view.data) + offset * size_of(view.dtype);
}

/// n elements of `view` from `offset` on as contiguous A: in place where they already are that, else converted into `buffer`.
template <class A>
const A* load(const View& view, std::int64_t offset, std::int64_t stride, std::int64_t n, A* buffer) {
  const void* from = element(view, offset);
  if (view.dtype == dtype_of<A> && (stride == 1 || n == 1)) return static_cast<const A*>(from);
  convert(view.dtype, from, stride, dtype_of<A>, buffer, 1, n);
  return buffer;
}

/// Where to write n elements of A that belong into `view`: in place where they fit, else `buffer`. Pass it to store() when they are there.
template <class A>
A* target(const View& view, std::int64_t offset, std::int64_t stride, std::int64_t n, A* buffer) {
  const bool in_place = view.dtype == dtype_of<A> && (stride == 1 || n == 1);
  return in_place ? static_cast<A*>(element(view, offset)) : buffer;
}

template <class A>
void store(const A* values, const View& view, std::int64_t offset, std::int64_t stride, std::int64_t n) {
  void* to = element(view, offset);
  if (to != values) convert(dtype_of<A>, values, 1, view.dtype, to, stride, n);
}

/// Calls f.operator()<A>() for the type that arithmetic on `dtype` happens in.
template <class F>
decltype(auto) with_accumulator(DType dtype, F&& f) {
  if (dtype == DType::f64) return f.template operator()<double>();
  if (is_floating(dtype)) return f.template operator()<float>();
  return f.template operator()<std::int64_t>();
}

/// The same for operations that need a floating type; TypeError naming `what` otherwise.
template <class F>
decltype(auto) with_floating(DType dtype, const char* what, F&& f) {
  check<TypeError>(is_floating(dtype), "{}: needs floating elements, not {}", what, dtype);
  if (dtype == DType::f64) return f.template operator()<double>();
  return f.template operator()<float>();
}

inline std::int64_t last_stride(const View& view) { return view.rank > 0 ? view.strides[view.rank - 1] : 1; }
inline std::int64_t last_size(const View& view) { return view.rank > 0 ? view.sizes[view.rank - 1] : 1; }

}  // namespace graft::cpu
