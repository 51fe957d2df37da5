#include "graft/quant/round_to_nearest.h"

#include <gtest/gtest.h>

#include <limits>

#include "../support/errors.h"
#include "calibrated_layer.h"

namespace graft::quant {
namespace {

using test::expect_error;

std::vector<int> ints(const Tensor& tensor) { return tensor.to_vector<int>(); }

TEST(RoundToNearest, GptqAsymmetric) {
  // Range −1 … 2 widened by nothing: step 0.2, zero point 5.
  const Quantized q =
      round_to_nearest(test::from(std::vector<float>{-1, 2, 0.29f, 0.31f}, {1, 4}), {.sym = false, .scale_dtype = DType::f32});
  EXPECT_EQ(q.scale.to_vector<float>(), std::vector<float>{3.0f / 15});
  EXPECT_EQ(ints(q.zero), std::vector<int>{5});
  EXPECT_EQ(ints(q.codes), (std::vector<int>{0, 15, 6, 7}));
  EXPECT_EQ(ints(q.g_idx), (std::vector<int>{0, 0, 0, 0}));
}

TEST(RoundToNearest, GptqWidensTheRangeToZero) {
  const Quantized q = round_to_nearest(test::from(std::vector<float>{10, 15, 12, -15, -3, -7}, {2, 3}),
                                       {.sym = false, .scale_dtype = DType::f32});
  EXPECT_EQ(q.scale.to_vector<float>(), (std::vector<float>{1, 1}));
  EXPECT_EQ(ints(q.zero), (std::vector<int>{0, 15}));
  EXPECT_EQ(ints(q.codes), (std::vector<int>{10, 15, 12, 0, 12, 8}));
}

TEST(RoundToNearest, GptqSymmetric) {
  const Tensor w = test::from(std::vector<float>{-3, 1.5f, 3, 0, 0.75f, 1.5f}, {2, 3});
  const Quantized q = round_to_nearest(w, {.bits = 2, .scale_dtype = DType::f32});
  // The second row has no negative weight, and so half the step.
  EXPECT_EQ(q.scale.to_vector<float>(), (std::vector<float>{2, 0.5f}));
  EXPECT_EQ(ints(q.zero), (std::vector<int>{2, 2}));
  EXPECT_EQ(ints(q.codes), (std::vector<int>{0, 3, 3, 2, 3, 3}));
}

TEST(RoundToNearest, HalvesGoToTheEvenStep) {
  const Quantized q = round_to_nearest(test::from(std::vector<float>{-7.5f, 7.5f, 0.5f, 1.5f, -0.5f, -1.5f}, {1, 6}),
                                       {.scale_dtype = DType::f32});
  EXPECT_EQ(q.scale.item(), 1);
  EXPECT_EQ(ints(q.codes), (std::vector<int>{0, 15, 8, 10, 8, 6}));
}

TEST(RoundToNearest, AGroupOfZerosHasAScale) {
  for (GridRule rule : {GridRule::gptq, GridRule::awq})
    for (bool sym : {false, true}) {
      const Quantized q = round_to_nearest(test::zeros({2, 3}), {.sym = sym, .rule = rule});
      EXPECT_GT(q.scale.to_vector<float>()[0], 0);
      EXPECT_EQ(dequantize(q).to_vector<float>(), std::vector<float>(6, 0));
    }
}

TEST(RoundToNearest, AwqTakesTheRangeAsItIs) {
  const Quantized q = round_to_nearest(test::from(std::vector<float>{1, 16, 8, -4, 11, 3}, {2, 3}),
                                       {.sym = false, .rule = GridRule::awq, .scale_dtype = DType::f32});
  EXPECT_EQ(q.scale.to_vector<float>(), (std::vector<float>{1, 1}));
  EXPECT_EQ(ints(q.zero), (std::vector<int>{0, 4}));
  EXPECT_EQ(ints(q.codes), (std::vector<int>{1, 15, 8, 0, 15, 7}));  // the least has code 1: zero cannot be −1
  const Quantized sym =
      round_to_nearest(test::from(std::vector<float>{-7, 3.2f, 7}, {1, 3}), {.rule = GridRule::awq, .scale_dtype = DType::f32});
  EXPECT_EQ(sym.scale.item(), 1);
  EXPECT_EQ(ints(sym.codes), (std::vector<int>{1, 11, 15}));
}

TEST(RoundToNearest, EetqByItsFormula) {
  // Scale max / 128; halves away from 0; +max cut to 127; a column of zeros is 127 throughout; codes are kept as code + 128.
  const Tensor w =
      test::from(std::vector<float>{-128, 127.5f, 0.5f, -0.5f, 1.49f, 128, -3, 2.5f, -2.5f, 0, 0, 0, 0, 0, 0}, {3, 5});
  const Quantized q = round_to_nearest(w, eetq_grid());
  EXPECT_EQ(q.scale.to_vector<float>(), (std::vector<float>{1, 1, 0}));
  EXPECT_EQ(ints(q.codes), (std::vector<int>{0, 255, 129, 127, 129, 255, 125, 131, 125, 128, 255, 255, 255, 255, 255}));
  EXPECT_EQ(ints(q.zero), (std::vector<int>{128, 128, 128}));
}

TEST(RoundToNearest, EetqChoosesCodesBeforeItsScaleIsRounded) {
  // 1000.4 / 128 = 7.8156…, in f16 7.8164: by the rounded scale −1000.4 would still be −128, but 3.4999 steps become 3.4996.
  const float largest = 1000.4f, scale = largest / 128;
  const float just_above = 3.5002f * scale;
  const Quantized q = round_to_nearest(test::from(std::vector<float>{-largest, just_above}, {1, 2}), eetq_grid());
  const float stored = q.scale.to_vector<float>()[0];
  ASSERT_EQ(stored, static_cast<float>(f16(scale)));
  ASSERT_LT(just_above / stored, 3.5f);
  EXPECT_EQ(ints(q.codes), (std::vector<int>{0, 132}));
}

TEST(RoundToNearest, ScalesAreRoundedBeforeCodesAreChosen) {
  const auto layer = test::make_layer(8, 64, 1);
  for (DType dtype : {DType::f16, DType::bf16}) {
    const Grid grid{.group_size = 16, .sym = false, .scale_dtype = dtype};
    const Quantized q = round_to_nearest(layer.weight, grid);
    const auto scale = q.scale.to_vector<float>(), w = layer.weight.to_vector<float>(), back = dequantize(q).to_vector<float>();
    for (float s : scale) EXPECT_EQ(s, dtype == DType::f16 ? static_cast<float>(f16(s)) : static_cast<float>(bf16(s)));
    const auto codes = ints(q.codes);
    for (std::size_t i = 0; i < w.size(); ++i) {
      if (codes[i] > 0 && codes[i] < 15) {
        EXPECT_LE(std::abs(back[i] - w[i]), 0.5001f * scale[i / 64 * 4 + i % 64 / 16]);
      }
    }
  }
}

TEST(RoundToNearest, GroupsOfAnySize) {
  const auto layer = test::make_layer(5, 50, 1);
  double before = 1e9;
  for (std::int64_t size : {std::int64_t{-1}, std::int64_t{64}, std::int64_t{50}, std::int64_t{16}, std::int64_t{7}}) {
    const Quantized q = round_to_nearest(layer.weight, {.group_size = size, .sym = false});
    const std::int64_t length = size < 0 || size > 50 ? 50 : size;
    EXPECT_EQ(q.scale.shape(), (Shape{5, (50 + length - 1) / length}));
    EXPECT_EQ(ints(q.g_idx)[49], 49 / length);
    double error = 0;
    const auto w = layer.weight.to_vector<float>(), back = dequantize(q).to_vector<float>();
    for (std::size_t i = 0; i < w.size(); ++i) error += (w[i] - back[i]) * (w[i] - back[i]);
    EXPECT_LE(error, before);
    before = error;
  }
}

TEST(RoundToNearest, TheSearchForANarrowerRangeLessensItsError) {
  const auto layer = test::make_layer(16, 128, 1);
  const auto power_error = [&](const Quantized& q, std::int64_t n) {
    const auto w = layer.weight.to_vector<double>(), back = dequantize(q).to_vector<double>();
    double sum = 0;
    for (std::int64_t k = 0; k < 128; ++k) sum += std::pow(std::abs(w[n * 128 + k] - back[n * 128 + k]), 2.4);
    return sum;
  };
  for (int bits : {2, 3, 4})
    for (bool sym : {true, false}) {
      const Quantized full = round_to_nearest(layer.weight, {.bits = bits, .sym = sym}),
                      searched = round_to_nearest(layer.weight, {.bits = bits, .sym = sym, .mse = 2.4});
      double gain = 0;
      for (std::int64_t n = 0; n < 16; ++n) {
        EXPECT_LE(power_error(searched, n), power_error(full, n) * (1 + 1e-6)) << bits << " bits, row " << n;
        gain += power_error(full, n) - power_error(searched, n);
      }
      EXPECT_GT(gain, 0);
    }
}

TEST(RoundToNearest, TakesAnyDtypeAndStrides) {
  const auto layer = test::make_layer(6, 10, 1);
  const Tensor half = test::zeros({6, 10}, DType::bf16);
  half.copy_(layer.weight);
  const Tensor widened = test::zeros({6, 10}), transposed = test::zeros({10, 6});
  widened.copy_(half);
  transposed.alias({6, 10}, {1, 6}, 0).copy_(widened);
  const Grid grid{.group_size = 4};
  const auto expected = ints(round_to_nearest(widened, grid).codes);
  EXPECT_EQ(ints(round_to_nearest(half, grid).codes), expected);
  EXPECT_EQ(ints(round_to_nearest(transposed.alias({6, 10}, {1, 6}, 0), grid).codes), expected);
}

TEST(RoundToNearest, RefusesWhatDoesNotFit) {
  const Tensor w = test::ones({2, 4});
  const auto rounding = [&](Grid grid) { return [=] { round_to_nearest(w, grid); }; };
  expect_error<ValueError>(rounding({.bits = 1}), "bits is 1; 2 to 8 are possible");
  expect_error<ValueError>(rounding({.bits = 9}), "bits is 9");
  expect_error<ValueError>(rounding({.group_size = 0}), "group_size is 0; it must be -1 or positive");
  expect_error<ValueError>(rounding({.group_size = -2}), "group_size is -2");
  expect_error<ValueError>(rounding({.mse = -1}), "mse is -1");
  expect_error<ValueError>(rounding({.rule = GridRule::awq, .mse = 2}), "only GPTQ's rule searches");
  expect_error<ValueError>(rounding({.scale_dtype = DType::i32}), "scale_dtype is i32");
  expect_error<ValueError>(rounding({.rule = GridRule::eetq}),
                           "EETQ's grid has 8 bits, group_size -1 and is symmetric; got 4 bits");
  expect_error<ValueError>([] { round_to_nearest(test::ones({4}), {}); }, "the weight has shape [4]; [out, in] is wanted");
  expect_error<ValueError>([] { round_to_nearest(test::ones({0, 4}), {}); }, "the weight has shape [0, 4]");
  expect_error<TypeError>([] { round_to_nearest(test::ones({2, 4}, DType::i8), {}); }, "the weight holds i8");
  expect_error<ValueError>([] { round_to_nearest(test::from(std::vector<float>{1, NAN}, {1, 2}), {}); }, "weight[0, 1] is nan");
  expect_error<ValueError>([] { round_to_nearest(test::full({1, 2}, 1e7), {}); }, "more than f16 can hold");
}

TEST(Quantized, RefusesPartsThatContradictEachOther) {
  const Quantized good = round_to_nearest(test::make_layer(3, 8, 1).weight, {.group_size = 4});
  EXPECT_NO_THROW(validate(good));
  const auto broken = [&](auto change) {
    Quantized bad = good;
    change(bad);
    return [bad] { dequantize(bad); };
  };
  expect_error<ValueError>(broken([](Quantized& q) {
                             q.scale = Tensor::ones({3, 3});
                           }),
                           "scale has shape [3, 3]; [3, 2] is wanted");
  expect_error<TypeError>(broken([](Quantized& q) { q.zero = Tensor::ones({3, 2}); }), "zero holds f32; u8 is wanted");
  expect_error<ValueError>(broken([](Quantized& q) { q.g_idx = Tensor::full({8}, 2, DType::i32); }),
                           "g_idx holds 2; 0 to 1 are possible");
  expect_error<ValueError>(broken([](Quantized& q) { q.g_idx = Tensor::full({8}, -1, DType::i32); }), "g_idx holds -1");
  expect_error<ValueError>(broken([](Quantized& q) {
                             q.codes = Tensor::full({3, 8}, 16, DType::u8);
                           }),
                           "codes holds 16; 0 to 15");
  expect_error<ValueError>(broken([](Quantized& q) { q.scale = Tensor::full({3, 2}, NAN); }), "scale holds nan");
}

}  // namespace
}  // namespace graft::quant
