// Operands of products on the GPU, lying in many ways, and the rows of its list that take them.
#pragma once

#include "graft/cuda/backend.h"
#include "graft/cuda/products.h"
#include "graft/quant/kernels.h"
#include "graft/tests/cuda/device_tensors.h"

namespace graft::quant::test {

inline constexpr float untouched = -99;

/// How operands lie: by rows, by columns, or with gaps between all elements.
enum class Lie { rows, columns, gaps };
struct Placed {
  Tensor memory;
  View view;
  Placed(const Tensor& values, Lie lie) {
    const std::int64_t rows = values.dim(0), columns = values.dim(1);
    const std::int64_t strides[3][2] = {{columns, 1}, {1, rows}, {2 * columns + 1, 2}};
    memory = Tensor::full({rows * (2 * columns + 1) + 1}, untouched, values.dtype(), graft::test::gpu);
    view = memory.view();
    view.rank = 2, view.sizes[0] = rows, view.sizes[1] = columns;
    std::copy_n(strides[static_cast<int>(lie)], 2, view.strides);
    runtime(graft::test::gpu).kernels().copy(graft::test::on(values, graft::test::gpu).view(), view);
  }
};

/// The rows of the GPU's list that take a problem, tiles though it be streamed; of one name only, if one is given.
inline std::vector<graft::cuda::Product> rows_for(const Problem& problem, std::string_view only) {
  std::vector<graft::cuda::Product> found;
  const int capability = graft::cuda::properties().capability;
  for (const graft::cuda::Product& product : graft::cuda::products()) {
    const bool tiles = product.name.starts_with("tiles") && (capability == 90 || product.name.ends_with("mma.sync")) &&
                       is_half(problem.x.dtype) && problem.terms.size() <= most_terms;
    if (!only.empty() && product.name != only) continue;
    if (product.supports(problem) || tiles) found.push_back(product);  // which take any number of rows
  }
  return found;
}

}  // namespace graft::quant::test
