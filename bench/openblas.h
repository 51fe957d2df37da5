// The dense peer, linked into the bench alone and chosen at link time: openblas.cpp or openblas_absent.cpp.
#pragma once

namespace graft::bench {

bool have_openblas();
void set_openblas_threads(int threads);

/// y [m, n] = x [m, k] · w, with w [k, n], or [n, k] when transposed; all contiguous.
void openblas_sgemm(int m, int n, int k, const float* x, const float* w, bool transposed, float* y);

}  // namespace graft::bench
