// Arguments of the kernels in random.cu.
#pragma once

#include "graft/core/kernels.h"

namespace graft::cuda {

/// Fills `count` dense elements.
struct DrawInto {
  void* y;
  DType dtype;
  std::int64_t count;
  std::uint64_t seed, stream;
  double p0, p1;
  std::int32_t below;  // bernoulli: words whose upper 24 bits are less give 1
};

}  // namespace graft::cuda
