#include "graft/autograd/optim.h"

#include <gtest/gtest.h>

#include <cmath>

#include "graft/autograd/ops.h"
#include "graft/core/parallel.h"

#include "../support/errors.h"
#include "../support/tested.h"

namespace graft {
namespace {

using test::expect_error;

Tensor tensor(const std::vector<double>& values, const Shape& shape, DType dtype) {
  return to(to(Tensor::from(values, shape), dtype), test::tested_device());
}
Tensor parameter(const std::vector<double>& values, DType dtype = DType::f64) {
  return tensor(values, {static_cast<std::int64_t>(values.size())}, dtype).set_requires_grad();
}

void set_grad(const Tensor& p, const std::vector<double>& values) { p.set_grad(tensor(values, p.shape(), p.dtype())); }

void expect_near(const Tensor& x, const std::vector<double>& wanted, double tolerance) {
  const auto values = x.to_vector<double>();
  ASSERT_EQ(values.size(), wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(values[i], wanted[i], tolerance) << i;
}

// AdamW as its paper writes it (Loshchilov and Hutter, 2019, algorithm 2), one number at a time.
struct PaperAdamW {
  AdamWOptions o;
  explicit PaperAdamW(const AdamWOptions& options) : o(options) {}
  double m = 0, v = 0;
  int t = 0;
  double step(double x, double g) {
    ++t;
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    const double m_hat = m / (1 - std::pow(o.beta1, t)), v_hat = v / (1 - std::pow(o.beta2, t));
    return x - o.lr * o.weight_decay * x - o.lr * m_hat / (std::sqrt(v_hat) + o.eps);
  }
};

TEST(AdamW, FollowsThePaper) {
  const AdamWOptions options{.lr = 0.01, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1};
  const Tensor p = parameter({1, -2, 0.5});
  AdamW optimizer({{"p", p}}, options);
  std::vector<PaperAdamW> paper(3, PaperAdamW(options));
  std::vector<double> wanted{1, -2, 0.5};
  for (int step = 0; step < 20; ++step) {
    std::vector<double> g{std::sin(step), 0.1 * step - 1, 1e-7 * (step % 3)};
    set_grad(p, g);
    optimizer.step();
    for (std::size_t i = 0; i < 3; ++i) wanted[i] = paper[i].step(wanted[i], g[i]);
    expect_near(p, wanted, 1e-14);
  }
}

TEST(AdamW, FirstStepByHand) {
  // m̂ = g, v̂ = g²: every element moves by lr·g/(|g| + eps), after decaying by 1 − lr·weight_decay.
  const Tensor p = parameter({1, -2});
  AdamW optimizer({{"p", p}}, {.lr = 0.1, .eps = 0.5, .weight_decay = 0.2});
  set_grad(p, {0.5, -1.5});
  optimizer.step();
  expect_near(p, {0.98 - 0.05, -1.96 + 0.1 * 1.5 / 2}, 1e-15);
}

TEST(AdamW, ViewsTakeTheSameStepAsDenseParameters) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const std::vector<double> values{1, 2, 3, 4, 5, 6};
    Tensor dense = tensor(values, {2, 3}, dtype), other = tensor(values, {3, 2}, dtype).t();
    other.copy_(dense);
    ASSERT_FALSE(other.is_contiguous());
    other = other.detach();
    dense.set_requires_grad();
    other.set_requires_grad();
    AdamW a({{"p", dense}}, {.lr = 0.125}), b({{"p", other}}, {.lr = 0.125});
    SGD c({{"p", dense}}, {.lr = 0.125, .momentum = 0.5, .weight_decay = 0.25, .nesterov = true}),
        d({{"p", other}}, {.lr = 0.125, .momentum = 0.5, .weight_decay = 0.25, .nesterov = true});
    for (int step = 0; step < 3; ++step) {
      const Tensor g = tensor({-1, 0.5, 2, 0.25, 1, -3}, {2, 3}, dtype);
      dense.set_grad(g);
      other.set_grad(g);
      a.step();
      b.step();
      c.step();
      d.step();
    }
    const auto x = dense.to_vector<double>(), y = other.to_vector<double>();
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], dtype == DType::bf16 ? 0.02 : 1e-6) << name(dtype);
  }
}

TEST(SGD, MomentumAndNesterovByHand) {
  const Tensor p = parameter({1}), q = parameter({1});
  SGD plain({{"p", p}}, {.lr = 0.1, .momentum = 0.9, .weight_decay = 0.5});
  SGD nesterov({{"q", q}}, {.lr = 0.1, .momentum = 0.9, .weight_decay = 0.5, .nesterov = true});
  set_grad(p, {2});
  set_grad(q, {2});
  plain.step();
  nesterov.step();
  expect_near(p, {1 - 0.1 * 2.5}, 1e-15);  // d = 2 + 0.5·1, buffer = d
  expect_near(q, {1 - 0.1 * (2.5 + 0.9 * 2.5)}, 1e-15);
  plain.step();
  const double d = 2 + 0.5 * 0.75;
  expect_near(p, {0.75 - 0.1 * (0.9 * 2.5 + d)}, 1e-15);
}

