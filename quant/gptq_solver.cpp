#include "graft/quant/gptq_solver.h"

#include <Eigen/Dense>

#include <numeric>
#include <optional>

#include "graft/core/kernels.h"
#include "graft/core/parallel.h"
#include "graft/quant/grid.h"
#include "graft/quant/inverse_factor.h"

namespace graft::quant {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr std::int64_t block_width = 128;  // the original's: with groups shorter than it the result depends on it
constexpr std::int64_t strip_height = 128;

Eigen::Map<const Matrix> map(const Tensor& t) { return {t.data<float>(), t.dim(0), t.dim(1)}; }

// begin … end - 1, those with the greatest keys first.
std::vector<std::int64_t> descending(const std::vector<float>& key, std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(end - begin));
  std::iota(order.begin(), order.end(), begin);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return key[a] > key[b]; });
  return order;
}

std::vector<std::int64_t> rounding_order(const std::vector<float>& diagonal, const GptqSettings& settings) {
  const auto in = static_cast<std::int64_t>(diagonal.size()), length = settings.grid.group_length(in);
  if (settings.desc_act) return descending(diagonal, 0, in);
  std::vector<std::int64_t> order;
  if (!settings.act_group_aware) {
    order.resize(diagonal.size());
    std::iota(order.begin(), order.end(), std::int64_t{0});
    return order;
  }
  const std::int64_t whole = in / length;  // a short last group stays last: the others must begin at multiples of their length
  std::vector<float> greatest;
  for (std::int64_t g = 0; g < whole; ++g)
    greatest.push_back(*std::max_element(diagonal.begin() + g * length, diagonal.begin() + (g + 1) * length));
  std::vector<std::int64_t> groups = descending(greatest, 0, whole);
  if (whole * length < in) groups.push_back(whole);
  for (std::int64_t g : groups)
    for (std::int64_t k : descending(diagonal, g * length, std::min((g + 1) * length, in))) order.push_back(k);
  return order;
}

// The state of one run: rows of `w` and of the result are independent of each other.
struct Sweep {
  const GptqSettings& settings;
  const std::vector<std::int64_t>& channel;
  const std::vector<std::int64_t>& group;
  const Tensor& factor;
  Matrix w;  // what is still to be rounded, in rounding order, corrected for the columns before
  std::uint8_t* codes;
  float* scale;
  std::uint8_t* zero;
  std::vector<double> loss;  // per row
  Eigen::Map<const Matrix> upper = map(factor);
  std::int64_t in = w.cols(), groups = settings.grid.groups(in), length = settings.grid.group_length(in);

  void fit(std::int64_t row, std::int64_t g, const float* weights, std::int64_t count) {
    const GroupGrid grid = fit_group(weights, count, settings.grid);
    scale[row * groups + g] = grid.scale;
    zero[row * groups + g] = static_cast<std::uint8_t>(grid.zero);
  }

  // Rounds columns [begin, end) of one row; `errors` [end − begin] is what they leave to the columns after the block.
  void round_block(std::int64_t row, std::int64_t begin, std::int64_t end, float* errors) {
    if (!settings.static_groups) {
      // Groups that begin here are fitted before the block's own corrections: the original reads the weight matrix, which they
      // have not reached yet.
      for (std::int64_t c = (begin + length - 1) / length * length; c < end; c += length)
        fit(row, group[c], &w(row, c), std::min(length, in - c));
    }
    for (std::int64_t c = begin; c < end; ++c) {
      const std::int64_t g = row * groups + group[c];
      const GroupGrid grid{scale[g], static_cast<float>(zero[g]), static_cast<float>(settings.grid.max_code())};
      const float code = encode(w(row, c), grid);
      const float error = (w(row, c) - grid.decode(code)) / upper(c, c);
      codes[row * in + channel[c]] = static_cast<std::uint8_t>(code);
      errors[c - begin] = error;
      loss[row] += 0.5 * error * error;
      w.row(row).segment(c + 1, end - c - 1) -= error * upper.row(c).segment(c + 1, end - c - 1);
    }
  }

  void run() {
    for (std::int64_t begin = 0; begin < in; begin += block_width) {
      const std::int64_t end = std::min(begin + block_width, in), width = end - begin, rest = in - end;
      const Tensor spread = factor.alias({width, rest}, {in, 1}, factor.offset() + begin * in + end);
      parallel_ranges(w.rows(), strip_height, [&](std::int64_t first, std::int64_t last) {
        const Tensor errors = Tensor::empty({last - first, width});
        for (std::int64_t row = first; row < last; ++row)
          round_block(row, begin, end, errors.data<float>() + (row - first) * width);
        if (rest == 0) return;
        const Tensor correction = Tensor::empty({last - first, rest});
        kernel(Device{}, &Kernels::matmul, "gptq")(errors.view(), spread.view(), correction.view());
        w.block(first, end, last - first, rest) -= map(correction);
      });
    }
  }
};

}  // namespace

