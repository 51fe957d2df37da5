#include "graft/adapters/adalora.h"

#include <gtest/gtest.h>

#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/peft_io.h"
#include "graft/autograd/ops.h"

#include "../support/errors.h"
#include "../support/tested.h"
#include "layers.h"

namespace graft::adalora_test {
namespace {

using adalora::AdaLoraAdapter;
using adalora::Options;
using adalora::SVDLinear;
using test::distance;
using test::expect_error;
using test::make_base;

const Tensor x = test::random({3, 64}, 5);

std::shared_ptr<AdaLoraAdapter> adapter_of(const AdapterLayer& layer) {
  return std::dynamic_pointer_cast<AdaLoraAdapter>(layer.adapter("default"));
}

std::shared_ptr<AdapterLayer> layer_with(const std::string& format, const Options& options) {
  std::shared_ptr<AdapterLayer> layer;
  if (format == "dense") layer = std::make_shared<SVDLinear>(make_base(format, 64, 32), "default", options);
  else layer = std::make_shared<adalora::SVDQuantLinear>(make_base(format, 64, 32), "default", options);
  test::randomise(*layer, "default", 1);
  return layer;
}

TEST(AdaLora, IsItsFormulaOnEveryFormat) {
  for (const auto& format : test::formats) {
    const auto layer = layer_with(format, {.r = 4, .lora_alpha = 6});
    const auto a = adapter_of(*layer);
    const Tensor share = matmul(matmul(x, (a->A * a->E).t()), a->B.t()) * (6 / (4 + 1e-5));
    EXPECT_LT(distance(layer->forward(x), layer->base_layer()->forward(x) + share), 1e-5) << format;
    layer->set_scale("default", 0.5);
    EXPECT_LT(distance(layer->forward(x), layer->base_layer()->forward(x) + share * 0.5), 1e-5) << format;
  }
}

TEST(AdaLora, ScalesByAlphaOrByTheRankWithoutOne) {
  EXPECT_EQ(adapter_of(*layer_with("dense", {.r = 4, .lora_alpha = 6}))->scaling(), 6);
  EXPECT_EQ(adapter_of(*layer_with("dense", {.r = 4, .lora_alpha = 0}))->scaling(), 4);
}

TEST(AdaLora, RanknumStaysWhatTrainingBeganWith) {
  Options options{.r = 4, .kept = {true, false, false, true}};
  const auto layer = layer_with("dense", options);
  EXPECT_EQ(adapter_of(*layer)->A.shape(), (Shape{2, 64}));
  EXPECT_EQ(adapter_of(*layer)->ranknum.item(), 4);
}

TEST(AdaLora, WithoutADirectionALayerIsItsBase) {
  for (const Options& options : {Options{.r = 0}, Options{.r = 2, .kept = {false, false}}}) {
    const auto layer = std::make_shared<SVDLinear>(make_base("dense", 64, 32), "default", options);
    const Tensor weight = layer->weight().clone();
    EXPECT_EQ(distance(layer->forward(x), layer->base_layer()->forward(x)), 0);
    layer->merge();
    layer->unmerge();
    EXPECT_EQ(distance(layer->weight(), weight), 0);
  }
}

TEST(AdaLora, MergesOnDenseLayersOnly) {
  for (const bool safe : {false, true}) {
    const auto layer = layer_with("dense", {.r = 4});
    const Tensor y = layer->forward(x), before = layer->weight().clone();
    layer->merge(safe);
    EXPECT_LT(distance(layer->base_layer()->forward(x), y), 1e-5);
    layer->unmerge();
    EXPECT_LT(distance(layer->weight(), before), 1e-6);
  }
  for (const char* format : {"gptq", "awq", "eetq"})
    expect_error<NotImplementedError>([&] { layer_with(format, {.r = 4})->merge(); }, "holds packed integers");
}

TEST(AdaLora, RefusesWhatMakesNoSense) {
  expect_error<ValueError>([] { layer_with("dense", {.r = -1}); }, "r is -1");
  expect_error<ValueError>([] { layer_with("dense", {.r = 2, .lora_dropout = 1}); }, "lora_dropout is 1");
  expect_error<ValueError>([] { layer_with("dense", {.r = 2, .lora_alpha = std::nan("")}); },
                           "lora_alpha is nan, not a finite number");
  expect_error<ValueError>([] { layer_with("dense", {.r = 2, .init_lora_weights = std::string("gaussian")}); },
                           "init_lora_weights is true or false");
  expect_error<ValueError>([] { layer_with("dense", {.r = 2, .kept = {true}}); },
                           "rank_pattern has 1 entries for an initial rank of 2");
}

TEST(AdaLora, DirectionsThatAreSwitchedOffAreNotSaved) {
  const AdaLoraConfig config{
      .target_r = 2, .init_r = 4, .total_step = 10, .target_modules = {"q_proj"}, .init_lora_weights = false};
  test::Model model("gptq");
  adapters::inject(model, config);
  adapters::for_each_layer(model, [](const std::string& path, AdapterLayer& layer) {
    const auto adapter = adapter_of(layer);
    const bool first = path.find("layers.0") != std::string::npos;
    adapter->set_kept(first ? std::vector<bool>{true, false, true, true} : std::vector<bool>{false, false, false, false});
    adapter->E.copy_(adapter->E.detach() *
                     to(Tensor::from(first ? std::vector<float>{1, 0, 1, 1} : std::vector<float>(4, 0), {4, 1}), test::tested_device()));
  });
  const test::TemporaryFolder folder;
  adapters::save_pretrained(model, folder.path());
  test::Model other("gptq");
  adapters::load_pretrained(other, folder.path());
  std::vector<std::int64_t> ranks;
  adapters::for_each_layer(other, [&](const std::string&, AdapterLayer& layer) { ranks.push_back(adapter_of(layer)->A.dim(0)); });
  EXPECT_EQ(ranks, (std::vector<std::int64_t>{3, 0}));
  const Tensor y = model.forward(x);
  EXPECT_LT(distance(other.forward(x), y), 1e-6 * distance(y, Tensor::zeros(y.shape())));

  // Saved once more, the folder says the same.
  const test::TemporaryFolder again;
  adapters::save_pretrained(other, again.path());
  EXPECT_EQ(std::get<AdaLoraConfig>(adapters::read_config(again.path())).rank_pattern,
            std::get<AdaLoraConfig>(adapters::read_config(folder.path())).rank_pattern);
}

TEST(AdaLora, TheRegulariserIsTheMeanDistanceFromOrthogonal) {
  test::Model model;
  EXPECT_EQ(adalora::orthogonal_regulariser(model).item(), 0);
  adapters::inject(
      model, AdaLoraConfig{.target_r = 1, .init_r = 2, .orth_reg_weight = 0.25, .total_step = 10, .target_modules = {"q_proj"}});
  double total = 0;
  adapters::for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
    const auto a = adapter_of(layer);
    for (const Tensor& m : {a->A, a->B.t()}) total += norm(matmul(m, m.t()) - Tensor::eye(2, DType::f32, m.device())).item();
  });
  const Tensor penalty = adalora::orthogonal_regulariser(model);
  EXPECT_NEAR(penalty.item(), 0.25 * total / 4, 1e-6);
  penalty.backward();
  for (const auto& [name, tensor] : trainable(model))
    EXPECT_EQ(tensor.grad().defined(), name.find("lora_E") == std::string::npos) << name;

  // Factors that are orthogonal cost nothing.
  adapters::for_each_layer(model, [](const std::string&, AdapterLayer& layer) {
    const auto a = adapter_of(layer);
    a->A.copy_(qr(test::random({64, 2}, 1)).q.t());
    a->B.copy_(qr(test::random({64, 2}, 2)).q);
  });
  EXPECT_LT(adalora::orthogonal_regulariser(model).item(), 1e-5);
  adapters::enable_adapters(model, false);
  EXPECT_EQ(adalora::orthogonal_regulariser(model).item(), 0) << "nothing is trainable";

  SVDLinear by_hand(make_base("dense", 64, 32), "default", {.r = 2});
  expect_error<ValueError>([&] { adalora::orthogonal_regulariser(by_hand); }, "was added by hand and has no configuration");
}

}  // namespace
}  // namespace graft::adalora_test
