#include "graft/quant/gptq_solver.h"

#include <gtest/gtest.h>

#include <numeric>

#include "graft/core/parallel.h"
#include "graft/quant/round_to_nearest.h"

#include "../support/errors.h"
#include "calibrated_layer.h"

namespace graft::quant::gptq_solver_test {
namespace {

using test::expect_error;
using test::make_layer;

std::vector<int> ints(const Tensor& tensor) { return tensor.to_vector<int>(); }

std::vector<int> plain(std::int64_t in, std::int64_t length) {
  std::vector<int> groups(static_cast<std::size_t>(in));
  for (std::int64_t k = 0; k < in; ++k) groups[k] = static_cast<int>(k / length);
  return groups;
}

// The method as its paper first states it: round one column, spread its error by the inverse Hessian, and take the column out of
// the inverse by elimination. In f64, with a given grid, in channel order.
std::vector<int> eliminate(const test::CalibratedLayer& layer, const Quantized& grid, double damp) {
  const std::int64_t in = layer.weight.dim(1), out = layer.weight.dim(0), groups = grid.scale.dim(1);
  auto w = layer.weight.to_vector<double>();
  auto h = layer.inputs.gram().to_vector<double>();
  double mean = 0;
  for (std::int64_t k = 0; k < in; ++k) mean += h[k * in + k] / static_cast<double>(in);
  for (std::int64_t k = 0; k < in; ++k) h[k * in + k] += damp * mean;
  // Inverse by Gauss and Jordan.
  std::vector<double> inverse(static_cast<std::size_t>(in * in), 0.0);
  for (std::int64_t k = 0; k < in; ++k) inverse[k * in + k] = 1;
  for (std::int64_t p = 0; p < in; ++p) {
    const double pivot = h[p * in + p];
    for (std::int64_t c = 0; c < in; ++c) h[p * in + c] /= pivot, inverse[p * in + c] /= pivot;
    for (std::int64_t r = 0; r < in; ++r) {
      const double factor = h[r * in + p];
      if (r == p) continue;
      for (std::int64_t c = 0; c < in; ++c) {
        h[r * in + c] -= factor * h[p * in + c];
        inverse[r * in + c] -= factor * inverse[p * in + c];
      }
    }
  }
  std::vector<int> codes(static_cast<std::size_t>(out * in));
  for (std::int64_t p = 0; p < in; ++p) {
    const double pivot = inverse[p * in + p];
    for (std::int64_t n = 0; n < out; ++n) {
      const std::int64_t g = n * groups + grid.g_idx.data<std::int32_t>()[p];
      const double scale = grid.scale.data<float>()[g], zero = grid.zero.data<std::uint8_t>()[g];
      const double code =
          std::clamp(std::nearbyint(w[n * in + p] / scale) + zero, 0.0, static_cast<double>(grid.grid.max_code()));
      codes[n * in + p] = static_cast<int>(code);
      const double error = (w[n * in + p] - scale * (code - zero)) / pivot;
      for (std::int64_t k = p + 1; k < in; ++k) w[n * in + k] -= error * inverse[p * in + k];
    }
    for (std::int64_t r = p + 1; r < in; ++r)
      for (std::int64_t c = p + 1; c < in; ++c) inverse[r * in + c] -= inverse[r * in + p] * inverse[p * in + c] / pivot;
  }
  return codes;
}

TEST(Gptq, AgreesWithEliminationColumnByColumn) {
  // Static groups have a grid that does not move, and 200 columns are more than one block.
  const auto layer = make_layer(12, 200, 400);
  for (bool sym : {true, false}) {
    const GptqSettings settings{.grid = {.group_size = 64, .sym = sym}, .static_groups = true};
    const Quantized got = gptq(layer.weight, layer.inputs, settings).quantized;
    const auto codes = ints(got.codes), expected = eliminate(layer, got, settings.damp_percent);
    // One rounding in f32 that falls the other way at a tie moves the rest of its row.
    std::int64_t different_rows = 0;
    for (std::int64_t n = 0; n < 12; ++n)
      different_rows += !std::equal(&codes[n * 200], &codes[n * 200] + 200, &expected[n * 200]);
    EXPECT_LE(different_rows, 0) << "sym " << sym;
  }
}

TEST(Gptq, IsPlainRoundingWhenInputsAreUncorrelated) {
  const auto layer = make_layer(9, 40, 1);
  InputMoments unit(40);
  unit.add(test::placed(Tensor::eye(40)));
  for (std::int64_t size : {-1, 8, 16}) {
    const Grid grid{.group_size = size, .sym = false};
    EXPECT_EQ(ints(gptq(layer.weight, unit, {.grid = grid}).quantized.codes), ints(round_to_nearest(layer.weight, grid).codes));
  }
}

TEST(Gptq, EveryOptionBeatsPlainRounding) {
  const auto layer = make_layer(24, 160, 320);
  for (int bits : {2, 3, 4, 8})
    for (std::int64_t size : {-1, 16, 48, 128, 512})
      for (bool sym : {true, false})
        for (int order = 0; order < 4; ++order) {
          const Grid grid{.bits = bits, .group_size = size, .sym = sym};
          const GptqSettings settings{
              .grid = grid, .desc_act = order == 1 || order == 3, .act_group_aware = order == 2, .static_groups = order == 3};
          const GptqResult result = gptq(layer.weight, layer.inputs, settings);
          const double error = test::output_error(layer, dequantize(result.quantized));
          EXPECT_LT(error, test::output_error(layer, dequantize(round_to_nearest(layer.weight, grid))))
              << bits << " bits, groups of " << size << ", sym " << sym << ", order " << order;
          const std::int64_t length = grid.group_length(160);
          if (order != 1) {
            EXPECT_EQ(ints(result.quantized.g_idx), plain(160, length));
          }
          EXPECT_GT(result.loss, 0);
          EXPECT_EQ(result.damp_used, 0.05);
        }
}

TEST(Gptq, ActOrderPutsTheLoudestChannelsIntoTheFirstGroup) {
  const auto layer = make_layer(4, 64, 200);
  const auto g_idx = ints(gptq(layer.weight, layer.inputs, {.grid = {.group_size = 16}, .desc_act = true}).quantized.g_idx);
  std::vector<int> order(64);
  std::iota(order.begin(), order.end(), 0);
  const float* gram = layer.inputs.gram().data<float>();
  std::sort(order.begin(), order.end(), [&](int a, int b) { return gram[a * 65] > gram[b * 65]; });
  for (int c = 0; c < 64; ++c) EXPECT_EQ(g_idx[order[c]], c / 16);
}

TEST(Gptq, AnInputThatIsAlwaysZeroTakesNoPart) {
  auto layer = make_layer(5, 32, 100);
  layer.x.alias({100}, {32}, 7).fill_(0);
  InputMoments inputs(32);
  inputs.add(layer.x);
  const Quantized q = gptq(layer.weight, inputs, {.grid = {.group_size = 8}}).quantized;
  const auto w = dequantize(q).to_vector<float>();
  for (int n = 0; n < 5; ++n) EXPECT_EQ(w[n * 32 + 7], 0);
}

TEST(Gptq, LossIsTheOutputErrorPerTokenBesideDamping) {
  // The search's own estimate is ½ Σ e² = ½ Σ δ H δᵀ with the damped H; per token that is the squared output error and a little
  // more.
  const auto layer = make_layer(16, 64, 500);
  const GptqResult result = gptq(layer.weight, layer.inputs, {.damp_percent = 1e-4});
  const auto x = layer.x.to_vector<double>();
  const auto w = layer.weight.to_vector<double>(), q = dequantize(result.quantized).to_vector<double>();
  double sum = 0;
  for (std::int64_t t = 0; t < 500; ++t)
    for (std::int64_t n = 0; n < 16; ++n) {
      double y = 0;
      for (std::int64_t k = 0; k < 64; ++k) y += x[t * 64 + k] * (w[n * 64 + k] - q[n * 64 + k]);
      sum += y * y;
    }
  EXPECT_NEAR(result.loss * 500, sum / 500, 0.02 * sum / 500);
}

TEST(Gptq, DoesNotDependOnThreads) {
  std::vector<std::vector<int>> codes;
  for (int threads : {1, 2, 3, 7}) {
    set_thread_pool(make_thread_pool(threads));
    const auto layer = make_layer(70, 300, 400);
    codes.push_back(
        ints(gptq(layer.weight, layer.inputs, {.grid = {.bits = 3, .group_size = 32}, .desc_act = true}).quantized.codes));
  }
  set_thread_pool(nullptr);
  for (const auto& other : codes) EXPECT_EQ(other, codes[0]);
}

// Two inputs whose correlation is more than either alone, as rounding and overflow make it: [1, c; c, 1].
InputMoments indefinite(float correlation) {
  InputMoments inputs(2);
  inputs.add(Tensor::eye(2));
  float* gram = inputs.gram().data<float>();
  gram[1] = gram[2] = correlation;
  return inputs;
}

TEST(Gptq, DampsMoreWhenTheHessianIsNotDefinite) {
  const Tensor weight = make_layer(4, 2, 1).weight;
  EXPECT_EQ(gptq(weight, indefinite(0.9f), {}).damp_used, 0.05);
  EXPECT_NEAR(gptq(weight, indefinite(1.075f), {}).damp_used, 0.08, 1e-12);  // the first with 1 + d > 1.075
  EXPECT_NEAR(gptq(weight, indefinite(1.075f), {.damp_step = 0.5}).damp_used, 0.55, 1e-12);
  // Two tokens leave a Hessian of rank two; f64 holds it definite with the usual damping.
  const auto layer = make_layer(4, 32, 2);
  EXPECT_EQ(gptq(layer.weight, layer.inputs, {}).damp_used, 0.05);
}

TEST(Gptq, GivesUpWhenNoDampingHelps) {
  const Tensor weight = make_layer(4, 2, 1).weight;
  for (float correlation : {3.0f, INFINITY})
    expect_error<IndefiniteHessian>(
        [&] { gptq(weight, indefinite(correlation), {}); },
        "gptq: the Hessian of the calibration inputs is not positive definite at any damping below 1");
}

TEST(Gptq, ASilentInputHasNoSayInStaticGroups) {
  auto layer = make_layer(5, 32, 100);
  layer.x.alias({100}, {32}, 7).fill_(0);
  InputMoments inputs(32);
  inputs.add(layer.x);
  const GptqSettings settings{.grid = {.group_size = 8}, .static_groups = true};
  const Tensor without = layer.weight.clone(), loud = layer.weight.clone();
  without.alias({5}, {32}, 7).fill_(0), loud.alias({5}, {32}, 7).fill_(10);
  const Quantized expected = gptq(without, inputs, settings).quantized, got = gptq(loud, inputs, settings).quantized;
  EXPECT_EQ(got.scale.to_vector<float>(), expected.scale.to_vector<float>());
  EXPECT_EQ(ints(got.codes), ints(expected.codes));
}

TEST(Gptq, RefusesWhatDoesNotFit) {
  const auto layer = make_layer(4, 16, 20);
  const auto solving = [&](GptqSettings settings) { return [&layer, settings] { gptq(layer.weight, layer.inputs, settings); }; };
  expect_error<ValueError>(solving({.grid = {.bits = 0}}), "bits is 0");
  expect_error<ValueError>(solving({.grid = {.rule = GridRule::awq}}), "the rule of another method");
  expect_error<ValueError>(solving({.desc_act = true, .act_group_aware = true}), "desc_act and act_group_aware are two orders");
  expect_error<ValueError>(solving({.damp_percent = 0}), "damp_percent is 0; it must lie between 0 and 1");
  expect_error<ValueError>(solving({.damp_percent = 1}), "damp_percent is 1");
  expect_error<ValueError>(solving({.damp_step = 0}), "damp_step is 0");
  expect_error<ValueError>([&] { gptq(layer.weight, InputMoments(16), {}); }, "no calibration tokens");
  expect_error<ValueError>(
      [&] {
        gptq(test::ones({4, 8}), layer.inputs, {});
      },
      "a weight of shape [4, 8] and moments of 16 features");
}

}  // namespace
}  // namespace graft::quant::gptq_solver_test
