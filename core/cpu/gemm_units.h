// The units of gemm.h, one per instruction set; null where the compiler's target does not have the set.
#pragma once

#include "graft/core/cpu/gemm.h"

namespace graft::cpu {

struct GemmUnit {
  GemmKernels<float> f32;
  GemmKernels<double> f64;
};

const GemmUnit* gemm_scalar();
const GemmUnit* gemm_avx2();
const GemmUnit* gemm_avx512();
const GemmUnit* gemm_neon();
const GemmKernels<Pair>* gemm_avx512_dot();

}  // namespace graft::cpu
