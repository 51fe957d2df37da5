#include "graft/quant/gptq_solver.h"

#include <Eigen/Dense>
#include <numeric>
#include <optional>

#include "graft/core/parallel.h"
#include "graft/quant/grid.h"

namespace graft::quant {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Map = Eigen::Map<const Matrix>;

constexpr std::int64_t block_width = 128;

// In which order columns are rounded, and to which group each belongs.
struct Order {
  std::vector<std::int64_t> channel;  // channel[c] is rounded c-th
  std::vector<std::int64_t> group;    // group[c] holds its scale and zero point
};

std::vector<std::int64_t> descending(const std::vector<float>& key, std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(end - begin));
  std::iota(order.begin(), order.end(), begin);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return key[a] > key[b]; });
  return order;
}

Order make_order(const std::vector<float>& diagonal, const GptqSettings& settings) {
  const auto in = static_cast<std::int64_t>(diagonal.size()), length = settings.grid.group_length(in);
  Order order;
  if (settings.desc_act) {
    order.channel = descending(diagonal, 0, in);
  } else if (settings.act_group_aware) {
    const std::int64_t whole = in / length;  // a short last group stays last: the others must begin at multiples of their length
    std::vector<float> greatest;
    for (std::int64_t g = 0; g < whole; ++g)
      greatest.push_back(*std::max_element(&diagonal[g * length], &diagonal[g * length] + length));
    std::vector<std::int64_t> groups = descending(greatest, 0, whole);
    if (whole * length < in) groups.push_back(whole);
    for (std::int64_t g : groups)
      for (std::int64_t k : descending(diagonal, g * length, std::min((g + 1) * length, in))) order.channel.push_back(k);
  } else {
    order.channel.resize(diagonal.size());
    std::iota(order.channel.begin(), order.channel.end(), std::int64_t{0});
  }
  const bool new_groups = settings.desc_act && !settings.static_groups;
  for (std::int64_t c = 0; c < in; ++c) order.group.push_back((new_groups ? c : order.channel[c]) / length);
  return order;
}

// Upper U with UᵀU = H⁻¹. With H = R Rᵀ, R upper, U is R⁻¹; and R is the lower Cholesky factor of H with both orders reversed, turned
// back. One factorization and one triangular inverse instead of two and a full inverse. Nothing if H is not positive definite.
std::optional<Matrix> inverse_factor(const Eigen::MatrixXd& hessian, double damping) {
  Eigen::MatrixXd lower = hessian.reverse();
  lower.diagonal().array() += damping;
  const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>> factor(lower);
  if (factor.info() != Eigen::Success) return {};
  const Eigen::Index n = lower.rows();
  Matrix upper = Matrix::Zero(n, n);
  // Columns [begin, end) of the inverse begin at row `begin`, so only that corner of the factor takes part.
  parallel_ranges(n, block_width, [&](std::int64_t begin, std::int64_t end) {
    Eigen::MatrixXd columns = Eigen::MatrixXd::Identity(n - begin, end - begin);
    lower.bottomRightCorner(n - begin, n - begin).triangularView<Eigen::Lower>().solveInPlace(columns);
    upper.block(0, n - end, n - begin, end - begin) = columns.reverse().cast<float>();
  });
  return upper;
}

// The state of one run. Columns of `w`, `codes` and `upper` are in rounding order, scales and zeros already in their final place.
struct Sweep {
  const GptqSettings& settings;
  const Order& order;
  const Matrix& upper;
  Matrix w;       // what is still to be rounded, corrected for the columns before
  Matrix errors;  // of the current block
  Matrix scale, zero;
  Eigen::Matrix<std::uint8_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> codes;
  std::vector<double> loss;  // per row

  GroupGrid group(std::int64_t row, std::int64_t g) const {
    return {scale(row, g), zero(row, g), static_cast<float>(settings.grid.max_code())};
  }
  void set_group(std::int64_t row, std::int64_t g, const GroupGrid& group) {
    scale(row, g) = group.scale;
    zero(row, g) = group.zero;
  }

  void round_block(std::int64_t row, std::int64_t begin, std::int64_t end) {
    const std::int64_t in = w.cols(), length = settings.grid.group_length(in);
    if (!settings.static_groups) {
      // Groups that begin here are fitted before the block's own corrections: the original reads the weight matrix, which they have
      // not reached yet.
      for (std::int64_t c = (begin + length - 1) / length * length; c < end; c += length)
        set_group(row, order.group[c], fit_group(&w(row, c), std::min(length, in - c), settings.grid));
    }
    for (std::int64_t c = begin; c < end; ++c) {
      const GroupGrid grid = group(row, order.group[c]);
      const float code = encode(w(row, c), grid);
      const float error = (w(row, c) - grid.decode(code)) / upper(c, c);
      codes(row, c) = static_cast<std::uint8_t>(code);
      errors(row, c - begin) = error;
      loss[row] += 0.5 * error * error;
      w.row(row).segment(c + 1, end - c - 1) -= error * upper.row(c).segment(c + 1, end - c - 1);
    }
  }

