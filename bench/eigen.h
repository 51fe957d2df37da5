// Eigen's dense product, as a row that anyone can check the others by; compiled for the baseline of the machine, on one thread.
#pragma once

namespace graft::bench {

/// y [m, n] = x [m, k] · w, with w [k, n], or [n, k] when transposed; all contiguous.
void eigen_sgemm(int m, int n, int k, const float* x, const float* w, bool transposed, float* y);

}  // namespace graft::bench
