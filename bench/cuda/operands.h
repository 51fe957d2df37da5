// The operands of a cell on the current GPU, the products over them, and how far a product is from the CPU's. It knows of CUDA what
// cuda/backend.h declares, so that the tests run it where no GPU is.
#pragma once

#include <memory>

#include "graft/bench/cuda/cells.h"
#include "graft/core/tensor.h"
#include "graft/cuda/products.h"

namespace graft::bench {

/// Whether a kernel row takes a cell, from the shapes alone: no weight of its size is made.
bool supports(const cuda::Product& product, const Cell& cell);

/// A weight on the CPU and its copies on the GPU; the last one asked for is kept.
struct Weights {
  std::shared_ptr<const quant::Packed> here;
  std::vector<std::shared_ptr<const quant::Packed>> there;  // each in memory of its own
};
const Weights& weights_for(const Cell& cell, std::int64_t copies);
/// Dense weights [k, n], likewise.
const std::vector<Tensor>& dense_weights_for(const Cell& cell, std::int64_t copies);

class Operands {
 public:
  explicit Operands(const Cell& cell);

  /// The whole cell with copy `copy` of its weight. LoRA's narrow product is the row's to make, its gradients are products of the kernel table
  /// around the row's; factors are f32, and its share joins the rounded product, as in a layer on GPTQ.
  void run(const cuda::Product& product, const Weights& weights, std::size_t copy) const;
  /// The bare product with a dense weight by the kernel table.
  void run_dense(const std::vector<Tensor>& weights, std::size_t copy) const;

  /// Writes NaN over the result.
  void poison() const;
  /// ‖y − y'‖ / ‖y'‖ over some rows chosen at random, y' being the CPU's product in f32 with the same weight, or over some columns of them
  /// where the weight is dense. NaN if anything was left unwritten.
  double error(const Weights& weights) const;
  double error(const std::vector<Tensor>& weights) const;
  /// What rounding alone can make of it: of the result, and once of the weight.
  double largest_error() const;

 private:
  std::vector<std::int64_t> checked_rows() const;

  Cell cell_;
  Tensor x_, y_;                       // [m, from], [m, to]
  Tensor A_, B_, input_, narrow_, u_;  // [r, k], [n, r]; backward, the forward's x [m, k], x Aᵀ and dy B [m, r]
  Tensor dA_, dB_;
};

}  // namespace graft::bench
