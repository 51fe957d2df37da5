// Arguments of the kernels in elementwise.cu.
#pragma once

#include "graft/core/strided.h"

namespace graft::cuda {

/// N views of one shape; number 0 is written.
template <int N>
struct Elementwise {
  Strided<N> walk;
  std::int64_t count;
  void* data[N];
  DType dtype[N];

  explicit Elementwise(const std::array<const View*, N>& views) : walk(views), count(views[0]->count()) {
    for (int i = 0; i < N; ++i) data[i] = views[i]->data, dtype[i] = views[i]->dtype;
  }
};

template <class A>
struct Unary {
  Elementwise<2> on;
  A p0, p1;
};

struct Fill {
  Elementwise<1> on;
  double value;
};

}  // namespace graft::cuda
