#include "graft/quant/awq_search.h"

#include <gtest/gtest.h>

#include "graft/core/parallel.h"
#include "graft/quant/round_to_nearest.h"

#include "../support/errors.h"
#include "calibrated_layer.h"

namespace graft::quant {
namespace {

using test::expect_error;
using test::make_layer;

// What a user of the scaled weight computes with: Q(w · t) / t.
Tensor unscaled(const Tensor& weight, const Tensor& scale) {
  const Tensor result = weight.clone();
  const auto t = scale.to_vector<float>();
  for (std::int64_t i = 0; i < weight.count(); ++i) result.data<float>()[i] /= t[static_cast<std::size_t>(i) % t.size()];
  return result;
}

TEST(AwqScales, LossesAreTheOutputErrorsOfTheirGridPoints) {
  const auto layer = make_layer(10, 48, 90);
  for (bool duo : {true, false}) {
    const AwqSettings settings{.grid = {.group_size = 16, .sym = false, .rule = GridRule::awq}, .duo_scaling = duo};
    const AwqScales found = search_awq_scales(std::span(&layer.weight, 1), layer.inputs, settings);
    ASSERT_EQ(found.losses.size(), 20u);
    const double least = *std::min_element(found.losses.begin(), found.losses.end());
    EXPECT_EQ(found.losses[static_cast<std::size_t>(std::lround(found.ratio * 20))], least);
    // The best one again, from its definition.
    const Tensor q = unscaled(dequantize(round_to_nearest(scale_columns(layer.weight, found.channel_scale), settings.grid)),
                              found.channel_scale);
    const auto x = layer.x.to_vector<double>(), w = layer.weight.to_vector<double>(), v = q.to_vector<double>();
    double sum = 0;
    for (int t = 0; t < 90; ++t)
      for (int n = 0; n < 10; ++n) {
        double y = 0;
        for (int k = 0; k < 48; ++k) y += x[t * 48 + k] * (w[n * 48 + k] - v[n * 48 + k]);
        sum += y * y;
      }
    EXPECT_NEAR(least, sum / 900, 1e-4 * least);
    // The greatest and the least scale are each other's inverse.
    const auto scale = found.channel_scale.to_vector<double>();
    EXPECT_NEAR(*std::max_element(scale.begin(), scale.end()) * *std::min_element(scale.begin(), scale.end()), 1, 1e-5);
  }
}

TEST(AwqScales, RatioZeroWithoutDuoScalesNothing) {
  const auto layer = make_layer(6, 32, 40);
  const AwqSettings settings{.grid = {.group_size = 8, .sym = false, .rule = GridRule::awq}, .duo_scaling = false};
  // A loss that likes the first candidate best.
  int calls = 0;
  const AwqScales found =
      search_awq_scales(std::span(&layer.weight, 1), layer.inputs, settings, [&](std::span<const Tensor> candidates) {
        EXPECT_EQ(candidates.size(), 1u);
        return static_cast<double>(calls++);
      });
  EXPECT_EQ(calls, 20);
  EXPECT_EQ(found.ratio, 0);
  EXPECT_EQ(found.channel_scale.to_vector<float>(), std::vector<float>(32, 1));
}

TEST(AwqScales, SeveralLayersShareOneScale) {
  const auto layer = make_layer(12, 32, 80);
  const Tensor top = layer.weight.alias({5, 32}, {32, 1}, 0), bottom = layer.weight.alias({7, 32}, {32, 1}, 5 * 32);
  const AwqSettings settings{.grid = {.group_size = 16, .sym = false, .rule = GridRule::awq}};
  const AwqScales whole = search_awq_scales(std::span(&layer.weight, 1), layer.inputs, settings);
  const AwqScales parts = search_awq_scales(std::vector{top, bottom}, layer.inputs, settings);
  EXPECT_EQ(parts.ratio, whole.ratio);
  for (std::size_t i = 0; i < 20; ++i) EXPECT_NEAR(parts.losses[i], whole.losses[i], 1e-5 * whole.losses[i]);
}

TEST(AwqClip, TakesTheBestOfTenMagnitudes) {
  const auto layer = make_layer(6, 40, 60);
  const AwqSettings settings{.grid = {.group_size = 16, .sym = false, .rule = GridRule::awq}};  // the last group is short
  const Tensor scale = search_awq_scales(std::span(&layer.weight, 1), layer.inputs, settings).channel_scale;
  const Tensor w = scale_columns(layer.weight, scale), clip = search_awq_clip(w, layer.inputs, scale, settings);
  ASSERT_EQ(clip.shape(), (Shape{6, 3}));
  const auto x = layer.x.to_vector<double>();
  const auto error = [&](std::int64_t n, std::int64_t g, const Tensor& limits) {
    const Tensor q = dequantize(round_to_nearest(clamp_groups(w, limits, settings.grid), settings.grid));
    double sum = 0;
    for (std::int64_t t = 0; t < 60; ++t) {
      double y = 0;
      for (std::int64_t k = g * 16; k < std::min<std::int64_t>(g * 16 + 16, 40); ++k)
        y += x[static_cast<std::size_t>(t * 40 + k)] / scale.data<float>()[k] *
             (q.data<float>()[n * 40 + k] - w.data<float>()[n * 40 + k]);
      sum += y * y;
    }
    return sum;
  };
  bool clipped = false;
  for (std::int64_t n = 0; n < 6; ++n)
    for (std::int64_t g = 0; g < 3; ++g) {
      float greatest = 0;
      for (std::int64_t k = g * 16; k < std::min<std::int64_t>(g * 16 + 16, 40); ++k)
        greatest = std::max(greatest, std::abs(w.data<float>()[n * 40 + k]));
      const double chosen = error(n, g, clip);
      clipped = clipped || clip.data<float>()[n * 3 + g] < greatest;
      for (int step = 0; step < 10; ++step)
        EXPECT_LE(chosen, error(n, g, test::full({6, 3}, greatest * (1 - step / 20.0))) * (1 + 1e-4));
    }
  EXPECT_TRUE(clipped);
}

TEST(Awq, BeatsPlainRounding) {
  const auto layer = make_layer(32, 128, 300);
  for (std::int64_t size : {-1, 32, 64})
    for (bool sym : {true, false}) {
      const AwqSettings settings{.grid = {.group_size = size, .sym = sym, .rule = GridRule::awq}};
      const Tensor scale = search_awq_scales(std::span(&layer.weight, 1), layer.inputs, settings).channel_scale;
      const Tensor w = scale_columns(layer.weight, scale);
      const Tensor clipped = clamp_groups(w, search_awq_clip(w, layer.inputs, scale, settings), settings.grid);
      const auto error = [&](const Tensor& weight, const Tensor& t) {
        return test::output_error(layer, unscaled(dequantize(round_to_nearest(weight, settings.grid)), t));
      };
      const double plain = error(layer.weight, test::ones({128})), scaled = error(w, scale), both = error(clipped, scale);
      EXPECT_LT(scaled, plain) << size << " " << sym;
      EXPECT_LT(both, plain) << size << " " << sym;
    }
}

TEST(Awq, DoesNotDependOnThreads) {
  std::vector<std::vector<float>> clips;
  for (int threads : {1, 2, 3, 7}) {
    set_thread_pool(make_thread_pool(threads));
    const auto layer = make_layer(40, 96, 100);
    const AwqSettings settings{.grid = {.group_size = 32, .sym = false, .rule = GridRule::awq}};
    const AwqScales found = search_awq_scales(std::span(&layer.weight, 1), layer.inputs, settings);
    clips.push_back(search_awq_clip(scale_columns(layer.weight, found.channel_scale), layer.inputs, found.channel_scale, settings)
                        .to_vector<float>());
    for (double loss : found.losses) clips.back().push_back(static_cast<float>(loss));
  }
  set_thread_pool(nullptr);
  for (const auto& other : clips) EXPECT_EQ(other, clips[0]);
}

TEST(Awq, RefusesWhatDoesNotFit) {
  const auto layer = make_layer(4, 16, 20);
  const std::vector weights{layer.weight};
  const Tensor ones = test::ones({16});
  expect_error<ValueError>([&] { search_awq_scales({}, layer.inputs, {}); }, "no weights to scale");
  expect_error<ValueError>([&] { search_awq_scales(weights, InputMoments(16), {}); }, "no calibration tokens");
  expect_error<ValueError>([&] { search_awq_scales(weights, layer.inputs, {.grid = {}}); }, "the rule of another method");
  expect_error<ValueError>(
      [&] {
        search_awq_scales(std::vector{test::ones({2, 8})}, layer.inputs, {});
      },
      "a weight of shape [2, 8] and moments of 16 features");
  expect_error<ValueError>([&] { search_awq_scales(weights, layer.inputs, {}, [](auto) { return NAN; }); }, "finite loss");
  expect_error<ValueError>([&] { search_awq_clip(test::ones({2, 8}), layer.inputs, ones, {}); }, "moments of 16 features");
  expect_error<ValueError>([&] { search_awq_clip(layer.weight, layer.inputs, test::ones({8}), {}); },
                           "channel scales of shape [8] for 16");
  expect_error<ValueError>([&] { scale_columns(layer.weight, test::zeros({16})); }, "channel scales must be positive");
  expect_error<ValueError>(
      [&] {
        clamp_groups(layer.weight, test::ones({4, 3}), {.group_size = 8});
      },
      "clip has shape [4, 3]; [4, 2]");
}

}  // namespace
}  // namespace graft::quant
