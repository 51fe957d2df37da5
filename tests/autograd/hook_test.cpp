#include "graft/autograd/hook.h"

#include <gtest/gtest.h>

#include "graft/autograd/checkpoint.h"
#include "graft/autograd/ops.h"

#include "../support/errors.h"
#include "../support/tensors.h"

namespace graft {
namespace {

using test::expect_error;
using Values = std::vector<double>;

struct Hook : testing::Test {
  Tensor x = test::from(Values{1, 2, 3}, {3}).set_requires_grad();
  Values gradient() const { return x.grad().to_vector<double>(); }
};

TEST_F(Hook, SeesTheGradientAndLeavesItAlone) {
  Values seen;
  const Tensor y = hook(x * 2.0, [&](const Tensor& dy) { return seen = dy.to_vector<double>(), Tensor(); });
  EXPECT_EQ(y.to_vector<double>(), (Values{2, 4, 6}));
  EXPECT_TRUE(seen.empty());
  sum(y * y).backward();
  EXPECT_EQ(seen, (Values{4, 8, 12}));
  EXPECT_EQ(gradient(), (Values{8, 16, 24}));
}

TEST_F(Hook, ChangesTheGradientOfItsPathOnly) {
  sum(hook(x, [](const Tensor& dy) { return dy * -3; }) + x).backward();
  EXPECT_EQ(gradient(), (Values{-2, -2, -2}));
}

TEST_F(Hook, RunsOnceForAllThatArrives) {
  int calls = 0;
  const Tensor y = hook(x, [&](const Tensor&) { return ++calls, Tensor(); });
  sum(y * y + y).backward();
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(gradient(), (Values{3, 5, 7}));
}

TEST_F(Hook, IsDroppedWhereNothingIsDifferentiated) {
  auto token = std::make_shared<int>();
  const Tensor constant = hook(x.detach(), [token](const Tensor& dy) { return dy; });
  EXPECT_FALSE(constant.requires_grad());
  EXPECT_EQ(token.use_count(), 1);
  const NoGrad off;
  EXPECT_FALSE(hook(x, [token](const Tensor& dy) { return dy; }).requires_grad());
  EXPECT_EQ(token.use_count(), 1);
}

TEST_F(Hook, IsDifferentiatedItself) {
  const Tensor weight = test::from(Values{5, 6, 7}, {3}).set_requires_grad();
  const Tensor s = sum(hook(x, [](const Tensor& dy) { return dy * dy; }) * weight);
  const Tensor first = grad({&s, 1}, {&x, 1}, {}, {.create_graph = true})[0];
  EXPECT_EQ(first.to_vector<double>(), (Values{25, 36, 49}));
  sum(first).backward();
  EXPECT_EQ(weight.grad().to_vector<double>(), (Values{10, 12, 14}));
}

TEST_F(Hook, WorksWithinACheckpoint) {
  int calls = 0;
  const auto f = [&](std::span<const Tensor> in) {
    return hook(in[0] * in[0], [&](const Tensor& dy) { return ++calls, dy * 2.0; });
  };
  sum(checkpoint(f, {&x, 1})).backward();
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(gradient(), (Values{4, 8, 12}));
}

TEST_F(Hook, RefusesAnotherShape) {
  const Tensor y = hook(x, [](const Tensor&) { return test::ones({2}); });
  expect_error<ValueError>([&] { sum(y).backward(); }, "hook: a gradient of shape [3] came back as one of shape [2]");
}

}  // namespace
}  // namespace graft
