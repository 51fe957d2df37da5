// GPTQ (Frantar et al. 2022, arXiv:2210.17323): rounds a weight column by column and lets the columns that are still free make up
// for the error in the layer's output. Follows GPTQModel's choices where the paper leaves them open.
#pragma once

#include <vector>

#include "graft/quant/input_moments.h"
#include "graft/quant/quantize.h"

namespace graft::quant {

struct GptqSettings {
  Grid grid = {};                // its rule must be gptq
  bool desc_act = false;         // columns in descending order of the Hessian's diagonal; g_idx becomes irregular
  bool act_group_aware = false;  // the same order inside each group and among whole groups; g_idx stays plain
  bool static_groups = false;    // scales from the original weight, before any column has moved; g_idx stays plain
  double damp_percent = 0.05;    // of the mean of the Hessian's diagonal, added to it
  double damp_step = 0.01;       // added to damp_percent each time the Hessian turns out not to be positive definite
};

struct GptqResult {
  Quantized quantized;
  double loss = 0;       // squared output error by the Hessian's estimate, summed over outputs, per token
  double damp_used = 0;  // damp_percent with the steps that were needed
};

/// What GptqSolver throws for a Hessian that no damping below 1 makes positive definite, such as one of inputs whose squares overflow.
struct IndefiniteHessian : ValueError {
  using ValueError::ValueError;
};

/// The part of the search that depends on the inputs alone, for all layers that share them.
class GptqSolver {
 public:
  /// ValueError for what validate(grid) refuses, no tokens, desc_act together with act_group_aware, or a damping outside (0, 1);
  /// IndefiniteHessian.
  GptqSolver(const InputMoments& inputs, const GptqSettings& settings);

  /// Searches codes for `weight` [out, in] (any floating dtype, strides and device) that keep its outputs for such inputs.
  /// TypeError or ValueError for what is not a finite floating matrix of this width.
  GptqResult solve(const Tensor& weight) const;

 private:
  GptqSettings settings_;
  std::int64_t tokens_ = 0;
  std::vector<bool> silent_;           // inputs that were always 0
  std::vector<std::int64_t> channel_;  // channel_[c] is rounded c-th
  std::vector<std::int64_t> group_;    // group_[c] holds its scale and zero point
  Tensor upper_;                       // f32 [in, in]: UᵀU is the inverse Hessian, in rounding order
  double damp_used_ = 0;
};

/// One layer by itself. The errors of both steps.
inline GptqResult gptq(const Tensor& weight, const InputMoments& inputs, const GptqSettings& settings) {
  return GptqSolver(inputs, settings).solve(weight);
}

}  // namespace graft::quant