TEST(Optimizer, LeavesParametersWithoutGradientsAlone) {
  const Tensor p = parameter({1}), q = parameter({1});
  AdamW optimizer({{"p", p}, {"q", q}});
  set_grad(q, {1});
  const auto version = p.version();
  optimizer.step();
  EXPECT_EQ(p.item(), 1);
  EXPECT_EQ(p.version(), version);
  EXPECT_NE(q.item(), 1);
  optimizer.zero_grad();
  EXPECT_FALSE(q.grad().defined());
}

TEST(Optimizer, StepsAreChangesInPlaceThatBackwardNotices) {
  const Tensor w = parameter({2}), x = parameter({3});
  const Tensor y = sum(w * x);
  set_grad(w, {1});
  SGD({{"w", w}}).step();
  expect_error<ValueError>([&] { y.backward(); }, "changed in place");
}

TEST(Optimizer, GroupsHaveTheirOwnOptionsAndShareTheSchedule) {
  const Tensor p = parameter({1}), q = parameter({1});
  SGD optimizer(std::vector<SGD::Group>{{{{"p", p}}, {.lr = 1}}, {{{"q", q}}, {.lr = 0.1}}});
  optimizer.set_lr_scale(0.5);
  set_grad(p, {1});
  set_grad(q, {1});
  optimizer.step();
  EXPECT_DOUBLE_EQ(p.item(), 0.5);
  EXPECT_DOUBLE_EQ(q.item(), 0.95);
}

TEST(Optimizer, ResumedStateContinuesWithTheSameBits) {
  const std::vector<double> gradient{0.3, -0.7};
  const Tensor p = parameter({1, 2}, DType::f32), q = parameter({1, 2}, DType::f32);
  AdamW through({{"p", p}}), before({{"p", q}}), after({{"p", q}});
  for (int step = 0; step < 6; ++step) {
    set_grad(p, gradient);
    through.step();
    set_grad(q, gradient);
    if (step == 3) {
      std::vector<NamedTensor> saved;
      for (const auto& [name, tensor] : before.state()) saved.push_back({name, tensor.clone()});
      after.load_state(saved);
    }
    (step < 3 ? before : after).step();
  }
  EXPECT_EQ(p.to_vector<float>(), q.to_vector<float>());
}

TEST(Optimizer, HalfParametersKeepTheirStateInFloat) {
  const Tensor p = parameter({1}, DType::bf16);
  AdamW optimizer({{"p", p}}, {.lr = 0.5, .weight_decay = 0});
  for (int step = 0; step < 3; ++step) {
    set_grad(p, {1e-3});
    optimizer.step();
  }
  EXPECT_EQ(p.dtype(), DType::bf16);
  EXPECT_NEAR(p.item(), -0.5, 0.01);
  EXPECT_EQ(optimizer.state()[0].name, "p.exp_avg");
  EXPECT_EQ(optimizer.state()[0].tensor.dtype(), DType::f32);
  EXPECT_EQ(optimizer.state()[2].name, "p.step");
  EXPECT_EQ(optimizer.state()[2].tensor.item(), 3);
}

TEST(Optimizer, RefusesStatesThatDoNotFitAndChangesNothing) {
  const Tensor p = parameter({1, 2});
  AdamW optimizer({{"p", p}});
  set_grad(p, {1, 1});
  optimizer.step();
  const auto good = optimizer.state();
  const auto moment = good[0].tensor.to_vector<double>();
  auto load = [&](auto change) {
    std::vector<NamedTensor> state;
    for (const auto& [name, tensor] : good) state.push_back({name, Tensor::zeros(tensor.shape(), tensor.dtype())});
    change(state);
    optimizer.load_state(state);
  };
  using State = std::vector<NamedTensor>;
  expect_error<ValueError>([&] { load([](State& s) { s.pop_back(); }); }, "AdamW: the state has no entry p.step");
  expect_error<ValueError>([&] { load([](State& s) {
                                   s.push_back({"other", Tensor::zeros({})});
                                 }); },
                           "AdamW: the state has an entry other that belongs to no parameter");
  expect_error<ValueError>([&] { load([](State& s) { s.push_back(s[0]); }); }, "AdamW: the state names an entry twice");
  expect_error<ValueError>([&] { load([](State& s) { s[1].tensor = Tensor::zeros({3}, DType::f64); }); },
                           "AdamW: state entry p.exp_avg_sq is f64[3], wanted f64[2]");
  EXPECT_EQ(good[0].tensor.to_vector<double>(), moment);
  SGD plain({{"p", p}});
  EXPECT_TRUE(plain.state().empty());
  expect_error<ValueError>([&] { plain.load_state(good); }, "SGD: the state has an entry p.exp_avg that belongs to no parameter");
}

