#include "graft/autograd/gradcheck.h"

#include <gtest/gtest.h>

#include "graft/autograd/ops.h"

#include "../support/errors.h"
#include "../support/tensors.h"

namespace graft {
namespace {

std::vector<Tensor> inputs() {
  Generator generator{1, 0};
  std::vector<Tensor> made{uniform({2, 3}, 0.5, 2, generator, DType::f64, test::tested_device()),
                           uniform({3}, 0.5, 2, generator, DType::f64, test::tested_device())};
  for (Tensor& x : made) x.set_requires_grad();
  return made;
}

// x³ with a first derivative that is `factor` times too large, or with a second derivative that is missing.
Tensor cube(const Tensor& x, double factor, bool detached) {
  const Tensor value = x.detach();
  return record("cube", value * value * value).wrt(x, [=, x = saved(x)](const Tensor& dy) {
    const Tensor at = detached ? x().detach() : x();
    return dy * (at * at) * (3 * factor);
  });
}

TEST(Gradcheck, AcceptsWhatIsRight) {
  const auto result = gradcheck([](std::span<const Tensor> x) { return exp(x[0] * x[1]); }, inputs(), {.second_order = true});
  EXPECT_TRUE(result) << result.message;
  EXPECT_GT(result.worst, 0);
  EXPECT_LT(result.worst, 1e-8);
  EXPECT_LT(result.worst2, 1e-7);
}

TEST(Gradcheck, FindsAWrongFirstDerivative) {
  const auto result = gradcheck([](std::span<const Tensor> x) { return cube(x[1], 1.001, false) + sum(x[0]); }, inputs());
  EXPECT_FALSE(result);
  EXPECT_EQ(result.message.rfind("first derivative for input 1, entry ", 0), 0u) << result.message;
  EXPECT_NEAR(result.worst, 1e-3, 1e-4);
}

TEST(Gradcheck, FindsAMissingSecondDerivative) {
  const auto f = [](std::span<const Tensor> x) { return cube(x[0], 1, true) + x[1]; };
  EXPECT_TRUE(gradcheck(f, inputs()));
  const auto result = gradcheck(f, inputs(), {.second_order = true});
  EXPECT_FALSE(result);
  EXPECT_EQ(result.message.rfind("second derivative for input 0, entry ", 0), 0u) << result.message;
}

TEST(Gradcheck, FindsAForgottenInput) {
  const auto result = gradcheck([](std::span<const Tensor> x) { return x[0].detach() * x[1]; }, inputs());
  EXPECT_FALSE(result);
  EXPECT_EQ(result.message.rfind("first derivative for input 0, entry 0: 0 where differences give", 0), 0u) << result.message;
}

TEST(Gradcheck, CountsNaNAsWrong) {
  const auto result = gradcheck([](std::span<const Tensor> x) { return log(x[0] * 0.0 - 1.0); }, inputs());
  EXPECT_FALSE(result);
  EXPECT_EQ(result.worst, std::numeric_limits<double>::infinity());
}

TEST(Gradcheck, WantsF64) {
  std::vector<Tensor> small{test::ones({2}).set_requires_grad()};
  test::expect_error<TypeError>([&] { gradcheck([](std::span<const Tensor> x) { return x[0]; }, small); },
                                "gradcheck: inputs are f64, not f32");
}

}  // namespace
}  // namespace graft
