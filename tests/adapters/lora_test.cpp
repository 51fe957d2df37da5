#include "graft/adapters/lora.h"

#include <gtest/gtest.h>

#include <cmath>

#include "graft/adapters/warning.h"
#include "graft/adapters/wrappers.h"
#include "graft/autograd/ops.h"

#include "../support/errors.h"
#include "layers.h"

namespace graft::lora_test {
namespace {

using lora::Options;
using test::distance;
using test::expect_error;
using test::make_base;

const Tensor x = test::random({3, 64}, 5);

std::shared_ptr<lora::LoraAdapter> adapter_of(const AdapterLayer& layer, const std::string& name = "default") {
  return std::dynamic_pointer_cast<lora::LoraAdapter>(layer.adapter(name));
}

/// x Wᵀ + b + Σ s (x Aᵀ Bᵀ + bias), from the definition.
Tensor expected(const AdapterLayer& layer, const std::vector<std::string>& names) {
  Tensor y = layer.base_layer()->forward(x);
  for (const auto& name : names) {
    const auto a = adapter_of(layer, name);
    Tensor share = matmul(matmul(x, a->A.t()), a->B.t());
    if (a->bias.defined()) share = share + a->bias;
    y = y + share * a->scaling();
  }
  return y;
}

TEST(Lora, IsItsFormulaOnEveryFormat) {
  for (const auto& format : test::formats) {
    SCOPED_TRACE(format);
    AdapterLayer layer(make_base(format, 64, 32, true), "test");
    LinearBase& base = *layer.base_layer();
    layer.add_adapter("one", std::make_shared<lora::LoraAdapter>(base, Options{.r = 4, .lora_alpha = 8, .lora_bias = true},
                                                                 Rounding::per_adapter));
    layer.add_adapter("two", std::make_shared<lora::LoraAdapter>(base, Options{.r = 2, .lora_alpha = 3, .use_rslora = true},
                                                                 Rounding::before_scale));
    test::randomise(layer, "one", 1);
    test::randomise(layer, "two", 2);
    layer.set_adapter({"one", "two"});
    EXPECT_LT(distance(layer.forward(x), expected(layer, {"one", "two"})), 2e-5);
  }
}

TEST(Lora, ScalingIsAlphaOverTheRankOrItsRoot) {
  const auto scaling = [](const Options& options) {
    return adapter_of(lora::Linear(make_base("dense", 64, 32), "default", options))->scaling();
  };
  EXPECT_EQ(scaling({.r = 16, .lora_alpha = 8}), 0.5);
  EXPECT_EQ(scaling({.r = 16, .lora_alpha = 8, .use_rslora = true}), 2);
  EXPECT_EQ(scaling({.r = 8}), 0.125);
}

TEST(Lora, RefusesRanksAndProbabilities) {
  const auto made = [](const Options& options) {
    return [options] { lora::Linear(make_base("dense", 64, 32), "default", options); };
  };
  expect_error<ValueError>(made({}), "r is 0, and the rank must be a positive integer");
  expect_error<ValueError>(made({.r = -2}), "r is -2");
  expect_error<ValueError>(made({.r = 2, .lora_dropout = 1}), "lora_dropout is 1, not a probability in [0, 1)");
  expect_error<ValueError>(made({.r = 2, .lora_dropout = -0.5}), "lora_dropout is -0.5");
  expect_error<ValueError>(made({.r = 2, .lora_alpha = std::nan("")}), "lora_alpha is nan, not a finite number");
  expect_error<NotImplementedError>(made({.r = 2, .use_dora = true, .use_qalora = true}),
                                    "use_dora and use_qalora cannot be combined");
  expect_error<ValueError>(made({.r = 2, .use_dora = true, .lora_bias = true}), "lora_bias cannot be combined with use_dora");
}

TEST(Lora, ParametersAreF32BesideAHalfBaseUnlessToldOtherwise) {
  for (const bool autocast : {true, false}) {
    const lora::Linear layer(make_base("dense", 64, 32, false, DType::bf16), "default",
                             {.r = 2, .autocast_adapter_dtype = autocast});
    EXPECT_EQ(adapter_of(layer)->A.dtype(), autocast ? DType::f32 : DType::bf16);
    EXPECT_EQ(layer.forward(to(x, DType::bf16)).dtype(), DType::bf16);
  }
}

TEST(Lora, ItsBiasIsScaledAndMergedIntoTheBases) {
  lora::Linear layer(make_base("dense", 64, 32, true), "default", {.r = 4, .lora_alpha = 8, .lora_bias = true});
  EXPECT_EQ(distance(adapter_of(layer)->bias, Tensor::zeros({32})), 0);
  test::randomise(layer, "default", 1);
  const Tensor y = layer.forward(x), before = layer.bias().clone();
  EXPECT_LT(distance(y, expected(layer, {"default"})), 1e-5);
  layer.merge();
  EXPECT_LT(distance(layer.bias(), before + adapter_of(layer)->bias * 2), 1e-6);
  EXPECT_LT(distance(layer.base_layer()->forward(x), y), 1e-5);
  layer.unmerge();
  EXPECT_LT(distance(layer.bias(), before), 1e-6);

  const adapters::WarningScope warnings;
  lora::Linear(make_base("dense", 64, 32), "default", {.r = 4, .lora_bias = true});
  ASSERT_EQ(warnings.messages().size(), 1u);
  EXPECT_NE(warnings.messages()[0].find("the base layer has no bias"), std::string::npos);
}

TEST(Lora, DropoutDrawsInTrainingOnly) {
  const auto made = [](std::uint64_t seed) {
    auto layer =
        std::make_shared<lora::Linear>(make_base("dense", 64, 32), "default", Options{.r = 4, .lora_dropout = 0.5, .seed = seed});
    for (Tensor* factor : {&adapter_of(*layer)->A, &adapter_of(*layer)->B}) factor->copy_(test::random(factor->shape(), 3));
    return layer;
  };
  const auto a = made(1), same = made(1), other = made(2);
  const Tensor y = a->forward(x);
  EXPECT_EQ(distance(other->forward(x), y), 0);
  for (const auto& layer : {a, same, other}) layer->set_training(true);
  const Tensor first = a->forward(x);
  EXPECT_GT(distance(first, y), 0.1);
  EXPECT_EQ(distance(same->forward(x), first), 0);
  EXPECT_GT(distance(other->forward(x), first), 0.1);
  EXPECT_GT(distance(a->forward(x), first), 0.1);
  Tensor mean = Tensor::zeros(y.shape(), DType::f32, y.device());
  for (int i = 0; i < 400; ++i) mean = mean + a->forward(x).detach() / 400;
  EXPECT_LT(distance(mean, y), 0.2 * distance(first, y)) << "the expectation is what inference computes";
}

// ---- initial values ----

/// The adapter that a scheme makes for a dense base, and the base.
struct Initialised {
  std::shared_ptr<LinearBase> base;
  Tensor before;
  std::shared_ptr<lora::LoraAdapter> adapter;
  Initialised(const InitWeights& scheme, std::int64_t r, DType dtype = DType::f32, double alpha = 6)
      : base(make_base("dense", 64, 32, true, dtype)), before(base->weight().clone()) {
    adapter = std::make_shared<lora::LoraAdapter>(
        *base, Options{.r = r, .lora_alpha = alpha, .init_lora_weights = scheme, .lora_bias = true, .seed = 3}, Rounding::once);
  }
  Tensor product() const { return matmul(adapter->B, adapter->A); }
};

double deviation(const Tensor& t) {
  double square = 0;
  for (const double v : t.to_vector<double>()) square += v * v;
  return std::sqrt(square / static_cast<double>(t.count()));
}
double largest(const Tensor& t) { return distance(t, Tensor::zeros(t.shape(), t.dtype())); }

TEST(LoraInit, UniformOrNormalFactors) {
  const Initialised standard(true, 16), random(false, 16), gaussian("Gaussian", 16);
  EXPECT_LE(largest(standard.adapter->A), 1.0 / 8);
  EXPECT_NEAR(deviation(standard.adapter->A), 1 / (8 * std::sqrt(3.0)), 0.005);
  EXPECT_EQ(largest(standard.adapter->B), 0);
  EXPECT_EQ(largest(standard.adapter->bias), 0);
  EXPECT_EQ(distance(random.adapter->A, standard.adapter->A), 0);
  EXPECT_LE(largest(random.adapter->B), 1.0 / 4);
  EXPECT_NEAR(deviation(random.adapter->B), 1 / (4 * std::sqrt(3.0)), 0.01);
  EXPECT_GT(largest(random.adapter->bias), 0);
  EXPECT_NEAR(deviation(gaussian.adapter->A), 1.0 / 16, 0.005);
  EXPECT_GT(largest(gaussian.adapter->A), 2.5 / 16);
  EXPECT_EQ(largest(gaussian.adapter->B), 0);
  for (const auto* i : {&standard, &random, &gaussian}) EXPECT_EQ(distance(i->base->weight(), i->before), 0);
}

TEST(LoraInit, OrthogonalFactorsCancelThoughNeitherIsZero) {
  const Initialised i("orthogonal", 8);
  EXPECT_LT(largest(i.product()), 1e-6);
  EXPECT_GT(deviation(i.adapter->A), 0.01);
  EXPECT_GT(deviation(i.adapter->B), 0.01);
  EXPECT_EQ(distance(i.base->weight(), i.before), 0);
  expect_error<ValueError>([] { Initialised("orthogonal", 3); }, "'orthogonal' needs an even rank, not 3");
}

TEST(LoraInit, SchemesThatTakeTheWeightApartKeepTheFunction) {
  for (const std::string scheme : {"olora", "pissa", "pissa_niter_16", "PiSSA"}) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(scheme);
      const Initialised i(scheme, 4, dtype);
      EXPECT_GT(distance(i.base->weight(), i.before), 0.01);
      EXPECT_LT(distance(i.base->weight() + i.product() * i.adapter->scaling(), i.before), 1e-6);
    }
  }
}