TEST(Optimizer, RefusesImpossibleOptionsAndParameters) {
  const Tensor p = parameter({1});
  expect_error<ValueError>([&] { AdamW({{"p", p}}, {.lr = -1}); }, "AdamW: lr is -1, which is not in [0, inf)");
  expect_error<ValueError>([&] { AdamW({{"p", p}}, {.beta2 = 1}); }, "AdamW: beta2 is 1, which is not in [0, 1)");
  expect_error<ValueError>([&] { SGD({{"p", p}}, {.nesterov = true}); }, "SGD: nesterov needs a momentum above 0");
  expect_error<ValueError>([&] { AdamW({{"p", p}, {"p", p}}); }, "AdamW: parameter p is given twice");
  expect_error<ValueError>([&] { AdamW({{"p", Tensor()}}); }, "AdamW: parameter p is undefined");
  expect_error<TypeError>([&] { SGD({{"p", Tensor::zeros({2}, DType::i32)}}); }, "SGD: parameter p has elements of type i32");
}

TEST(Optimizer, SameBitsOnAnyNumberOfThreads) {
  std::vector<float> first;
  double first_norm = 0;
  for (const int threads : {1, 2, 3, 7}) {
    set_thread_pool(make_thread_pool(threads));
    Generator generator{5, 0};
    Tensor p = uniform({300, 301}, -1, 1, generator);
    p.set_requires_grad();
    AdamW optimizer({{"p", p}});
    for (int step = 0; step < 2; ++step) {
      p.set_grad(uniform(p.shape(), -1, 1, generator));
      const double norm = clip_grad_norm(optimizer.parameters(), 1);
      if (first_norm == 0) first_norm = norm;
      if (step == 0) {
        EXPECT_EQ(norm, first_norm);
      }
      optimizer.step();
    }
    if (first.empty()) first = p.to_vector<float>();
    EXPECT_EQ(p.to_vector<float>(), first) << threads;
  }
  set_thread_pool(nullptr);
}

TEST(ClipGradNorm, ScalesTheGlobalNorm) {
  const Tensor p = parameter({1, 1}), q = parameter({1}, DType::f32), idle = parameter({1});
  const std::vector<NamedTensor> all{{"p", p}, {"q", q}, {"idle", idle}};
  set_grad(p, {2, 4});
  set_grad(q, {4});
  EXPECT_DOUBLE_EQ(clip_grad_norm(all, 0), 6);
  EXPECT_DOUBLE_EQ(clip_grad_norm(all, 10), 6);
  expect_near(p.grad(), {2, 4}, 0);
  EXPECT_DOUBLE_EQ(clip_grad_norm(all, 3), 6);
  expect_near(p.grad(), {2 * 3 / (6 + 1e-6), 4 * 3 / (6 + 1e-6)}, 1e-15);
  expect_near(q.grad(), {4 * 3 / (6 + 1e-6)}, 1e-7);
}

TEST(ClipGradNorm, RefusesABoundThatIsNone) {
  const Tensor p = parameter({1});
  set_grad(p, {2});
  expect_error<ValueError>(
      [&] {
        clip_grad_norm({{"p", p}}, std::numeric_limits<double>::quiet_NaN());
      },
      "clip_grad_norm: max_norm = nan, and a number from 0 is wanted");
  expect_error<ValueError>([&] { clip_grad_norm({{"p", p}}, -1); }, "clip_grad_norm: max_norm = -1");
  EXPECT_EQ(clip_grad_norm({{"p", p}}, std::numeric_limits<double>::infinity()), 2);
  expect_near(p.grad(), {2}, 0);
}

TEST(ClipGradNorm, ScalesSharedGradientsOnce) {
  const Tensor p = parameter({1}), q = parameter({1});
  sum((p + q) * 3.0).backward();  // both leaves may hold one tensor
  EXPECT_NEAR(clip_grad_norm({{"p", p}, {"q", q}}, 1), std::sqrt(18), 1e-15);
  EXPECT_NEAR(p.grad().item(), std::sqrt(0.5), 1e-6);
  EXPECT_NEAR(q.grad().item(), std::sqrt(0.5), 1e-6);
}

TEST(Schedules, WarmUpAndDecay) {
  EXPECT_DOUBLE_EQ(linear_schedule(0, 4, 12), 0);
  EXPECT_DOUBLE_EQ(linear_schedule(2, 4, 12), 0.5);
  EXPECT_DOUBLE_EQ(linear_schedule(4, 4, 12), 1);
  EXPECT_DOUBLE_EQ(linear_schedule(10, 4, 12), 0.25);
  EXPECT_DOUBLE_EQ(linear_schedule(12, 4, 12), 0);
  EXPECT_DOUBLE_EQ(linear_schedule(99, 4, 12), 0);
  EXPECT_DOUBLE_EQ(linear_schedule(0, 0, 12), 1);
  EXPECT_DOUBLE_EQ(cosine_schedule(2, 4, 12), 0.5);
  EXPECT_DOUBLE_EQ(cosine_schedule(4, 4, 12), 1);
  EXPECT_DOUBLE_EQ(cosine_schedule(8, 4, 12), 0.5);
  EXPECT_NEAR(cosine_schedule(12, 4, 12), 0, 1e-15);
  EXPECT_DOUBLE_EQ(linear_schedule(5, 5, 5), 0);
}

}  // namespace
}  // namespace graft
