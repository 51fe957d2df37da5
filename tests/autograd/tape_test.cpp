#include "graft/autograd/tape.h"

#include <gtest/gtest.h>

#include <thread>

#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"

#include "../support/errors.h"
#include "../support/tensors.h"

namespace graft {
namespace {

using test::expect_error;
using test::full;
using test::ones;

Tensor number(double value) { return full({}, value, DType::f64).set_requires_grad(); }
Tensor leaf(const Shape& shape, double value = 1, DType dtype = DType::f32) {
  return full(shape, value, dtype).set_requires_grad();
}

TEST(Tape, AccumulatesIntoLeaves) {
  const Tensor x = number(3);
  (x * x).backward();
  EXPECT_EQ(x.grad().item(), 6);
  (x * x).backward();
  EXPECT_EQ(x.grad().item(), 12);
  x.set_grad({});
  EXPECT_FALSE(x.grad().defined());
}

TEST(Tape, SumsOverWhatWasBroadcastAndCastsBack) {
  const Tensor row = leaf({3}, 2, DType::bf16), matrix = leaf({4, 3}, 1, DType::f32);
  sum(row * matrix).backward();
  EXPECT_EQ(row.grad().shape(), Shape({3}));
  EXPECT_EQ(row.grad().dtype(), DType::bf16);
  EXPECT_EQ(row.grad().to_vector<double>(), std::vector<double>(3, 4));
}

TEST(Tape, NoGradRecordsNothing) {
  const Tensor x = number(2);
  {
    const NoGrad off;
    EXPECT_FALSE(grad_enabled());
    EXPECT_FALSE((x * x).requires_grad());
    {
      const GradMode on(true);
      EXPECT_TRUE((x * x).requires_grad());
    }
  }
  EXPECT_TRUE(grad_enabled());
  const NoGrad off;
  std::thread([] { EXPECT_TRUE(grad_enabled()) << "the mode belongs to one thread"; }).join();
}

TEST(Tape, GraphIsUsedOnceUnlessRetained) {
  const Tensor x = number(3);
  const Tensor y = x * x;
  y.backward({}, {.retain_graph = true});
  y.backward();
  EXPECT_EQ(x.grad().item(), 12);
  expect_error<ValueError>([&] { y.backward(); }, "the graph of mul was already used; pass retain_graph");
}

TEST(Tape, CreateGraphGivesHigherDerivatives) {
  const Tensor x = number(2);
  Tensor y = pow(x, 4);
  for (const double wanted : {32.0, 48.0, 48.0, 24.0}) {  // 4x³, 12x², 24x, 24
    y = grad({&y, 1}, {&x, 1}, {}, {.create_graph = true})[0];
    EXPECT_DOUBLE_EQ(y.item(), wanted);
  }
}

TEST(Tape, GradLeavesGradsAlone) {
  const Tensor x = number(3), unused = number(1);
  const Tensor y = x * x, inputs[] = {x, unused};
  const auto found = grad({&y, 1}, inputs);
  EXPECT_EQ(found[0].item(), 6);
  EXPECT_FALSE(found[1].defined());
  EXPECT_FALSE(x.grad().defined());
}

TEST(Tape, ALeafWaitsForAllOperationsThatReadIt) {
  const Tensor x = number(3);
  const Tensor h = x * x, y = x * h;  // the leaf's own node is made after that of h
  EXPECT_EQ(grad({&y, 1}, {&x, 1})[0].item(), 27);
}

TEST(Tape, LeavesOfAResult) {
  const Tensor a = number(1), b = number(2), frozen = full({}, 3, DType::f64);
  EXPECT_EQ(leaves(a * frozen + a * a).size(), 1u);
  EXPECT_EQ(leaves(exp(a) * b).size(), 2u);
  EXPECT_TRUE(leaves(frozen * frozen).empty());
  EXPECT_TRUE(leaves(a)[0].same(a));
}

TEST(Tape, GradOfAnIntermediateResult) {
  const Tensor x = number(3);
  const Tensor h = x * x, y = h * h;
  EXPECT_EQ(grad({&y, 1}, {&h, 1})[0].item(), 18);
}

TEST(Tape, RefusesWhatCannotBeDifferentiated) {
  const Tensor x = leaf({2, 3});
  const Tensor y = x * 2.0, constant = ones({1}), dy = ones({3});
  expect_error<ValueError>([&] { constant.backward(); }, "nothing that this tensor of shape [1] depends on requires a gradient");
  expect_error<ValueError>([&] { y.backward(); }, "a tensor of shape [2, 3] needs a gradient to start from");
  expect_error<ValueError>([&] { y.backward(dy); }, "a gradient of shape [3] for a tensor of shape [2, 3]");
  const Tensor twice[] = {x, x};
  expect_error<ValueError>([&] { grad({&y, 1}, twice); }, "input 1 is given twice");
  expect_error<ValueError>([&] { grad({&y, 1}, {&constant, 1}); }, "input 0 of shape [1] does not require a gradient");
}

TEST(Tape, ChangedCapturesAreRefused) {
  const Tensor x = leaf({2}), w = leaf({2}, 3);
  const Tensor y = sum(x * w);
  w.fill_(4);
  expect_error<ValueError>([&] { y.backward(); },
                           "a tensor of shape [2] that was saved for backward has been changed in place since");
  const Tensor e = exp(x);
  const Tensor z = sum(e);
  e.detach().fill_(0);
  expect_error<ValueError>([&] { z.backward(); }, "the result of exp (shape [2]) has been changed in place since");
  const Tensor s = sum(x * 2.0);
  x.fill_(7);  // nobody needs x for this one
  s.backward();
  EXPECT_EQ(x.grad().to_vector<double>(), std::vector<double>({2, 2}));
}

TEST(Tape, AMillionOperationsDeep) {
  constexpr int depth = 1'000'000;
  const Tensor x = number(1);
  Tensor y = x;
  for (int i = 0; i < depth; ++i) y = i % 2 == 0 ? affine(y, 1, 1e-6) : mul(y, x);
  y.backward();
  EXPECT_NEAR(y.item(), 1 + depth / 2 * 1e-6, 1e-9);
  // Every product adds the value so far.
  double value = 1, slope = 1;
  for (int i = 0; i < depth; ++i) i % 2 == 0 ? value += 1e-6 : slope += value;
  EXPECT_NEAR(x.grad().item() / slope, 1, 1e-9);
}

TEST(Tape, AMillionUnusedOperationsAreDestroyed) {
  const std::int64_t before = memory::live_bytes();
  {
    const Tensor x = number(1);
    Tensor y = x;
    for (int i = 0; i < 1'000'000; ++i) y = mul(y, x);
  }
  EXPECT_EQ(memory::live_bytes(), before);
}

TEST(Tape, AFrozenLayerKeepsNoActivationAlive) {
  const Tensor x = leaf({64, 256}), frozen = full({256, 256}, 0.01);
  const std::int64_t activation = 64 * 256 * 4, before = memory::live_bytes();
  Tensor y = linear(x, frozen);
  for (int i = 0; i < 9; ++i) y = linear(y, frozen);
  EXPECT_EQ(memory::live_bytes() - before, activation) << "only the last result";
  const Tensor trained = leaf({256, 256}, 0.01);
  Tensor z = linear(x, trained);
  for (int i = 0; i < 9; ++i) z = linear(z, trained);
  EXPECT_EQ(memory::live_bytes() - before, activation + 256 * 256 * 4 + 10 * activation) << "the inputs of every trained layer";
  sum(y).backward();
  z.backward(ones(z.shape()));
  x.set_grad({});
  trained.set_grad({});
  EXPECT_EQ(memory::live_bytes() - before, 2 * activation + 256 * 256 * 4) << "backward released the inputs";
}

TEST(Tape, BackwardRunsWithAutocastOff) {
  const Tensor x = leaf({4, 4}, 0.1), w = leaf({4, 4}, 0.3);
  const autocast::Guard guard(test::tested_device().type, DType::bf16);
  const Tensor y = linear(x, w);
  EXPECT_EQ(y.dtype(), DType::bf16);
  sum(y).backward();
  EXPECT_EQ(w.grad().dtype(), DType::f32);
  EXPECT_EQ(autocast::dtype(test::tested_device().type), DType::bf16);
}

TEST(Tape, TwoThreadsRecordAndDifferentiateSharedParameters) {
  const Tensor w = leaf({8, 8}, 0.5);
  std::vector<Tensor> found(2);
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        const Tensor y = sum(linear(ones({2, 8}), w));
        found[static_cast<std::size_t>(t)] = grad({&y, 1}, {&w, 1})[0];
      }
    });
  for (auto& thread : threads) thread.join();
  for (const Tensor& dw : found) EXPECT_EQ(dw.to_vector<double>(), std::vector<double>(64, 2));
}

}  // namespace
}  // namespace graft
