#include "graft/bench/openblas.h"

#include <cblas.h>

namespace graft::bench {

bool have_openblas() { return true; }

void set_openblas_threads(int threads) { openblas_set_num_threads(threads); }

void openblas_sgemm(int m, int n, int k, const float* x, const float* w, bool transposed, float* y) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, transposed ? CblasTrans : CblasNoTrans, m, n, k, 1, x, k, w, transposed ? k : n, 0, y,
              n);
}

}  // namespace graft::bench
