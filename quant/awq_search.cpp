#include "graft/quant/awq_search.h"

#include <Eigen/Dense>

#include <limits>
#include <numeric>

#include "graft/core/kernels.h"
#include "graft/core/parallel.h"
#include "graft/quant/grid.h"
#include "graft/quant/round_to_nearest.h"

namespace graft::quant {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using MatrixF64 = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr int scale_steps = 20;  // ratios 0, 1/20, …, 19/20
constexpr int clip_steps = 10;   // magnitudes 1, 19/20, …, 11/20 of the greatest

Eigen::Map<const Matrix> matrix(const Tensor& t) { return {t.data<float>(), t.dim(0), t.dim(1)}; }
Eigen::Map<Matrix> writable(const Tensor& t) { return {t.data<float>(), t.dim(0), t.dim(1)}; }
Eigen::Map<const Eigen::RowVectorXf> row(const Tensor& t) { return {t.data<float>(), t.count()}; }

void check_settings(const AwqSettings& settings, const InputMoments& inputs) {
  validate(settings.grid);
  check(settings.grid.rule == GridRule::awq, "awq: the grid has the rule of another method");
  check(inputs.tokens() > 0, "awq: no calibration tokens were counted");
}

Tensor checked_scale(const Tensor& scale, std::int64_t in) {
  check(scale.shape() == Shape{in}, "awq: channel scales of shape {} for {} input channels", scale.shape(), in);
  const Tensor values = checked_weight(scale.alias({1, in}, {0, scale.strides()[0]}, scale.offset()), "awq: channel_scale");
  check((row(values).array() > 0).all(), "awq: channel scales must be positive");
  return values;
}

// Per channel, the mean over all outputs of |w| as a share of its group's greatest.
Eigen::VectorXd mean_share(const std::vector<Tensor>& weights, const Grid& grid) {
  const std::int64_t in = weights[0].dim(1), length = grid.group_length(in);
  Eigen::VectorXd sum = Eigen::VectorXd::Zero(in);
  std::int64_t outputs = 0;
  for (const Tensor& weight : weights) {
    const auto w = matrix(weight);
    outputs += w.rows();
    parallel_for(grid.groups(in), [&](std::int64_t g) {
      const std::int64_t first = g * length, width = std::min(length, in - first);
      for (Eigen::Index n = 0; n < w.rows(); ++n) {
        const auto group = w.row(n).segment(first, width).cwiseAbs();
        sum.segment(first, width) += (group / (group.maxCoeff() + 1e-6f)).transpose().cast<double>();
      }
    });
  }
  return sum / static_cast<double>(outputs);
}

// One point of the scale grid, centred so that the greatest and the least are each other's inverse.
Tensor channel_scale(const Tensor& magnitude, const Eigen::VectorXd& share, float ratio, bool duo) {
  Tensor result = Tensor::empty({magnitude.count()});
  Eigen::Map<Eigen::ArrayXf> t(result.data<float>(), result.count());
  t = row(magnitude).transpose().array().pow(ratio);
  if (duo) t /= share.cast<float>().array().pow(1 - ratio) + 1e-4f;
  t = t.max(1e-4f);
  t /= std::sqrt(t.maxCoeff() * t.minCoeff());
  t = t.isFinite().select(t, 1.0f);
  return result;
}

// Σ over tokens and outputs of (x · change)², given Σ x xᵀ.
double summed_error(const Tensor& change, const Tensor& gram) {
  const std::int64_t chunk = 128, out = change.dim(0), in = change.dim(1);
  std::vector<double> sums(static_cast<std::size_t>((out + chunk - 1) / chunk));
  parallel_ranges(out, chunk, [&](std::int64_t begin, std::int64_t end) {
    const Tensor rows = change.alias({end - begin, in}, {in, 1}, change.offset() + begin * in),
                 weighted = Tensor::empty({end - begin, in});
    kernel(Device{}, &Kernels::matmul, "awq")(rows.view(), gram.view(), weighted.view());
    sums[begin / chunk] = matrix(rows).cwiseProduct(matrix(weighted)).cast<double>().sum();
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// The layers' own outputs: mean over tokens and outputs of (x · (candidate − weight))².
double own_loss(std::span<const Tensor> candidates, const std::vector<Tensor>& weights, const InputMoments& inputs) {
  double sum = 0;
  std::int64_t outputs = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const Tensor change = Tensor::empty(weights[i].shape());
    writable(change) = matrix(candidates[i]) - matrix(weights[i]);
    sum += summed_error(change, inputs.gram());
    outputs += weights[i].dim(0);
  }
  return sum / static_cast<double>(outputs * inputs.tokens());
}

}  // namespace

Tensor scale_columns(const Tensor& weight, const Tensor& channel_scale) {
  const Tensor w = checked_weight(weight, "awq");
  const Tensor scale = checked_scale(channel_scale, w.dim(1));
  Tensor result = Tensor::empty(w.shape());
  writable(result) = matrix(w).array().rowwise() * row(scale).array();
  return result;
}

Tensor clamp_groups(const Tensor& weight, const Tensor& clip, const Grid& grid) {
  validate(grid);
  const Tensor w = checked_weight(weight, "awq"), limits = checked_weight(clip, "awq: clip");
  const std::int64_t out = w.dim(0), in = w.dim(1), length = grid.group_length(in);
  check(limits.shape() == Shape{out, grid.groups(in)}, "awq: clip has shape {}; {} is wanted", limits.shape(),
        Shape{out, grid.groups(in)});
  check((matrix(limits).array() >= 0).all(), "awq: clip must not be negative");
  Tensor result = Tensor::empty(w.shape());
  const auto from = matrix(w), limit = matrix(limits);
  auto to = writable(result);
  for (std::int64_t n = 0; n < out; ++n)
    for (std::int64_t k = 0; k < in; ++k) to(n, k) = std::clamp(from(n, k), -limit(n, k / length), limit(n, k / length));
  return result;
}

AwqScales search_awq_scales(std::span<const Tensor> weights, const InputMoments& inputs, const AwqSettings& settings,
                            const AwqLoss& loss) {
  check_settings(settings, inputs);
  check(!weights.empty(), "awq: no weights to scale");
  std::vector<Tensor> originals;
  for (const Tensor& weight : weights) {
    originals.push_back(checked_weight(weight, "awq"));
    check(originals.back().dim(1) == inputs.features(), "awq: a weight of shape {} and moments of {} features", weight.shape(),
          inputs.features());
  }
  const Tensor magnitude = inputs.mean_magnitude();
  const Eigen::VectorXd share = mean_share(originals, settings.grid);

  AwqScales best;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < scale_steps; ++i) {
    const double ratio = static_cast<double>(i) / scale_steps;
    const Tensor scale = channel_scale(magnitude, share, static_cast<float>(ratio), settings.duo_scaling);
    std::vector<Tensor> candidates;
    for (const Tensor& weight : originals) {
      Tensor rounded = dequantize(round_to_nearest(scale_columns(weight, scale), settings.grid));
      writable(rounded).array().rowwise() /= row(scale).array();
      candidates.push_back(std::move(rounded));
    }
    best.losses.push_back(loss ? loss(candidates) : own_loss(candidates, originals, inputs));
    if (best.losses.back() < least) {
      least = best.losses.back();
      best.ratio = ratio;
      best.channel_scale = scale;
    }
  }
  check(best.channel_scale.defined(), "awq: no channel scales gave a finite loss");
  return best;
}

Tensor search_awq_clip(const Tensor& weight, const InputMoments& inputs, const Tensor& channel_scale,
                       const AwqSettings& settings) {
  check_settings(settings, inputs);
  const Tensor scaled = checked_weight(weight, "awq");
  const std::int64_t out = scaled.dim(0), in = scaled.dim(1), length = settings.grid.group_length(in),
                     groups = settings.grid.groups(in);
  check(inputs.features() == in, "awq: a weight of shape {} and moments of {} features", scaled.shape(), inputs.features());
  const Tensor scale = checked_scale(channel_scale, in);
  const auto w = matrix(scaled);
  const auto gram = matrix(inputs.gram());
  Tensor result = Tensor::empty({out, groups});
  auto clip = writable(result);

  parallel_for(groups, [&](std::int64_t g) {
    const std::int64_t first = g * length, width = std::min(length, in - first);
    const Eigen::RowVectorXd shrink = row(scale).segment(first, width).cast<double>().cwiseInverse();
    const MatrixF64 moments = shrink.asDiagonal() * gram.block(first, first, width, width).cast<double>() * shrink.asDiagonal();
    std::vector<float> cut(static_cast<std::size_t>(width));
    MatrixF64 change(clip_steps, width);
    for (std::int64_t n = 0; n < out; ++n) {
      const auto original = w.row(n).segment(first, width);
      const float greatest = original.cwiseAbs().maxCoeff();
      const auto limit = [&](int step) { return greatest * static_cast<float>(1 - step / 20.0); };
      for (int step = 0; step < clip_steps; ++step) {
        for (std::int64_t k = 0; k < width; ++k) cut[k] = std::clamp(original[k], -limit(step), limit(step));
        const GroupGrid grid = fit_group(cut.data(), width, settings.grid);
        for (std::int64_t k = 0; k < width; ++k) change(step, k) = grid.decode(encode(cut[k], grid)) - original[k];
      }
      Eigen::Index best;
      (change * moments).cwiseProduct(change).rowwise().sum().minCoeff(&best);
      clip(n, g) = limit(static_cast<int>(best));
    }
  });
  return result;
}

}  // namespace graft::quant
