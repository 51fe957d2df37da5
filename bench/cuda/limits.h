// What the GPU can do, measured in the run that is held against it.
#pragma once

#include "graft/bench/cuda/cells.h"

namespace graft::bench {

/// Bytes read and written by a copy within the GPU, a second.
double copy_rate();
/// Operations of a large dense product by cuBLASLt, a second.
double dense_rate(DType dtype);
/// Seconds of a launch of one block that does nothing.
double launch_seconds();

/// The first two, measured at the first call.
const Limits& limits(DType dtype);

}  // namespace graft::bench
