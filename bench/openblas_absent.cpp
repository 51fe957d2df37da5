#include "graft/bench/openblas.h"

namespace graft::bench {

bool have_openblas() { return false; }
void set_openblas_threads(int) {}
void openblas_sgemm(int, int, int, const float*, const float*, bool, float*) {}

}  // namespace graft::bench
