#include "graft/quant/grid.h"

#include <limits>
#include <optional>

#include "graft/core/parallel.h"

namespace graft::quant {
namespace {

// Sum over the group of |rounded − w|^exponent, or nothing once it exceeds `limit`: all terms are positive.
std::optional<double> power_error(const float* w, std::int64_t n, const GroupGrid& group, float exponent, double limit) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    sum += std::pow(std::abs(group.decode(encode(w[i], group)) - w[i]), exponent);
    if (sum >= limit) return {};
  }
  return sum;
}

GroupGrid gptq_range(float lo, float hi, const Grid& grid) {
  const float max_code = static_cast<float>(grid.max_code());
  const float scale = rounded_scale((hi - lo) / max_code, grid.scale_dtype);
  const float zero = grid.sym ? (max_code + 1) / 2 : std::clamp(round_to_even(-lo / scale), 0.0f, max_code);
  return {scale, zero, max_code};
}

// The search over narrower ranges: 80 steps of one per cent. For 2 bits one step of the zero point is a third of the range, so
// its neighbours are tried too.
GroupGrid narrowed(const float* w, std::int64_t n, float lo, float hi, const Grid& grid) {
  GroupGrid best = gptq_range(lo, hi, grid);
  double least = std::numeric_limits<double>::infinity();
  const int reach = grid.bits == 2 && !grid.sym ? 1 : 0;
  for (int i = 0; i < 80; ++i) {
    const float p = static_cast<float>(1 - i / 100.0);
    const GroupGrid middle = gptq_range(lo * p, hi * p, grid);
    for (int shift : {0, -1, 1}) {
      if (std::abs(shift) > reach) continue;
      GroupGrid candidate = middle;
      candidate.zero = std::clamp(middle.zero + static_cast<float>(shift), 0.0f, middle.max_code);
      if (const auto error = power_error(w, n, candidate, static_cast<float>(grid.mse), least)) {
        least = *error;
        best = candidate;
      }
    }
  }
  return best;
}

GroupGrid fit_gptq(const float* w, std::int64_t n, const Grid& grid) {
  const auto [least, greatest] = std::minmax_element(w, w + n);
  float lo = std::min(0.0f, *least), hi = std::max(0.0f, *greatest);
  if (grid.sym) {
    hi = std::max(-lo, hi);
    if (lo < 0) lo = -hi;  // a group without negative weights keeps lo = 0 and so half the step: as the original does
  }
  if (lo == 0 && hi == 0) lo = -1, hi = 1;
  return grid.mse > 0 ? narrowed(w, n, lo, hi, grid) : gptq_range(lo, hi, grid);
}

GroupGrid fit_awq(const float* w, std::int64_t n, const Grid& grid) {
  constexpr float least_range = 1e-5f;
  const auto [least, greatest] = std::minmax_element(w, w + n);
  const float max_code = static_cast<float>(grid.max_code());
  if (grid.sym) {
    const float magnitude = std::max({-*least, *greatest, least_range});
    return {rounded_scale(magnitude / ((max_code - 1) / 2), grid.scale_dtype), (max_code + 1) / 2, max_code};
  }
  const float scale = rounded_scale(std::max(*greatest - *least, least_range) / max_code, grid.scale_dtype);
  const float steps = std::clamp(*least / scale, -1024.0f, 1024.0f);  // a range far from 0 has its zero point at an end
  return {scale, std::clamp(-round_to_even(steps), 0.0f, max_code), max_code};
}

GroupGrid fit_eetq(const float* w, std::int64_t n) {
  float magnitude = 0;
  for (std::int64_t i = 0; i < n; ++i) magnitude = std::max(magnitude, std::abs(w[i]));
  return {magnitude / 128, 128, 255};
}

}  // namespace

void validate(const Grid& grid) {
  check(grid.bits >= 2 && grid.bits <= 8, "bits is {}; 2 to 8 are possible", grid.bits);
  check(grid.group_size == -1 || grid.group_size > 0, "group_size is {}; it must be -1 or positive", grid.group_size);
  check(grid.mse >= 0 && std::isfinite(grid.mse), "mse is {}; it is an exponent, 0 or positive", grid.mse);
  check(is_floating(grid.scale_dtype) && grid.scale_dtype != DType::f64, "scale_dtype is {}; f32, f16 and bf16 are possible",
        grid.scale_dtype);
  check(grid.mse == 0 || grid.rule == GridRule::gptq, "mse is {}; only GPTQ's rule searches for a narrower range", grid.mse);
  check(grid.rule != GridRule::eetq || (grid.bits == 8 && grid.group_size == -1 && grid.sym),
        "EETQ's grid has 8 bits, group_size -1 and is symmetric; got {} bits, group_size {}, sym {}", grid.bits, grid.group_size,
        grid.sym);
}