  void run() {
    const std::int64_t out = w.rows(), in = w.cols();
    for (std::int64_t begin = 0; begin < in; begin += block_width) {
      const std::int64_t end = std::min(begin + block_width, in), rest = in - end;
      parallel_ranges(out, 32, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t row = first; row < last; ++row) round_block(row, begin, end);
        w.block(first, end, last - first, rest).noalias() -=
            errors.block(first, 0, last - first, end - begin) * upper.block(begin, end, end - begin, rest);
      });
    }
  }
};

}  // namespace

GptqResult gptq(const Tensor& weight, const InputMoments& inputs, const GptqSettings& settings) {
  validate(settings.grid);
  check(settings.grid.rule == GridRule::gptq, "gptq: the grid has the rule of another method");
  check(!(settings.desc_act && settings.act_group_aware), "gptq: desc_act and act_group_aware are two orders; choose one");
  check(settings.damp_percent > 0 && settings.damp_percent < 1, "gptq: damp_percent is {}; it must lie between 0 and 1",
        settings.damp_percent);
  check(settings.damp_step > 0, "gptq: damp_step is {}; it must be positive", settings.damp_step);
  const Tensor matrix = checked_weight(weight, "gptq");
  const std::int64_t out = matrix.dim(0), in = matrix.dim(1), groups = settings.grid.groups(in);
  check(inputs.features() == in, "gptq: a weight of shape {} and moments of {} features", matrix.shape(), inputs.features());
  check(inputs.tokens() > 0, "gptq: no calibration tokens were counted");

  const Map original(matrix.data<float>(), out, in), gram(inputs.gram().data<float>(), in, in);
  const float per_token = 2.0f / static_cast<float>(inputs.tokens());
  std::vector<float> diagonal(static_cast<std::size_t>(in));
  for (std::int64_t k = 0; k < in; ++k) {
    const float value = gram(k, k) * per_token;
    diagonal[k] = value == 0 ? 1 : value;  // an input that is always 0 tells nothing about its column
  }
  const Order order = make_order(diagonal, settings);

  GptqResult result{{settings.grid, Tensor::empty({out, in}, DType::u8), Tensor::empty({out, groups}), Tensor::empty({out, groups}, DType::u8),
                     Tensor::empty({in}, DType::i32)}};
  std::optional<Matrix> upper;
  {
    Eigen::MatrixXd hessian(in, in);
    parallel_ranges(in, block_width, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c)
        for (std::int64_t r = 0; r < in; ++r)
          hessian(r, c) = r == c ? diagonal[order.channel[c]] : gram(order.channel[r], order.channel[c]) * per_token;
    });
    const double mean = hessian.diagonal().mean();
    for (double damp = settings.damp_percent; !upper && damp < 1; damp += settings.damp_step) {
      upper = inverse_factor(hessian, damp * mean);
      result.damp_used = damp;
    }
    check(upper.has_value(), "gptq: the Hessian of the calibration inputs is not positive definite at any damping below 1");
  }

  Sweep sweep{settings, order, *upper, Matrix(out, in), Matrix(out, block_width), Matrix(out, groups), Matrix(out, groups), {}, {}};
  sweep.codes.resize(out, in);
  sweep.loss.assign(static_cast<std::size_t>(out), 0.0);
  const std::int64_t length = settings.grid.group_length(in);
  parallel_ranges(out, rows_per_chunk(in), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t c = 0; c < in; ++c) {
        const std::int64_t k = order.channel[c];
        sweep.w(row, c) = gram(k, k) == 0 ? 0 : original(row, k);
      }
      for (std::int64_t g = 0; settings.static_groups && g < groups; ++g)
        sweep.set_group(row, g, fit_group(original.data() + row * in + g * length, std::min(length, in - g * length), settings.grid));
    }
  });
  sweep.run();

  for (std::int64_t c = 0; c < in; ++c)
    result.quantized.g_idx.data<std::int32_t>()[order.channel[c]] = static_cast<std::int32_t>(order.group[c]);
  parallel_ranges(out, rows_per_chunk(in), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t c = 0; c < in; ++c) result.quantized.codes.data<std::uint8_t>()[row * in + order.channel[c]] = sweep.codes(row, c);
      for (std::int64_t g = 0; g < groups; ++g) {
        result.quantized.scale.data<float>()[row * groups + g] = sweep.scale(row, g);
        result.quantized.zero.data<std::uint8_t>()[row * groups + g] = static_cast<std::uint8_t>(sweep.zero(row, g));
      }
    }
  });
  result.loss = std::accumulate(sweep.loss.begin(), sweep.loss.end(), 0.0) / static_cast<double>(inputs.tokens());
  return result;
}

}  // namespace graft::quant
