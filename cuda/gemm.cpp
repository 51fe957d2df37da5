// Dense products by cuBLASLt. The algorithm for a problem is asked for once.
#include <array>
#include <map>
#include <mutex>

#include "graft/cuda/backend.h"
#include "graft/cuda/cublaslt.h"
#include "graft/cuda/gpu.h"

namespace graft::cuda {
namespace {

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::f64 ? CUDA_R_64F : dtype == DType::f16 ? CUDA_R_16F : dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

/// The largest power of two, at most 256, that divides an address.
std::uint32_t alignment(const void* data) {
  const auto address = reinterpret_cast<std::uintptr_t>(data) | 256;
  return static_cast<std::uint32_t>(address & -address);
}

/// What an algorithm is chosen by: everything but where the matrices lie.
using Key = std::array<std::int64_t, 18>;
Key key_of(const Gpu& gpu, const Gemm& g) {
  Key key{gpu.index(), g.rows, g.columns, g.depth, g.batch, g.tf32};
  std::size_t at = 6;
  for (const Gemm::Matrix* m : {&g.a, &g.b, &g.y})
    for (std::int64_t value : {static_cast<std::int64_t>(m->dtype) * 2 + m->transposed, m->ld, m->distance,
                               static_cast<std::int64_t>(alignment(m->data))})
      key[at++] = value;
  return key;
}

/// A matrix for cuBLAS, which knows columns: one whose rows are contiguous is described as its transpose.
cublasLtMatrixLayoutOpaque_t layout_of(const CublasLt& lt, const Gemm::Matrix& m, std::int64_t rows, std::int64_t columns,
                                       std::int64_t batch) {
  cublasLtMatrixLayoutOpaque_t layout;
  if (!m.transposed) std::swap(rows, columns);
  require(lt.layout_init(&layout, sizeof layout, type_of(m.dtype), static_cast<std::uint64_t>(rows),
                         static_cast<std::uint64_t>(columns), m.ld),
          "describing a matrix");
  const auto count = static_cast<std::int32_t>(batch);
  require(lt.layout_set(&layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count), "describing a batch");
  require(lt.layout_set(&layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &m.distance, sizeof m.distance),
          "describing a batch");
  return layout;
}

}  // namespace

void multiply(const Gemm& g) {
  const CublasLt& lt = CublasLt::get();
  Gpu& here = current_gpu();
  const cublasLtHandle_t handle = here.blas();
  void* const workspace = here.workspace();

  const bool wide = g.y.dtype == DType::f64;
  const cublasComputeType_t sums = wide ? CUBLAS_COMPUTE_64F : g.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  cublasLtMatmulDescOpaque_t product;
  require(lt.desc_init(&product, sizeof product, sums, wide ? CUDA_R_64F : CUDA_R_32F), "describing a product");
  // With contiguous rows y is written as its transpose, yᵀ = bᵀ aᵀ, from transposes that already lie there.
  const bool swapped = !g.y.transposed;
  const Gemm::Matrix &first = swapped ? g.b : g.a, &second = swapped ? g.a : g.b;
  const auto operation = [&](const Gemm::Matrix& m) { return m.transposed == swapped ? CUBLAS_OP_T : CUBLAS_OP_N; };
  const cublasOperation_t first_operation = operation(first), second_operation = operation(second);
  require(lt.desc_set(&product, CUBLASLT_MATMUL_DESC_TRANSA, &first_operation, sizeof first_operation), "describing a product");
  require(lt.desc_set(&product, CUBLASLT_MATMUL_DESC_TRANSB, &second_operation, sizeof second_operation), "describing a product");
  auto a = layout_of(lt, g.a, g.rows, g.depth, g.batch), b = layout_of(lt, g.b, g.depth, g.columns, g.batch),
       y = layout_of(lt, g.y, g.rows, g.columns, g.batch);
  auto &first_layout = swapped ? b : a, &second_layout = swapped ? a : b;

  static std::mutex mutex;
  static std::map<Key, cublasLtMatmulAlgo_t>* const known = new std::map<Key, cublasLtMatmulAlgo_t>;
  cublasLtMatmulAlgo_t algorithm;
  {
    const std::lock_guard lock(mutex);
    const Key key = key_of(here, g);
    auto found = known->find(key);
    if (found == known->end()) {
      cublasLtMatmulPreferenceOpaque_t preference;
      require(lt.preference_init(&preference, sizeof preference), "choosing an algorithm");
      const auto set = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
        require(lt.preference_set(&preference, what, &value, sizeof value), "choosing an algorithm");
      };
      set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, Gpu::workspace_bytes);
      // Where the depth is split, the parts are added in f32 or f64, in order.
      set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(first.data));
      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(second.data));
      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(g.y.data));
      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(g.y.data));
      cublasLtMatmulHeuristicResult_t result{};
      int count = 0;
      const cublasStatus_t status =
          lt.heuristic(handle, &product, &first_layout, &second_layout, &y, &y, &preference, 1, &result, &count);
      if (status != CUBLAS_STATUS_NOT_SUPPORTED) require(status, "choosing an algorithm");
      check<NotImplementedError>(status == CUBLAS_STATUS_SUCCESS && count > 0,
                                 "cuBLASLt has no algorithm for {} × {} × {} of {}", g.rows, g.depth, g.columns,
                                 g.a.dtype);
      found = known->emplace(key, result.algo).first;
    }
    algorithm = found->second;
  }
  const double one = 1, zero = 0;
  const float one_f32 = 1, zero_f32 = 0;
  require(lt.matmul(handle, &product, wide ? static_cast<const void*>(&one) : &one_f32, first.data, &first_layout, second.data,
                    &second_layout, wide ? static_cast<const void*>(&zero) : &zero_f32, g.y.data, &y, g.y.data, &y, &algorithm,
                    workspace, Gpu::workspace_bytes, here.stream()),
          "multiplying");
}

}  // namespace graft::cuda
