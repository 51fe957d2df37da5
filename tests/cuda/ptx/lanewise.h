// Instructions that do the same for each lane: d = f(a), f(a, b), f(a, b, c).
#pragma once

#include "values.h"
#include "warp.h"

namespace graft::ptx {

template <class D, class A, class F>
void unary(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t* a = w.in(i, 1);
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) { d[lane] = pack<D>(F()(i, unpack<A>(a[lane]))); });
}
template <class D, class A, class B, class F>
void binary(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t *a = w.in(i, 1), *b = w.in(i, 2);
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) { d[lane] = pack<D>(F()(i, unpack<A>(a[lane]), unpack<B>(b[lane]))); });
}
template <class D, class A, class B, class C, class F>
void ternary(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t *a = w.in(i, 1), *b = w.in(i, 2), *c = w.in(i, 3);
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) { d[lane] = pack<D>(F()(i, unpack<A>(a[lane]), unpack<B>(b[lane]), unpack<C>(c[lane]))); });
}

}  // namespace graft::ptx