float rounded_scale(float value, DType scale_dtype) {
  return dispatch(scale_dtype, Types<float, f16, bf16>{}, "scale_dtype", [&]<class T>() -> float {
    const float rounded = static_cast<float>(T(value));
    check(std::isfinite(rounded), "a group needs the scale {}, more than {} can hold", value, scale_dtype);
    if (rounded > 0) return rounded;
    if constexpr (std::is_same_v<T, float>) return std::numeric_limits<float>::min();
    else return static_cast<float>(std::bit_cast<T>(std::uint16_t{1}));
  });
}

GroupGrid fit_group(const float* w, std::int64_t n, const Grid& grid) {
  switch (grid.rule) {
    case GridRule::gptq: return fit_gptq(w, n, grid);
    case GridRule::awq: return fit_awq(w, n, grid);
    case GridRule::eetq: break;
  }
  return fit_eetq(w, n);
}

Tensor checked_weight(const Tensor& weight, const char* what) {
  check(weight.rank() == 2 && weight.count() > 0, "{}: the weight has shape {}; [out, in] is wanted", what, weight.shape());
  check<TypeError>(is_floating(weight.dtype()), "{}: the weight holds {}; a floating type is wanted", what, weight.dtype());
  Tensor w = weight.detach();
  if (!w.device().is_cpu() || w.dtype() != DType::f32 || !w.is_contiguous()) {
    w = Tensor::empty(weight.shape());
    w.copy_(weight);
  }
  const float* values = w.data<float>();
  for (std::int64_t i = 0; i < w.count(); ++i)
    check(std::isfinite(values[i]), "{}: weight[{}, {}] is {}", what, i / w.dim(1), i % w.dim(1), values[i]);
  return w;
}

Tensor plain_g_idx(std::int64_t in, const Grid& grid) {
  Tensor g_idx = Tensor::empty({in}, DType::i32);
  for (std::int64_t k = 0; k < in; ++k) g_idx.data<std::int32_t>()[k] = static_cast<std::int32_t>(k / grid.group_length(in));
  return g_idx;
}

void validate(const Quantized& quantized) {
  validate(quantized.grid);
  check(quantized.codes.rank() == 2 && quantized.codes.count() > 0, "codes has shape {}; [out, in] is wanted",
        quantized.codes.shape());
  const std::int64_t out = quantized.out_features(), in = quantized.in_features(), groups = quantized.grid.groups(in);
  const auto expect = [](const char* name, const Tensor& tensor, const Shape& shape, DType dtype) {
    check(tensor.shape() == shape, "{} has shape {}; {} is wanted", name, tensor.shape(), shape);
    check<TypeError>(tensor.dtype() == dtype, "{} holds {}; {} is wanted", name, tensor.dtype(), dtype);
    check(tensor.device().is_cpu() && tensor.is_contiguous(), "{} must be contiguous and on the CPU", name);
  };
  expect("codes", quantized.codes, {out, in}, DType::u8);
  expect("scale", quantized.scale, {out, groups}, DType::f32);
  expect("zero", quantized.zero, {out, groups}, DType::u8);
  expect("g_idx", quantized.g_idx, {in}, DType::i32);
  const auto below = [&](const char* name, const auto* values, std::int64_t count, std::int64_t limit) {
    for (std::int64_t i = 0; i < count; ++i)
      check(values[i] >= 0 && values[i] < limit, "{} holds {}; 0 to {} are possible", name, values[i], limit - 1);
  };
  below("codes", quantized.codes.data<std::uint8_t>(), out * in, quantized.grid.max_code() + 1);
  below("zero", quantized.zero.data<std::uint8_t>(), out * groups, quantized.grid.max_code() + 1);
  below("g_idx", quantized.g_idx.data<std::int32_t>(), in, groups);
  for (std::int64_t i = 0; i < out * groups; ++i)
    check(std::isfinite(quantized.scale.data<float>()[i]), "scale holds {}", quantized.scale.data<float>()[i]);
}

Tensor dequantize(const Quantized& quantized) {
  validate(quantized);
  const std::int64_t out = quantized.out_features(), in = quantized.in_features(), groups = quantized.scale.dim(1);
  Tensor weight = Tensor::empty({out, in});
  const auto* codes = quantized.codes.data<std::uint8_t>();
  const auto* zero = quantized.zero.data<std::uint8_t>();
  const auto* g_idx = quantized.g_idx.data<std::int32_t>();
  const float* scale = quantized.scale.data<float>();
  float* w = weight.data<float>();
  parallel_ranges(out, rows_per_chunk(in), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n)
      for (std::int64_t k = 0; k < in; ++k) {
        const std::int64_t group = n * groups + g_idx[k];
        w[n * in + k] = scale[group] * static_cast<float>(codes[n * in + k] - zero[group]);
      }
  });
  return weight;
}

}  // namespace graft::quant
