#include "graft/examples/llama/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "../support/errors.h"

namespace graft::llama {
namespace {

Tensor logits(const std::vector<float>& values) { return Tensor::from(values, {static_cast<std::int64_t>(values.size())}); }

std::vector<double> shares(const SamplingOptions& options, const std::vector<float>& values) {
  Sampler sampler(options);
  constexpr int draws = 20000;
  std::vector<double> counts(values.size());
  for (int i = 0; i < draws; ++i) counts[sampler.next(logits(values))] += 1;
  for (double& count : counts) count /= draws;
  return counts;
}

TEST(Sampler, GreedyTakesTheFirstOfTheLargest) {
  Sampler sampler({});
  EXPECT_EQ(sampler.next(logits({1, 3, 3, 2})), 1);
}

TEST(Sampler, DrawsWithTheProbabilitiesOfTheSoftmax) {
  const std::vector<float> values{std::log(1.0f), std::log(2.0f), std::log(5.0f)};
  const auto plain = shares({.temperature = 1, .seed = 1}, values);
  EXPECT_NEAR(plain[0], 0.125, 0.01);
  EXPECT_NEAR(plain[1], 0.25, 0.012);
  EXPECT_NEAR(plain[2], 0.625, 0.013);
  const auto cold = shares({.temperature = 0.5, .seed = 1}, values);  // squares the odds: 1 : 4 : 25
  EXPECT_NEAR(cold[2], 25.0 / 30, 0.011);
}

TEST(Sampler, KeepsTheLikeliestOnly) {
  const std::vector<float> values{std::log(1.0f), std::log(4.0f), std::log(2.0f), std::log(1.0f)};  // 1/8, 1/2, 1/4, 1/8
  const auto two = shares({.temperature = 1, .top_k = 2, .seed = 2}, values);
  EXPECT_NEAR(two[1], 2.0 / 3, 0.014);
  EXPECT_EQ(two[0] + two[3], 0);
  const auto most =
      shares({.temperature = 1, .top_p = 0.7, .seed = 2}, values);  // a half is too little, three quarters are enough
  EXPECT_NEAR(most[1], 2.0 / 3, 0.014);
  EXPECT_EQ(most[0] + most[3], 0);
  EXPECT_EQ(shares({.temperature = 1, .top_p = 1e-9}, values)[1], 1) << "the likeliest is always kept";
}

TEST(Sampler, TheSeedDecides) {
  const auto run = [](std::uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<std::int64_t> drawn;
    for (int i = 0; i < 50; ++i) drawn.push_back(sampler.next(logits({1, 1, 1, 1, 1, 1, 1, 1})));
    return drawn;
  };
  EXPECT_EQ(run(5), run(5));
  EXPECT_NE(run(5), run(6));
}

TEST(Sampler, RefusesWhatMakesNoSense) {
  const auto refuse = [](const SamplingOptions& options, const std::string& words) {
    test::expect_error<ValueError>([&] { Sampler{options}; }, words);
  };
  refuse({.temperature = -1}, "temperature = -1, and a number from 0 is wanted");
  refuse({.temperature = std::nan("")}, "temperature = nan, and a number from 0 is wanted");
  refuse({.top_k = -1}, "top_k = -1, and a count from 0 is wanted");
  refuse({.top_p = 0}, "top_p = 0, and a share above 0 and up to 1 is wanted");
  refuse({.top_p = 1.5}, "top_p = 1.5, and a share above 0 and up to 1 is wanted");
  Sampler sampler({});
  test::expect_error<ValueError>(
      [&] {
        sampler.next(logits({1, std::numeric_limits<float>::quiet_NaN()}));
      },
      "the logit of token 1 is nan");
  test::expect_error<ValueError>([&] { sampler.next(Tensor::zeros({1, 4})); }, "logits [vocab_size] are wanted, not [1, 4]");
}

}  // namespace
}  // namespace graft::llama
