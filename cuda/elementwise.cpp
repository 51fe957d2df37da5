#include "graft/cuda/elementwise.h"

#include "graft/core/elementwise.h"
#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"

namespace graft::cuda {
namespace {

template <class Argument>
void run(const std::string& name, std::int64_t count, const Argument& argument) {
  launch({"elementwise", name}, blocks_for(count), block_threads, argument);
}

}  // namespace

void copy(const View& from, const View& to) {
  const Elementwise<2> on({&to, &from});
  if (from.dtype == to.dtype) return run(fmt::format("move_{}", size_of(to.dtype)), on.count, on);
  with_accumulator(from.dtype, [&]<class A>() { run(fmt::format("convert{}", suffix<A>), on.count, on); });
}

void fill(const View& to, double value) {
  const Elementwise<1> on({&to});
  run("fill", on.count, Fill{on, value});
}

void unary(UnaryOp op, const View& x, const View& y, double p0, double p1) {
  check_takes(op, x.dtype);
  with_accumulator(x.dtype, [&]<class A>() {
    const Elementwise<2> on({&y, &x});
    run(fmt::format("unary_{}{}", name(op), suffix<A>), on.count,
        Unary<A>{on, parameter<A>(p0, op, x.dtype), parameter<A>(p1, op, x.dtype)});
  });
}

void binary(BinaryOp op, const View& a, const View& b, const View& y) {
  check_takes(op, a.dtype);
  with_accumulator(a.dtype, [&]<class A>() {
    const Elementwise<3> on({&y, &a, &b});
    run(fmt::format("binary_{}{}", name(op), suffix<A>), on.count, on);
  });
}

void select(const View& condition, const View& a, const View& b, const View& y) {
  with_accumulator(y.dtype, [&]<class A>() {
    const Elementwise<4> on({&y, &a, &b, &condition});
    run(fmt::format("select{}", suffix<A>), on.count, on);
  });
}

}  // namespace graft::cuda
