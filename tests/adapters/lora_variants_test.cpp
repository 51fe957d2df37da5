#include "graft/adapters/lora_variants.h"

#include <gtest/gtest.h>

#include "graft/adapters/routing.h"
#include "graft/adapters/warning.h"
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"
#include "graft/quant/pack_checkpoint.h"
#include "graft/quant/quant_linear.h"
#include "graft/quant/round_to_nearest.h"

#include "../support/errors.h"
#include "../support/tested.h"
#include "layers.h"

namespace graft::lora_variants_test {
namespace {

using lora::DoraLinearVariant;
using lora::Options;
using lora::QALoraLinearVariant;
using test::distance;
using test::expect_error;
using test::make_base;

constexpr int last[] = {-1};
const Tensor x = test::random({3, 64}, 5);

double largest(const Tensor& t) { return distance(t, Tensor::zeros(t.shape(), t.dtype())); }

/// A layer with one variant, which does something unless it is fresh.
template <class Variant>
struct Layer {
  std::shared_ptr<AdapterLayer> layer;
  std::shared_ptr<Variant> adapter;
  Layer(const std::string& format, const Options& options, bool fresh = false)
      : layer(std::make_shared<AdapterLayer>(make_base(format, 64, 32, true), "test")),
        adapter(std::make_shared<Variant>(*layer->base_layer(), options, Rounding::per_adapter)) {
    layer->add_adapter("default", adapter);
    if (!fresh) test::randomise(*layer, "default", 1);
  }
  Tensor weight() const {
    const LinearBase& base = *layer->base_layer();
    const Tensor dense = dense_weight(base);
    return dense.defined() ? dense : to(dynamic_cast<const quant::QuantLinear&>(base).dequantize(0, 32), test::tested_device());
  }
};

// ---- DoRA ----

TEST(Dora, IsItsDefinitionOnEveryFormat) {
  for (const auto& format : test::formats) {
    SCOPED_TRACE(format);
    const Layer<DoraLinearVariant> l(format, {.r = 4, .lora_alpha = 8});
    const Tensor changed = l.weight() + matmul(l.adapter->B, l.adapter->A) * 2.0;
    const Tensor scale = l.adapter->magnitude / norm(changed, last);
    const Tensor wanted = matmul(x, changed.t()) * scale + l.layer->bias();
    EXPECT_LT(distance(l.layer->forward(x), wanted), 1e-5 * largest(wanted));
  }
}

TEST(Dora, MagnitudeStartsAsTheNormsOfTheWeight) {
  for (const auto& format : test::formats) {
    const Layer<DoraLinearVariant> l(format, {.r = 4}, true);
    const Tensor norms = norm(l.weight(), last);
    EXPECT_LT(distance(l.adapter->magnitude, norms), 1e-6 * largest(norms)) << format;
    EXPECT_EQ(distance(l.layer->forward(x), l.layer->base_layer()->forward(x)), 0) << format;
  }
}

TEST(Dora, DropoutReachesTheChangeAndLeavesTheBaseAlone) {
  for (const auto& format : test::formats) {
    SCOPED_TRACE(format);
    const Layer<DoraLinearVariant> l(format, {.r = 4, .lora_alpha = 8, .lora_dropout = 0.5, .seed = 9});
    Generator random{9, 1};  // initial values took the first stream
    const Tensor dropped = dropout(x, 0.5, random), weight = l.weight();
    const Tensor change = matmul(l.adapter->B, l.adapter->A) * 2.0;
    const Tensor g = l.adapter->magnitude / norm(weight + change, last);
    const Tensor wanted =
        matmul(x, weight.t()) + (g - 1) * matmul(dropped, weight.t()) + g * matmul(dropped, change.t()) + l.layer->bias();
    l.layer->set_training(true);
    EXPECT_LT(distance(l.layer->forward(x), wanted), 1e-5 * largest(wanted));
  }
}

TEST(Dora, MergesWithItsMagnitudeAndComesOutAgain) {
  const Layer<DoraLinearVariant> l("dense", {.r = 4});
  const Tensor y = l.layer->forward(x), before = l.layer->weight().clone();
  expect_error<ValueError>([&] { l.adapter->unmerged(before); }, "dora: this adapter was not merged, or not by this process");
  l.layer->merge();
  EXPECT_LT(distance(l.layer->base_layer()->forward(x), y), 1e-5 * largest(y));
  EXPECT_LT(distance(norm(l.layer->weight(), last), l.adapter->magnitude), 1e-5);
  l.adapter->magnitude.fill_(7);  // what is taken out is what was put in
  l.layer->unmerge();
  EXPECT_LT(distance(l.layer->weight(), before), 1e-6);
}

TEST(Dora, GradientsPassTheNormsBy) {
  const Layer<DoraLinearVariant> l("gptq", {.r = 4});
  l.adapter->A.set_grad({});
  sum(l.layer->forward(x)).backward();
  const auto& [A, B, m] = std::tie(l.adapter->A, l.adapter->B, l.adapter->magnitude);
  // With ν a constant, ∂/∂m is (y − b)/m, summed over rows.
  const Tensor wanted = sum(l.layer->forward(x).detach() - l.layer->bias(), std::vector<int>{0}) / m.detach();
  EXPECT_LT(distance(m.grad(), wanted), 1e-4 * largest(wanted));
  EXPECT_TRUE(A.grad().defined() && B.grad().defined());
}

TEST(Dora, NeverHoldsAQuantizedWeightInFloat) {
  constexpr std::int64_t in = 768, out = 1024;
  const Tensor wide = test::random({2, in}, 6);
  for (const auto& format : test::formats) {
    if (format == "dense") continue;
    AdapterLayer layer(make_base(format, in, out), "test");
    const std::int64_t before = memory::live_bytes();
    memory::reset_peak();
    layer.add_adapter("default", std::make_shared<DoraLinearVariant>(*layer.base_layer(), Options{.r = 4}, Rounding::once));
    sum(layer.forward(wide)).backward();
    EXPECT_LT(memory::peak_bytes() - before, in * out * static_cast<std::int64_t>(sizeof(float)) / 2) << format;
  }
}

TEST(Dora, WhatServingKeepsFollowsEverythingThatItComesFrom) {
  for (const auto& format : test::formats) {
    SCOPED_TRACE(format);
    const Layer<DoraLinearVariant> l(format, {.r = 4, .lora_alpha = 8});
    AdapterLayer& layer = *l.layer;
    const auto serve = [&] { return layer.forward(x).to_vector<float>(); };
    const auto computed = [&] {  // without dropout a training call gives the same numbers, and keeps nothing
      layer.set_training(true);
      const auto y = serve();
      layer.set_training(false);
      return y;
    };
    auto before = serve();
    const auto expect_another = [&](const char* what) {
      const auto y = serve();
      EXPECT_NE(y, before) << what;
      EXPECT_EQ(y, computed()) << what;
      EXPECT_EQ(serve(), y) << what;
      before = y;
    };
    EXPECT_EQ(before, computed());
    l.adapter->A.copy_(l.adapter->A.detach() * 2);
    expect_another("A");
    l.adapter->B.copy_(l.adapter->B.detach() * 2);
    expect_another("B");
    l.adapter->B = l.adapter->B.detach() * 0.5;
    expect_another("another B");
    l.adapter->set_scale(3);
    expect_another("the scaling");
    if (format == "dense") {
      layer.weight().copy_(layer.weight() * 1.5);
      expect_another("the weight");
    }
    // Another base of the same sizes, whose norms differ.
    auto other = test::make_base(format, 64, 32, true);
    if (format == "dense") other = std::make_shared<graft::Linear>(test::random({32, 64}, 77, DType::f32, 0.3), other->bias());
    else {
      auto q = std::dynamic_pointer_cast<quant::QuantLinear>(other);
      const Tensor weight = q->dequantize(0, 32);
      quant::Grid grid = quant::eetq_grid();
      const Tensor bias = to(q->bias(), Device::cpu());
      other = quant::make_layer(quant::to_stored(quant::round_to_nearest(weight * 1.5 + 0.01, grid), "plain", bias));
      to(*other, test::tested_device());
    }
    layer.replace_base(other);
    expect_another("the base");
    const Tensor changed = l.weight() + l.adapter->delta_weight();
    const Tensor wanted = matmul(x, changed.t()) * (l.adapter->magnitude / norm(changed, last)) + layer.bias();
    EXPECT_LT(distance(layer.forward(x), wanted), 1e-5 * largest(wanted)) << "norms are those of the base that is there now";
  }
}

TEST(Dora, NormsAreNotLoweredByAutocast) {
  for (const auto& format : test::formats) {
    SCOPED_TRACE(format);
    const Layer<DoraLinearVariant> l(format, {.r = 4, .lora_alpha = 8});
    for (const bool training : {false, true}) {
      l.layer->set_training(training);
      const Tensor wanted = [&] {
        const Tensor changed = l.weight() + l.adapter->delta_weight();
        return l.adapter->magnitude / norm(changed, last);
      }();
      const autocast::Guard guard(test::tested_device().type, DType::bf16);
      // With a base output of ones, what output() returns beside the low-rank part is g itself.
      const Tensor bias = l.layer->bias();
      const Tensor ones = Tensor::ones({1, 32}, DType::f32, bias.device()), none = Tensor::zeros({1, 64}, DType::f32, bias.device());
      const Tensor g = l.adapter->output(ones + bias, none, {*l.layer->base_layer(), training}) - bias;
      EXPECT_LT(distance(g, reshape(wanted, {1, 32})), 1e-4 * largest(wanted));
    }
  }
}

TEST(Dora, NeedsTheNormsOfAWeight) {
  const auto wrapped = std::make_shared<AdapterLayer>(make_base("gptq", 64, 32), "outer");
  expect_error<AttributeError>([&] { DoraLinearVariant(*wrapped, {.r = 2}, Rounding::once); },
                               "DoRA needs the norms of a weight, which outer does not have");
}

// ---- QA-LoRA ----

TEST(QALora, SeesPooledInputsInThreeScales) {
  for (const auto& [scale, factor] :
       {std::pair{QALoraScale::peft, 4.0}, {QALoraScale::paper, 16.0}, {QALoraScale::authors, 1.0}}) {
    const Layer<QALoraLinearVariant> l("gptq", {.r = 4, .lora_alpha = 8, .qalora_group_size = 16, .qalora_scale = scale});
    ASSERT_EQ(l.adapter->A.shape(), (Shape{4, 4}));
    const Tensor pooled = mean(reshape(x, {3, 4, 16}), last) * factor;
    const Tensor change = matmul(matmul(pooled, l.adapter->A.t()), l.adapter->B.t()) * 2.0;
    EXPECT_LT(distance(l.layer->forward(x), l.layer->base_layer()->forward(x) + change), 1e-5 * largest(change));

    // The same as one number per output and group.
    const Tensor per_feature = reshape(expand(unsqueeze(l.adapter->group_delta(), 2), {32, 4, 16}), {32, 64});
    EXPECT_LT(distance(matmul(x, per_feature.t()), change), 1e-5 * largest(change));
  }
}

TEST(QALora, AGroupMayBeOneFeature) {
  const Layer<QALoraLinearVariant> l("gptq", {.r = 4, .lora_alpha = 8, .qalora_group_size = 1});
  const Tensor change = matmul(matmul(x * 64.0, l.adapter->A.t()), l.adapter->B.t()) * 2.0;  // PEFT's scale: as many groups
  const Tensor wanted = l.layer->base_layer()->forward(x) + change;
  const auto gradients = [&](const Tensor& y) {
    const Tensor dy = Tensor::ones(y.shape(), y.dtype(), y.device());
    return grad({&y, 1}, std::vector{l.adapter->A, l.adapter->B}, {&dy, 1});
  };
  const auto got = gradients(l.layer->forward(x)), want = gradients(wanted);
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_LT(distance(got[i], want[i]), 1e-5 * largest(want[i]));
  EXPECT_LT(distance(l.layer->forward(x), wanted), 1e-5 * largest(change));
  const NoGrad no_grad;
  EXPECT_LT(distance(l.layer->forward(x), wanted), 1e-5 * largest(change));
}

// In half precision under autocast as well, with means that are no halves.
TEST(QALora, InAMixedBatchAnAdapterIsWhatItIsAlone) {
  const Layer<QALoraLinearVariant> l("gptq",
                                     {.r = 4, .lora_alpha = 8, .qalora_group_size = 8, .qalora_scale = QALoraScale::paper});
  l.layer->set_training(false);
  const NoGrad no_grad;
  const Tensor half = to(x * 1.7, DType::bf16);
  const autocast::Guard guard(test::tested_device().type, DType::bf16);
  const Tensor alone = l.layer->forward(half);
  const adapters::MixedBatch mixed(*l.layer, {"default", "default", adapters::base_name});
  const Tensor some = l.layer->forward(half);
  EXPECT_EQ(slice(some, 0, 0, 2).to_vector<double>(), slice(alone, 0, 0, 2).to_vector<double>());
  EXPECT_NE(slice(some, 0, 2, 3).to_vector<double>(), slice(alone, 0, 2, 3).to_vector<double>());
}

TEST(QALora, DropsFeaturesBeforePooling) {
  const Layer<QALoraLinearVariant> l("gptq", {.r = 4, .lora_alpha = 4, .lora_dropout = 0.5, .seed = 9});
  Generator random{9, 1};
  const Tensor pooled = mean(reshape(dropout(x, 0.5, random), {3, 2, 32}), last) * 2.0;
  const Tensor change = matmul(matmul(pooled, l.adapter->A.t()), l.adapter->B.t());
  l.layer->set_training(true);
  EXPECT_LT(distance(l.layer->forward(x), l.layer->base_layer()->forward(x) + change), 1e-5 * largest(change));
}

TEST(QALora, TakesTheGaussianSchemeInAnySpelling) {
  const auto base = test::make_base("gptq", 64, 32);
  for (const std::string scheme : {"gaussian", "Gaussian", "GAUSSIAN"}) {
    const Options options{.r = 4, .init_lora_weights = scheme, .use_qalora = true, .seed = 3};
    const QALoraLinearVariant adapter(*base, options, Rounding::per_adapter);
    EXPECT_EQ(test::distance(adapter.B, Tensor::zeros({32, 4})), 0) << scheme;
  }
}

TEST(QALora, RefusesWhatItCannotDo) {
  const auto made = [](const Options& options) { return [options] { Layer<QALoraLinearVariant>("gptq", options); }; };
  expect_error<ValueError>(made({.r = 2, .qalora_group_size = 24}), "qalora_group_size (24) must divide in_features (64)");
  expect_error<ValueError>(made({.r = 2, .qalora_group_size = 0}), "qalora_group_size (0) must divide in_features (64)");
  expect_error<ValueError>(made({.r = 2, .init_lora_weights = std::string("pissa")}),
                           "use_qalora takes init_lora_weights true, false or 'gaussian', not 'pissa'");
  const Layer<QALoraLinearVariant> l("dense", {.r = 2});
  expect_error<NotImplementedError>([&] { l.layer->merge(); }, "qalora: merge into a dense weight is not offered");
  expect_error<NotImplementedError>([&] { l.layer->merge(true); }, "qalora: safe_merge into a dense weight is not offered");
  expect_error<NotImplementedError>([&] { l.adapter->unmerged(l.weight()); },
                                    "qalora: unmerge from a dense weight is not offered");
  expect_error<NotImplementedError>([&] { l.adapter->delta_weight(); }, "see group_delta()");

  const adapters::WarningScope warnings;
  const Layer<QALoraLinearVariant> biased("gptq", {.r = 2, .lora_bias = true}), plain("gptq", {.r = 2});
  ASSERT_EQ(warnings.messages().size(), 1u);
  EXPECT_NE(warnings.messages()[0].find("the bias of lora_B is kept but not applied"), std::string::npos);
  EXPECT_EQ(distance(biased.adapter->A, plain.adapter->A), 0);
}

TEST(Variants, AreResolvedByTheirFlags) {
  const auto base = make_base("gptq", 64, 32);
  EXPECT_EQ(lora::resolve_lora_variant(false, false), nullptr);
  EXPECT_EQ(lora::resolve_lora_variant(true, false)(*base, {.r = 2}, Rounding::once)->method(), "dora");
  EXPECT_EQ(lora::resolve_lora_variant(false, true)(*base, {.r = 2}, Rounding::once)->method(), "qalora");
  expect_error<NotImplementedError>([] { lora::resolve_lora_variant(true, true); }, "use_dora and use_qalora cannot be combined");
}

}  // namespace
}  // namespace graft::lora_variants_test