TEST(LoraInit, OloraTakesTheFirstRowsOfTheQrFactors) {
  const Initialised i("olora", 4);
  EXPECT_LT(distance(matmul(i.adapter->B.t(), i.adapter->B), Tensor::eye(4)), 1e-5);
  // R is upper triangular.
  for (std::int64_t row = 1; row < 4; ++row) EXPECT_EQ(largest(slice(slice(i.adapter->A, 0, row, row + 1), 1, 0, row)), 0);
}

TEST(LoraInit, PissaTakesTheLargestSingularValues) {
  const Initialised exact("pissa", 4, DType::f64), quick("pissa_niter_16", 4, DType::f64);
  const double s = exact.adapter->scaling();
  const auto [u, values, vt] = svd(exact.before);
  const Tensor best = matmul(slice(u, 1, 0, 4) * slice(values, 0, 0, 4), slice(vt, 0, 0, 4));
  EXPECT_LT(distance(exact.product() * s, best), 1e-12);
  const auto left = svd(exact.base->weight()).s.to_vector<double>(), all = values.to_vector<double>();
  EXPECT_NEAR(left[0], all[4], 1e-12);
  // The factors share the singular values evenly.
  EXPECT_LT(distance(matmul(exact.adapter->A, exact.adapter->A.t()), matmul(exact.adapter->B.t(), exact.adapter->B)), 1e-12);
  // The quick decomposition is nearly as good: by Eckart and Young none leaves less.
  const double least = norm(exact.base->weight()).item(), leaves = norm(quick.base->weight()).item();
  EXPECT_GE(leaves, least - 1e-12);
  EXPECT_LT(leaves, 1.02 * least);
}

