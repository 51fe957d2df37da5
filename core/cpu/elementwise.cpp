#include "graft/core/elementwise.h"

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

/// Whether all elements of a run are neighbours in bf16.
template <int N>
bool in_one_pass(const Loop<N>& loop, const std::array<const View*, N>& views) {
  for (int v = 0; v < N; ++v)
    if (views[v]->dtype != DType::bf16 || loop.stride(v) != 1) return false;
  return true;
}

}  // namespace

void unary(UnaryOp op, const View& x, const View& y, double p0, double p1) {
  check_takes(op, x.dtype);
  with_accumulator(x.dtype, [&]<class A>() {
    const A a0 = parameter<A>(p0, op, x.dtype), a1 = parameter<A>(p1, op, x.dtype);
    const auto& loops = vector_loops<A>();
    const Loop<2> loop({&y, &x});
    if (in_one_pass(loop, {&y, &x}))
      return loop.run([&](const auto& at, std::int64_t n) {
        bf16_loops().unary(op, x.as<bf16>() + at[1], y.as<bf16>() + at[0], n, static_cast<float>(a0), static_cast<float>(a1));
      });
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
  check_takes(op, a.dtype);
  with_accumulator(a.dtype, [&]<class A>() {
    const auto& loops = vector_loops<A>();
    const Loop<3> loop({&y, &a, &b});
    if (in_one_pass(loop, {&y, &a, &b}))
      return loop.run([&](const auto& at, std::int64_t n) {
        bf16_loops().binary(op, a.as<bf16>() + at[1], b.as<bf16>() + at[2], y.as<bf16>() + at[0], n);
      });
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

void silu_mul(const View& gate, const View& x, const View& y) {
  with_floating(gate.dtype, "silu_mul", [&]<class A>() {
    const Loop<3> loop({&y, &gate, &x});
    if (in_one_pass(loop, {&y, &gate, &x}))
      return loop.run([&](const auto& at, std::int64_t n) {
        bf16_loops().silu_mul(gate.as<bf16>() + at[1], x.as<bf16>() + at[2], y.as<bf16>() + at[0], n);
      });
    const auto& loops = vector_loops<A>();
    for_each_block(loop, [&](const auto& at, std::int64_t n) {
      A buffer[block], results[block];
      A* result = target(y, at[0], loop.stride(0), n, results);
      loops.unary(UnaryOp::silu, load(gate, at[1], loop.stride(1), n, buffer), result, n, 0, 0);
      loops.binary(BinaryOp::mul, result, load(x, at[2], loop.stride(2), n, buffer), result, n);
      store(result, y, at[0], loop.stride(0), n);
    });
  });
}

void silu_mul_backward(const View& gate, const View& x, const View& dy, const View& dgate, const View& dx) {
  with_floating(gate.dtype, "silu_mul_backward", [&]<class A>() {
    const Loop<5> loop({&dgate, &dx, &gate, &x, &dy});
    if (in_one_pass(loop, {&dgate, &dx, &gate, &x, &dy}))
      return loop.run([&](const auto& at, std::int64_t n) {
        bf16_loops().silu_mul_backward(gate.as<bf16>() + at[2], x.as<bf16>() + at[3], dy.as<bf16>() + at[4],
                                       dgate.as<bf16>() + at[0], dx.as<bf16>() + at[1], n);
      });
    const auto& loops = vector_loops<A>();
    for_each_block(loop, [&](const auto& at, std::int64_t n) {
      A gates[block], grads[block], buffer[block], results[block];
      const A* from = load(gate, at[2], loop.stride(2), n, gates);
      const A* grad = load(dy, at[4], loop.stride(4), n, grads);
      A* result = target(dx, at[1], loop.stride(1), n, results);
      loops.unary(UnaryOp::silu, from, result, n, 0, 0);
      loops.binary(BinaryOp::mul, result, grad, result, n);
      store(result, dx, at[1], loop.stride(1), n);
      loops.binary(BinaryOp::mul, grad, load(x, at[3], loop.stride(3), n, buffer), buffer, n);
      result = target(dgate, at[0], loop.stride(0), n, results);
      loops.binary(BinaryOp::silu_grad, from, buffer, result, n);
      store(result, dgate, at[0], loop.stride(0), n);
    });
  });
}

}  // namespace graft::cpu
