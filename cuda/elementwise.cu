// One kernel for each operation of core/elementwise.h's lists and each type that arithmetic happens in: unary_exp_f32, …
#include "graft/core/elementwise.h"
#include "graft/cuda/elements.cuh"
#include "graft/cuda/elementwise.h"

namespace graft::cuda {
namespace {

/// f(offsets) for the elements of this thread.
template <int N, class F>
__device__ void for_each(const Elementwise<N>& on, F&& f) {
  for (std::int64_t i = first_index(); i < on.count; i += index_step()) f(on.walk.at(i));
}

template <class A, class Op>
__device__ void unary(const Unary<A>& u) {
  for_each(u.on, [&](const auto& at) {
    const A x = load<A>(u.on.data[1], u.on.dtype[1], at[1]);
    store_same<A>(u.on.data[0], u.on.dtype[0], at[0], Op::apply(x, u.p0, u.p1));
  });
}

template <class A, class Op>
__device__ void binary(const Elementwise<3>& on) {
  for_each(on, [&](const auto& at) {
    const A a = load<A>(on.data[1], on.dtype[1], at[1]), b = load<A>(on.data[2], on.dtype[2], at[2]);
    store_same<A>(on.data[0], on.dtype[0], at[0], Op::apply(a, b));
  });
}

template <class A, class Op>
__device__ void compare(const Elementwise<3>& on) {
  for_each(on, [&](const auto& at) {
    const A a = load<A>(on.data[1], on.dtype[1], at[1]), b = load<A>(on.data[2], on.dtype[2], at[2]);
    static_cast<std::uint8_t*>(on.data[0])[at[0]] = Op::apply(a, b);
  });
}

template <class A>
__device__ void select(const Elementwise<4>& on) {  // y, a, b, condition
  for_each(on, [&](const auto& at) {
    const bool first = static_cast<const std::uint8_t*>(on.data[3])[at[3]] != 0;
    const A a = load<A>(on.data[1], on.dtype[1], at[1]), b = load<A>(on.data[2], on.dtype[2], at[2]);
    store_same<A>(on.data[0], on.dtype[0], at[0], first ? a : b);
  });
}

template <class A>
__device__ void convert(const Elementwise<2>& on) {
  for_each(on, [&](const auto& at) { store<A>(on.data[0], on.dtype[0], at[0], load<A>(on.data[1], on.dtype[1], at[1])); });
}

template <class Bits>
__device__ void move(const Elementwise<2>& on) {
  for_each(on, [&](const auto& at) { static_cast<Bits*>(on.data[0])[at[0]] = static_cast<const Bits*>(on.data[1])[at[1]]; });
}

}  // namespace

extern "C" {

#define GRAFT_KERNEL(name, expression)                                                                                  \
  __global__ void unary_##name##_f64(const Unary<double> on) { unary<double, elementwise::name##_op>(on); }             \
  __global__ void unary_##name##_f32(const Unary<float> on) { unary<float, elementwise::name##_op>(on); }               \
  __global__ void unary_##name##_i64(const Unary<std::int64_t> on) {                                                    \
    if constexpr (elementwise::takes_integers<elementwise::name##_op>) unary<std::int64_t, elementwise::name##_op>(on); \
  }
GRAFT_UNARY_OPS(GRAFT_KERNEL)
#undef GRAFT_KERNEL

#define GRAFT_KERNEL(name, expression)                                                                                   \
  __global__ void binary_##name##_f64(const Elementwise<3> on) { binary<double, elementwise::name##_op>(on); }           \
  __global__ void binary_##name##_f32(const Elementwise<3> on) { binary<float, elementwise::name##_op>(on); }            \
  __global__ void binary_##name##_i64(const Elementwise<3> on) {                                                         \
    if constexpr (elementwise::takes_integers<elementwise::name##_op>) binary<std::int64_t, elementwise::name##_op>(on); \
  }
GRAFT_BINARY_OPS(GRAFT_KERNEL)
#undef GRAFT_KERNEL

#define GRAFT_KERNEL(name, expression)                                                                          \
  __global__ void binary_##name##_f64(const Elementwise<3> on) { compare<double, elementwise::name##_op>(on); } \
  __global__ void binary_##name##_f32(const Elementwise<3> on) { compare<float, elementwise::name##_op>(on); }  \
  __global__ void binary_##name##_i64(const Elementwise<3> on) { compare<std::int64_t, elementwise::name##_op>(on); }
GRAFT_COMPARISONS(GRAFT_KERNEL)
#undef GRAFT_KERNEL

__global__ void select_f64(const Elementwise<4> on) { select<double>(on); }
__global__ void select_f32(const Elementwise<4> on) { select<float>(on); }
__global__ void select_i64(const Elementwise<4> on) { select<std::int64_t>(on); }

__global__ void convert_f64(const Elementwise<2> on) { convert<double>(on); }
__global__ void convert_f32(const Elementwise<2> on) { convert<float>(on); }
__global__ void convert_i64(const Elementwise<2> on) { convert<std::int64_t>(on); }

// Elements of one type on both sides: their bits move, whatever they mean.
__global__ void move_1(const Elementwise<2> on) { move<std::uint8_t>(on); }
__global__ void move_2(const Elementwise<2> on) { move<std::uint16_t>(on); }
__global__ void move_4(const Elementwise<2> on) { move<std::uint32_t>(on); }
__global__ void move_8(const Elementwise<2> on) { move<std::uint64_t>(on); }

__global__ void fill(const Fill f) {
  for_each(f.on, [&](const auto& at) { store<double>(f.on.data[0], f.on.dtype[0], at[0], f.value); });
}

}  // extern "C"
}  // namespace graft::cuda