GptqSolver::GptqSolver(const InputMoments& inputs, const GptqSettings& settings) : settings_(settings), tokens_(inputs.tokens()) {
  validate(settings.grid);
  check(settings.grid.rule == GridRule::gptq, "gptq: the grid has the rule of another method");
  check(!(settings.desc_act && settings.act_group_aware), "gptq: desc_act and act_group_aware are two orders; choose one");
  check(settings.damp_percent > 0 && settings.damp_percent < 1, "gptq: damp_percent is {}; it must lie between 0 and 1",
        settings.damp_percent);
  check(settings.damp_step > 0, "gptq: damp_step is {}; it must be positive", settings.damp_step);
  check(tokens_ > 0, "gptq: no calibration tokens were counted");

  const std::int64_t in = inputs.features();
  const auto gram = map(inputs.gram());
  const float per_token = 2.0f / static_cast<float>(tokens_);
  std::vector<float> diagonal;
  for (std::int64_t k = 0; k < in; ++k) {
    silent_.push_back(gram(k, k) == 0);
    diagonal.push_back(silent_.back() ? 1 : gram(k, k) * per_token);
  }
  channel_ = rounding_order(diagonal, settings);
  const bool groups_follow = settings.desc_act && !settings.static_groups;
  for (std::int64_t c = 0; c < in; ++c) group_.push_back((groups_follow ? c : channel_[c]) / settings.grid.group_length(in));

  const double mean = std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / static_cast<double>(in);
  const Tensor hessian = Tensor::empty({in, in}, DType::f64);
  double* h = hessian.data<double>();
  for (damp_used_ = settings.damp_percent; damp_used_ < 1; damp_used_ += settings.damp_step) {
    parallel_ranges(in, rows_per_chunk(in), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r)
        for (std::int64_t c = 0; c <= r; ++c)
          h[r * in + c] = r == c ? diagonal[channel_[c]] : gram(channel_[r], channel_[c]) * per_token;
    });
    if (const auto factor = inverse_factor(hessian, damp_used_ * mean)) {
      upper_ = *factor;
      return;
    }
  }
  fail<IndefiniteHessian>("gptq: the Hessian of the calibration inputs is not positive definite at any damping below 1");
}

GptqResult GptqSolver::solve(const Tensor& weight) const {
  const Tensor matrix = checked_weight(weight, "gptq");
  const std::int64_t out = matrix.dim(0), in = matrix.dim(1), groups = settings_.grid.groups(in),
                     length = settings_.grid.group_length(in);
  check(upper_.dim(0) == in, "gptq: a weight of shape {} and moments of {} features", matrix.shape(), upper_.dim(0));

  GptqResult result{{settings_.grid, Tensor::empty({out, in}, DType::u8), Tensor::empty({out, groups}),
                     Tensor::empty({out, groups}, DType::u8), Tensor::empty({in}, DType::i32)},
                    0,
                    damp_used_};
  Quantized& q = result.quantized;
  for (std::int64_t c = 0; c < in; ++c) q.g_idx.data<std::int32_t>()[channel_[c]] = static_cast<std::int32_t>(group_[c]);

  Sweep sweep{settings_,
              channel_,
              group_,
              upper_,
              Matrix(out, in),
              q.codes.data<std::uint8_t>(),
              q.scale.data<float>(),
              q.zero.data<std::uint8_t>(),
              std::vector<double>(static_cast<std::size_t>(out), 0.0)};
  parallel_ranges(out, rows_per_chunk(in), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> heard(static_cast<std::size_t>(in));  // a row without the weights of silent inputs
    for (std::int64_t row = begin; row < end; ++row) {
      const float* original = matrix.data<float>() + row * in;
      for (std::int64_t k = 0; k < in; ++k) heard[k] = silent_[k] ? 0 : original[k];
      for (std::int64_t c = 0; c < in; ++c) sweep.w(row, c) = heard[channel_[c]];
      for (std::int64_t g = 0; settings_.static_groups && g < groups; ++g)
        sweep.fit(row, g, heard.data() + g * length, std::min(length, in - g * length));
    }
  });
  sweep.run();
  result.loss = std::accumulate(sweep.loss.begin(), sweep.loss.end(), 0.0) / static_cast<double>(tokens_);
  return result;
}

}  // namespace graft::quant
