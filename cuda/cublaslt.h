// The functions of cuBLASLt, from the shared library that is opened at the first product: a program that never uses a GPU neither loads
// half a gigabyte nor needs it installed, and whoever links Graft links nothing of it.
#pragma once

#include <cublasLt.h>

namespace graft::cuda {

struct CublasLt {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulDescInit_internal) desc_init;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutInit_internal) layout_init;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&cublasLtMatmulPreferenceInit_internal) preference_init;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;

  /// CudaError if the library is not there.
  static const CublasLt& get();
};

/// OutOfMemoryError or CudaError naming `what` unless `status` is success.
void require(cublasStatus_t status, const char* what);

}  // namespace graft::cuda
