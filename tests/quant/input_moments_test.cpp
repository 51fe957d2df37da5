#include "graft/quant/input_moments.h"

#include <gtest/gtest.h>

#include <limits>

#include "graft/core/parallel.h"

#include "../support/errors.h"
#include "calibrated_layer.h"

namespace graft::quant {
namespace {

using test::expect_error;

TEST(InputMoments, AreTheSumsOverAllTokens) {
  constexpr std::int64_t tokens = 50, in = 150;  // more than one chunk of the matrix
  const auto values = test::normals(3, tokens * in);
  InputMoments moments(in);
  for (std::int64_t begin = 0; begin < tokens; begin += 20) {
    const std::int64_t rows = std::min<std::int64_t>(20, tokens - begin);
    moments.add(test::from(values, {tokens, in}).alias({rows, in}, {in, 1}, begin * in));
  }
  EXPECT_EQ(moments.tokens(), tokens);
  for (std::int64_t i = 0; i < in; ++i) {
    double magnitude = 0;
    for (std::int64_t t = 0; t < tokens; ++t) magnitude += std::abs(values[t * in + i]);
    EXPECT_NEAR(moments.mean_magnitude().data<float>()[i], magnitude / tokens, 1e-6);
    for (std::int64_t j = 0; j < in; ++j) {
      double sum = 0;
      for (std::int64_t t = 0; t < tokens; ++t) sum += static_cast<double>(values[t * in + i]) * values[t * in + j];
      ASSERT_NEAR(moments.gram().data<float>()[i * in + j], sum, 1e-4) << i << ", " << j;
      ASSERT_EQ(moments.gram().data<float>()[i * in + j], moments.gram().data<float>()[j * in + i]);
    }
  }
}

TEST(InputMoments, TakeAnyShapeDtypeAndStrides) {
  const Tensor x = test::from(std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}, {2, 2, 2});
  const Tensor half = x.to(DType::f16);
  InputMoments plain(2), halves(2), strided(2);
  plain.add(x);
  halves.add(half);
  strided.add(test::from(std::vector<float>{1, 3, 5, 7, 2, 4, 6, 8}, {2, 4}).alias({4, 2}, {1, 4}, 0));
  EXPECT_EQ(plain.tokens(), 4);
  EXPECT_EQ(plain.gram().to_vector<float>(), (std::vector<float>{84, 100, 100, 120}));
  EXPECT_EQ(halves.gram().to_vector<float>(), plain.gram().to_vector<float>());
  EXPECT_EQ(strided.gram().to_vector<float>(), plain.gram().to_vector<float>());
}

TEST(InputMoments, DoNotDependOnThreads) {
  std::vector<std::vector<float>> grams;
  for (int threads : {1, 2, 3, 7}) {
    set_thread_pool(make_thread_pool(threads));
    grams.push_back(test::make_layer(1, 300, 40).inputs.gram().to_vector<float>());
  }
  set_thread_pool(nullptr);
  for (const auto& gram : grams) EXPECT_EQ(gram, grams[0]);
}

TEST(InputMoments, RefuseWhatDoesNotFitAndCountNothingOfIt) {
  InputMoments moments(2);
  expect_error<ValueError>([] { InputMoments(0); }, "input moments of 0 features");
  expect_error<ValueError>([&] { moments.mean_magnitude(); }, "no tokens have been counted");
  expect_error<ValueError>([&] { moments.add(test::ones({3, 4})); }, "activations of shape [3, 4] for 2 features");
  expect_error<TypeError>([&] { moments.add(test::ones({3, 2}, DType::i32)); }, "hold i32");
  expect_error<ValueError>(
      [&] {
        moments.add(test::from(std::vector<float>{1, 2, 3, std::numeric_limits<float>::infinity()}, {2, 2}));
      },
      "feature 1 of a token is inf");
  EXPECT_EQ(moments.tokens(), 0);
  EXPECT_EQ(moments.gram().to_vector<float>(), std::vector<float>(4, 0));
}

}  // namespace
}  // namespace graft::quant
