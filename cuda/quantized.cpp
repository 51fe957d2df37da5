// Which product a problem is given to.
#include "graft/cuda/backend.h"
#include "graft/cuda/products.h"

namespace graft::cuda {

std::span<const Product> products() {
  static constexpr Product all[] = {
      {"few rows, weights streamed", is_skinny, skinny_product},
      {"tiles through wgmma", supports_tiled_sm90a, tiled_product_sm90a},
      {"tiles through mma.sync", supports_tiled_sm80, tiled_product_sm80},
      {"dequantized pieces and cuBLASLt", [](const quant::Problem&) { return true; }, chunked_product},
  };
  return all;
}

}  // namespace graft::cuda

namespace graft::quant::cuda {

void product(const Problem& problem) {
  check<NotImplementedError>(problem.compute != Compute::int8_activations,
                             "quantized product: int8 activations are not available on device {}", problem.weight.device());
  const graft::cuda::Current here(problem.weight.device().index);
  for (const graft::cuda::Product& row : graft::cuda::products())
    if (row.supports(problem)) return row.run(problem);
}

}  // namespace graft::quant::cuda
