// Our searches on the layers that GPTQModel and AutoAWQ were given: the same integers, or for AWQ's near-ties almost all of them.
#include <gtest/gtest.h>

#include <cmath>

#include "graft/quant/awq_search.h"
#include "graft/quant/gptq_solver.h"
#include "graft/quant/round_to_nearest.h"

#include "golden.h"

namespace golden {
namespace {

using namespace graft;

struct CalibratedLayer {
  Tensor weight, x;
  quant::InputMoments inputs;
};

CalibratedLayer layer(const Case& golden_case, const Json& info) {
  const auto file = [&](const char* what) {
    return golden_case.path.parent_path() / (info.at("layer").get<std::string>() + "_" + what + ".safetensors");
  };
  const Tensor weight = Tensors(file("weight"))["W"], stored = Tensors(file("inputs"))["X"];
  Tensor x = Tensor::empty(stored.shape());
  x.copy_(stored);
  return {weight, x, quant::InputMoments(weight.dim(1))};
}

/// ‖X (W − Q)ᵀ‖² / ‖X Wᵀ‖²
double output_error(const Tensor& x, const Tensor& w, const Tensor& q) {
  const auto a = x.to_vector<double>(), b = w.to_vector<double>(), c = q.to_vector<double>();
  const std::int64_t tokens = x.dim(0), in = x.dim(1), out = w.dim(0);
  double error = 0, size = 0;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t n = 0; n < out; ++n) {
      double y = 0, difference = 0;
      for (std::int64_t k = 0; k < in; ++k) {
        y += a[t * in + k] * b[n * in + k];
        difference += a[t * in + k] * (b[n * in + k] - c[n * in + k]);
      }
      size += y * y;
      error += difference * difference;
    }
  return error / size;
}

void expect_no_worse(double error, const Json& info, const CalibratedLayer& l, const quant::Grid& grid) {
  EXPECT_LE(error, 1.01 * info.at("output_error").get<double>());
  EXPECT_LT(error, output_error(l.x, l.weight, dequantize(quant::round_to_nearest(l.weight, grid))));
  EXPECT_LT(error, info.at("output_error_rounding").get<double>());
}

void check_gptq(const Tensors& want, const Json& info, CalibratedLayer l) {
  const std::int64_t tokens = l.x.dim(0), in = l.x.dim(1), batch = info.at("batch_tokens");
  for (std::int64_t begin = 0; begin < tokens; begin += batch)
    l.inputs.add(l.x.alias({std::min(batch, tokens - begin), in}, {in, 1}, begin * in));
  const quant::GptqSettings settings{.grid = {.bits = info.at("bits"),
                                              .group_size = info.at("group_size"),
                                              .sym = info.at("sym"),
                                              .mse = info.at("mse"),
                                              .scale_dtype = DType::f32},
                                     .desc_act = info.at("desc_act"),
                                     .act_group_aware = info.at("act_group_aware"),
                                     .damp_percent = info.at("damp_percent")};
  const quant::GptqResult got = quant::gptq(l.weight, l.inputs, settings);
  EXPECT_EQ(got.quantized.codes.to_vector<int>(), want["codes"].to_vector<int>());
  EXPECT_EQ(got.quantized.zero.to_vector<int>(), want["zero"].to_vector<int>());
  EXPECT_EQ(got.quantized.g_idx.to_vector<int>(), want["g_idx"].to_vector<int>());
  expect_close(got.quantized.scale, want["scale"], 1e-4, "scale");
  EXPECT_DOUBLE_EQ(got.damp_used, info.at("damp_used").get<double>());
  EXPECT_NEAR(got.loss, info.at("avg_loss").get<double>(), 1e-3 * got.loss);
  expect_no_worse(output_error(l.x, l.weight, dequantize(got.quantized)), info, l, settings.grid);
}

void check_awq(const Tensors& want, const Json& info, CalibratedLayer l) {
  l.inputs.add(l.x);
  const quant::AwqSettings settings{.grid = {.bits = info.at("bits"),
                                             .group_size = info.at("group_size"),
                                             .sym = info.at("sym"),
                                             .rule = quant::GridRule::awq,
                                             .scale_dtype = DType::f32},
                                    .duo_scaling = info.at("duo_scaling")};
  const quant::AwqScales scales = quant::search_awq_scales(std::span(&l.weight, 1), l.inputs, settings);
  EXPECT_EQ(scales.ratio, info.at("best_ratio").get<double>());
  expect_close(scales.channel_scale, want["channel_scale"], 1e-6, "channel_scale");
  expect_close(Tensor::from(scales.losses, {20}), want["losses"], 1e-3, "losses");

  const Tensor scaled = quant::scale_columns(l.weight, scales.channel_scale);
  const Tensor clip = quant::search_awq_clip(scaled, l.inputs, scales.channel_scale, settings);
  const auto got = clip.to_vector<double>(), wanted = want["clip"].to_vector<double>();
  std::size_t equal = 0;
  for (std::size_t i = 0; i < got.size(); ++i) equal += std::abs(got[i] - wanted[i]) <= 1e-3 * wanted[i];
  EXPECT_GE(static_cast<double>(equal), 0.98 * static_cast<double>(got.size()))
      << equal << " of " << got.size() << " clip values are equal";

  Tensor rounded = dequantize(quant::round_to_nearest(quant::clamp_groups(scaled, clip, settings.grid), settings.grid));
  const auto divisor = scales.channel_scale.to_vector<float>();
  for (std::int64_t i = 0; i < rounded.count(); ++i) rounded.data<float>()[i] /= divisor[i % divisor.size()];
  expect_no_worse(output_error(l.x, l.weight, rounded), info, l, settings.grid);
}

}  // namespace

void check_quantizers_case(const Case& golden_case) {
  const Tensors want(golden_case.path);
  const Json& info = want.info();
  const std::string algorithm = info.at("algorithm");
  if (algorithm == "gptq") return check_gptq(want, info, layer(golden_case, info));
  if (algorithm == "awq") return check_awq(want, info, layer(golden_case, info));
  ADD_FAILURE() << golden_case.path << ": the algorithm " << algorithm << " is not known";
}

}  // namespace golden
