// Sums over a layer's calibration inputs. They are all that the GPTQ and AWQ searches need to know about its activations, so that
// the activations themselves may be forgotten batch by batch.
#pragma once

#include "graft/core/tensor.h"

namespace graft::quant {

class InputMoments {
 public:
  /// ValueError unless features > 0.
  explicit InputMoments(std::int64_t features);

  /// Counts every row of x [..., features] (any floating dtype, strides and device). ValueError for another width or for values
  /// that are not finite; nothing is counted then.
  void add(const Tensor& x);

  std::int64_t features() const { return gram_.dim(0); }
  std::int64_t tokens() const { return tokens_; }
  /// Σ x xᵀ, f32 [features, features], symmetric.
  const Tensor& gram() const { return gram_; }
  /// Mean of |x| over the tokens, f32 [features]; ValueError before the first token.
  Tensor mean_magnitude() const;

 private:
  std::int64_t tokens_ = 0;
  Tensor gram_;
  Tensor magnitude_;  // Σ |x|, f64
};

}  // namespace graft::quant
