// One-lane "vectors": with them the templates of the vector units become the portable row, which is also the easiest to debug.
#pragma once

#include "graft/core/dtype.h"

namespace graft::scalar {

template <class T>
struct Lane {
  using Element = T;
  using Reg = T;
  static constexpr int width = 1, registers = 16;

  static Reg zero() { return 0; }
  static Reg set(T value) { return value; }
  template <class From>
  static T get(const From* p) {
    return static_cast<T>(*p);
  }
  template <class From>
  static Reg load(const From* p) {
    return static_cast<T>(*p);
  }
  template <class From>
  static Reg load(const From* p, int n) {
    return n > 0 ? static_cast<T>(*p) : T(0);
  }
  static void store(T* p, Reg x) { *p = x; }
  static void store(T* p, Reg x, int n) {
    if (n > 0) *p = x;
  }
  static Reg add(Reg a, Reg b) { return a + b; }
  static Reg sub(Reg a, Reg b) { return a - b; }
  static Reg mul(Reg a, Reg b) { return a * b; }
  static Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }  // two roundings: no hardware to count on
  static T sum(Reg x) { return x; }
  static void transpose(Reg*) {}
};

using F32 = Lane<float>;
using F64 = Lane<double>;

}  // namespace graft::scalar
