// AWQ (Lin et al. 2023, arXiv:2306.00978): input channels that carry loud activations are scaled up before plain rounding and
// their producer is scaled down, then each group's range is clipped where that lessens its output error. Follows AutoAWQ's grids.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "graft/quant/input_moments.h"
#include "graft/quant/quantize.h"

namespace graft::quant {

struct AwqSettings {
  Grid grid{.sym = false, .rule = GridRule::awq};  // its rule must be awq
  bool duo_scaling = true;                         // scales look at the weights too, not at the activations alone
};

struct AwqScales {
  Tensor channel_scale;        // f32 [in]: the weight's columns are multiplied, their producer is divided
  double ratio = 0;            // the grid point that was best: i / 20
  std::vector<double> losses;  // of the 20 grid points
};

/// Mean squared error of the layers' outputs when their weights are replaced by `candidates`, each f32 [out, in]. What the
/// outputs go through (attention, the rest of an MLP) may be part of it.
using AwqLoss = std::function<double(std::span<const Tensor> candidates)>;

/// Searches the channel scales that linear layers with a common input share: `weights` [out_i, in] in any floating dtype. Without
/// a `loss` of the caller's the error of the layers' own outputs decides. ValueError for no weights, different widths, no tokens,
/// and what validate(grid) refuses.
AwqScales search_awq_scales(std::span<const Tensor> weights, const InputMoments& inputs, const AwqSettings& settings,
                            const AwqLoss& loss = {});

/// Searches per output and group the magnitude at which weights are clipped: f32 [out, groups]. `inputs` are those before
/// scaling; `weight` and the result are in scaled terms, as is what follows. (AutoAWQ looks at up to 512 of the tokens; here all
/// count.)
Tensor search_awq_clip(const Tensor& weight, const InputMoments& inputs, const Tensor& channel_scale,
                       const AwqSettings& settings);

/// `weight` [out, in] with column k multiplied by channel_scale[k], as a new f32 tensor.
Tensor scale_columns(const Tensor& weight, const Tensor& channel_scale);

/// `weight` [out, in] with each group of each output clamped to ±clip[out, group], as a new f32 tensor.
Tensor clamp_groups(const Tensor& weight, const Tensor& clip, const Grid& grid);

}  // namespace graft::quant
