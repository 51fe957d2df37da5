#include "graft/core/elementwise.h"

#include <cmath>
#include <limits>

#include "graft/core/cpu/block.h"
#include "graft/core/cpu/cpu.h"
#include "graft/core/cpu/loop.h"
#include "graft/core/cpu/vector.h"

namespace graft::cpu {
namespace {

/// Cuts the runs of a loop into blocks, f(offsets, n).
template <int N, class F>
void for_each_block(const Loop<N>& loop, F&& f) {
  loop.run([&](auto at, std::int64_t n) {
    for (; n > 0; n -= block) {
      f(at, std::min(n, block));
      for (int v = 0; v < N; ++v) at[v] += block * loop.stride(v);
    }
  });
}

/// A parameter of an operation on integers: ±∞ saturates.
std::int64_t integer_parameter(double p, UnaryOp op, DType dtype) {
  if (p >= 0x1p63) return std::numeric_limits<std::int64_t>::max();
  if (p < -0x1p63) return std::numeric_limits<std::int64_t>::min();
  check(p == std::floor(p), "{}: {} is not an integer, and the elements are {}", name(op), p, dtype);
  return static_cast<std::int64_t>(p);
}

template <class Op>
void check_integers(const char* op, DType dtype) {
  check<TypeError>(is_floating(dtype) || takes_integers<Op>, "{}: needs floating elements, not {}", op, dtype);
}

}  // namespace

void unary(UnaryOp op, const View& x, const View& y, double p0, double p1) {
  with_unary(op, [&]<class Op>() { check_integers<Op>(name(op), x.dtype); });
  with_accumulator(x.dtype, [&]<class A>() {
    A a0, a1;
    if constexpr (std::is_same_v<A, std::int64_t>) {
      a0 = integer_parameter(p0, op, x.dtype);
      a1 = integer_parameter(p1, op, x.dtype);
    } else {
      a0 = static_cast<A>(p0);
      a1 = static_cast<A>(p1);
    }
    const auto& loops = vector_loops<A>();
    const Loop<2> loop({&y, &x});
    for_each_block(loop, [&](const auto& at, std::int64_t n) {
      A from[block], to[block];
      A* result = target(y, at[0], loop.stride(0), n, to);
      loops.unary(op, load(x, at[1], loop.stride(1), n, from), result, n, a0, a1);
      store(result, y, at[0], loop.stride(0), n);
    });
  });
}

void binary(BinaryOp op, const View& a, const View& b, const View& y) {
  const bool comparing = is_comparison(op);
  with_binary(op, [&]<class Op>() { check_integers<Op>(name(op), a.dtype); });
  with_accumulator(a.dtype, [&]<class A>() {
    const auto& loops = vector_loops<A>();
    const Loop<3> loop({&y, &a, &b});
    for_each_block(loop, [&](const auto& at, std::int64_t n) {
      A left_buffer[block], right_buffer[block];
      const A* left = load(a, at[1], loop.stride(1), n, left_buffer);
      const A* right = load(b, at[2], loop.stride(2), n, right_buffer);
      const auto finish = [&]<class Result>(auto compute, Result* buffer) {
        Result* result = target(y, at[0], loop.stride(0), n, buffer);
        compute(op, left, right, result, n);
        store(result, y, at[0], loop.stride(0), n);
      };
      if (comparing) {
        bool truth[block];
        finish(loops.compare, truth);
      } else {
        A results[block];
        finish(loops.binary, results);
      }
    });
  });
}

void select(const View& condition, const View& a, const View& b, const View& y) {
  with_accumulator(y.dtype, [&]<class A>() {
    const auto& loops = vector_loops<A>();
    const Loop<4> loop({&y, &a, &b, &condition});
    for_each_block(loop, [&](const auto& at, std::int64_t n) {
      A left[block], right[block], results[block];
      bool truth[block];
      A* result = target(y, at[0], loop.stride(0), n, results);
      loops.select(load(condition, at[3], loop.stride(3), n, truth), load(a, at[1], loop.stride(1), n, left),
                   load(b, at[2], loop.stride(2), n, right), result, n);
      store(result, y, at[0], loop.stride(0), n);
    });
  });
}

}  // namespace graft::cpu
