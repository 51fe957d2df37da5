#include "graft/cuda/cublaslt.h"

#include <dlfcn.h>

#include <string>

#include "graft/core/error.h"

namespace graft::cuda {

void require(cublasStatus_t status, const char* what) {
  check<OutOfMemoryError>(status != CUBLAS_STATUS_ALLOC_FAILED, "out of memory: {}", what);
  check<CudaError>(status == CUBLAS_STATUS_SUCCESS, "{}: cuBLASLt refused with status {}", what, static_cast<int>(status));
}

const CublasLt& CublasLt::get() {
  static const CublasLt loaded = [] {
    const std::string name = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
    void* library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    // Where the toolkit was when Graft was built.
    if (!library) library = ::dlopen((GRAFT_CUDA_LIBRARIES "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
    check<CudaError>(library != nullptr, "products on a GPU need {}, a part of the CUDA Toolkit, which was not found", name);
    CublasLt lt{};
    const auto find = [&](auto& function, const char* symbol) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, symbol));
      check<CudaError>(function != nullptr, "{} has no function {}", name, symbol);
    };
    find(lt.create, "cublasLtCreate");
    find(lt.matmul, "cublasLtMatmul");
    find(lt.heuristic, "cublasLtMatmulAlgoGetHeuristic");
    find(lt.desc_init, "cublasLtMatmulDescInit_internal");
    find(lt.desc_set, "cublasLtMatmulDescSetAttribute");
    find(lt.layout_init, "cublasLtMatrixLayoutInit_internal");
    find(lt.layout_set, "cublasLtMatrixLayoutSetAttribute");
    find(lt.preference_init, "cublasLtMatmulPreferenceInit_internal");
    find(lt.preference_set, "cublasLtMatmulPreferenceSetAttribute");
    return lt;
  }();
  return loaded;
}

}  // namespace graft::cuda