TEST(LoraInit, RefusesSchemesByReason) {
  const auto on = [](const std::string& format, const std::string& scheme, std::int64_t r = 4) {
    return [=] {
      const auto base = make_base(format, 64, 32);
      lora::LoraAdapter(*base, {.r = r, .init_lora_weights = scheme}, Rounding::once);
    };
  };
  for (const char* scheme : {"olora", "pissa", "pissa_niter_4"}) {
    expect_error<ValueError>(on("dense", scheme, 33), "rank 33 is above the weight's smaller side, 32");
    expect_error<AttributeError>(on("gptq", scheme), "needs a dense weight, which QuantLinear does not have");
    expect_error<AttributeError>(on("awq", scheme), "needs a dense weight, which QuantLinear does not have");
    expect_error<TypeError>(on("eetq", scheme), "needs a floating weight, and an EETQ layer's is int8");
  }
  for (const char* scheme : {"pissa_niter_", "pissa_niter_0", "pissa_niter_-1", "pissa_niter_4x", "pissa2"})
    expect_error<ValueError>(on("dense", scheme), "is neither 'pissa' nor 'pissa_niter_' and a number of iterations");
  for (const char* scheme : {"eva", "corda", "loftq", "lora_ga"})
    expect_error<NotImplementedError>(on("dense", scheme), "is made by a separate pass over data or weights");
  expect_error<ValueError>(on("dense", "kaiming_twice"), "init_lora_weights 'kaiming_twice' is no known scheme");
}

// ---- merging ----

TEST(Lora, SafeMergeRoundsTheChangeFirst) {
  const auto merged = [](bool safe) {
    lora::Linear layer(make_base("dense", 64, 32, false, DType::bf16), "default", {.r = 4, .lora_alpha = 4});
    test::randomise(layer, "default", 1);
    const Tensor delta = adapter_of(layer)->delta_weight(), weight = layer.weight().clone();
    layer.merge(safe);
    const Tensor wanted = to(weight + (safe ? to(delta, DType::bf16) : delta), DType::bf16);
    EXPECT_EQ(distance(layer.weight(), wanted), 0);
    return layer.weight().to_vector<float>();
  };
  EXPECT_NE(merged(false), merged(true));
}

TEST(Lora, MergesNamedAdaptersOnceAndWarnsAboutTheRest) {
  lora::Linear layer(make_base("dense", 64, 32), "a", {.r = 4});
  layer.update_layer("b", {.r = 2});
  test::randomise(layer, "a", 1);
  test::randomise(layer, "b", 2);
  layer.set_adapter({"a", "b"});
  const Tensor both = expected(layer, {"a", "b"}), before = layer.weight().clone();
  layer.merge(false, std::vector<std::string>{"b"});
  EXPECT_EQ(layer.merged_adapters(), std::vector<std::string>{"b"});
  EXPECT_LT(distance(layer.weight(), before + adapter_of(layer, "b")->delta_weight()), 1e-6);
  layer.merge();
  EXPECT_EQ(layer.merged_adapters(), (std::vector<std::string>{"b", "a"}));
  EXPECT_LT(distance(layer.forward(x), both), 1e-5);
  const adapters::WarningScope warnings;
  layer.merge();
  layer.unmerge();
  layer.unmerge();
  ASSERT_EQ(warnings.messages().size(), 2u);
  EXPECT_NE(warnings.messages()[0].find("all adapters are merged already"), std::string::npos);
  EXPECT_NE(warnings.messages()[1].find("nothing is merged"), std::string::npos);
}

}  // namespace
}  // namespace graft::lora_test
