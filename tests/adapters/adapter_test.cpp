#include "graft/adapters/adapter.h"

#include <gtest/gtest.h>

#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/warning.h"
#include "graft/adapters/wrappers.h"
#include "graft/autograd/ops.h"

#include "../support/errors.h"
#include "layers.h"

namespace graft::adapter_test {
namespace {

using test::distance;
using test::expect_error;
using test::make_base;

const Tensor x = test::random({3, 64}, 5);

std::shared_ptr<lora::Linear> layer_with(std::vector<std::string> names) {
  auto layer = std::make_shared<lora::Linear>(make_base("dense", 64, 32), names.front(), lora::Options{.r = 4, .lora_alpha = 8});
  for (std::size_t i = 1; i < names.size(); ++i) layer->update_layer(names[i], {.r = 2, .lora_alpha = 8, .seed = i});
  for (std::size_t i = 0; i < names.size(); ++i) test::randomise(*layer, names[i], 100 * i);
  return layer;
}

TEST(AdapterLayer, TheFirstIsActiveAndTrainableTheOthersWait) {
  const auto layer = layer_with({"a", "b"});
  EXPECT_EQ(layer->active_adapters(), std::vector<std::string>{"a"});
  EXPECT_TRUE(layer->trainable("a"));
  EXPECT_FALSE(layer->trainable("b"));
  EXPECT_EQ(trainable(*layer).size(), 2u);
  layer->set_adapter({"b", "a"});
  EXPECT_EQ(trainable(*layer).size(), 4u);
  layer->set_adapter({"b"}, true);
  EXPECT_TRUE(trainable(*layer).empty());
}

TEST(AdapterLayer, AFurtherOneWaitsEvenIfNoneIsActive) {
  const auto layer = layer_with({"a"});
  layer->set_adapter({});
  layer->update_layer("b", {.r = 2, .init_lora_weights = false});
  EXPECT_TRUE(layer->active_adapters().empty());
  EXPECT_EQ(distance(layer->forward(x), layer->base_layer()->forward(x)), 0);
  for (const char* name : {"a", "b"}) layer->delete_adapter(name);
  layer->update_layer("c", {.r = 2});
  EXPECT_EQ(layer->active_adapters(), std::vector<std::string>{"c"});
}

TEST(AdapterLayer, ActiveAdaptersAddUp) {
  const auto layer = layer_with({"a", "b"});
  const Tensor y0 = layer->base_layer()->forward(x);
  const auto with = [&](std::vector<std::string> names) { return layer->set_adapter(names), layer->forward(x); };
  const Tensor ya = with({"a"}), yb = with({"b"}), both = with({"a", "b"});
  EXPECT_GT(distance(ya, yb), 0.1);
  EXPECT_LT(distance(both - y0, (ya - y0) + (yb - y0)), 1e-5);
  EXPECT_EQ(distance(with({"elsewhere"}), y0), 0);
}

TEST(AdapterLayer, SwitchedOffItIsItsBase) {
  const auto layer = layer_with({"a"});
  layer->enable_adapters(false);
  EXPECT_TRUE(layer->disable_adapters());
  EXPECT_EQ(distance(layer->forward(x), layer->base_layer()->forward(x)), 0);
  EXPECT_TRUE(trainable(*layer).empty());
  layer->enable_adapters(true);
  EXPECT_EQ(trainable(*layer).size(), 2u);
}

TEST(AdapterLayer, EnablingDoesNotThawWhatIsForInference) {
  const auto layer = layer_with({"a"});
  layer->set_adapter({"a"}, true);
  layer->enable_adapters(false);
  layer->enable_adapters(true);
  EXPECT_TRUE(trainable(*layer).empty());
  layer->set_adapter({"a"}, false);
  EXPECT_EQ(trainable(*layer).size(), 2u);
}

TEST(AdapterLayer, DeleteAndRename) {
  const auto layer = layer_with({"c", "b", "a"});
  layer->rename_adapter("c", "z");
  EXPECT_EQ(layer->active_adapters(), std::vector<std::string>{"z"});
  expect_error<ValueError>([&] { layer->rename_adapter("z", "a"); }, "there is an adapter 'a' already");
  const adapters::WarningScope warnings;
  layer->delete_adapter("z");
  EXPECT_EQ(layer->active_adapters(), std::vector<std::string>{"a"});
  EXPECT_EQ(warnings.messages().size(), 1u);
  layer->delete_adapter("b");
  EXPECT_EQ(warnings.messages().size(), 1u);
  expect_error<ValueError>([&] { layer->delete_adapter("b"); }, "lora.Linear: there is no adapter 'b', only a");
  layer->delete_adapter("a");
  EXPECT_TRUE(layer->active_adapters().empty());
  EXPECT_EQ(distance(layer->forward(x), layer->base_layer()->forward(x)), 0);
}

TEST(AdapterLayer, Scaling) {
  const auto layer = layer_with({"a"});
  const auto adapter = std::dynamic_pointer_cast<lora::LoraAdapter>(layer->adapter("a"));
  const Tensor y0 = layer->base_layer()->forward(x), y = layer->forward(x);
  EXPECT_EQ(adapter->scaling(), 2);
  layer->set_scale("a", 3);
  EXPECT_EQ(adapter->scaling(), 6);
  EXPECT_LT(distance(layer->forward(x) - y0, (y - y0) * 3), 1e-4);
  layer->scale_layer(0.5);
  EXPECT_EQ(adapter->scaling(), 3);
  layer->unscale_layer(0.5);
  EXPECT_EQ(adapter->scaling(), 6);
  layer->unscale_layer();
  EXPECT_EQ(adapter->scaling(), 2);
  expect_error<ValueError>([&] { layer->set_scale("b", 1); }, "there is no adapter 'b'");
  expect_error<ValueError>([&] { layer->unscale_layer(0); }, "cannot divide a scaling by 0");
}

TEST(AdapterLayer, RefusesNamesAndBases) {
  const auto layer = layer_with({"a"});
  expect_error<ValueError>([&] { layer->update_layer("a", {.r = 2}); }, "there is an adapter 'a' already");
  for (const char* name : {"", "a.b", "__base__"})
    expect_error<ValueError>([&] { layer->update_layer(name, {.r = 2}); }, "cannot be the name of an adapter");
  expect_error<ValueError>([] { AdapterLayer(nullptr, "Mine"); }, "Mine: there is no base layer");
  expect_error<AttributeError>([&] { layer->qweight(); }, "a base of type Linear has no qweight");
}

TEST(AdapterLayer, ForwardsToItsBase) {
  const auto base = make_base("gptq", 64, 32, true);
  const lora::GPTQLoraLinear layer(base, "default", {.r = 2});
  EXPECT_EQ(layer.base_layer(), base);
  EXPECT_EQ(layer.quant_linear_module(), base);
  EXPECT_TRUE(layer.qweight().same(dynamic_cast<quant::QuantLinear&>(*base).qweight()) ||
              distance(layer.qweight(), dynamic_cast<quant::QuantLinear&>(*base).qweight()) == 0);
  EXPECT_TRUE(layer.bias().same(base->bias()));
  EXPECT_EQ(layer.in_features(), 64);
  EXPECT_EQ(layer.out_features(), 32);
  EXPECT_FALSE(layer.weight().defined());
  const lora::EetqLoraLinear eetq(make_base("eetq", 64, 32), "default", {.r = 2});
  EXPECT_EQ(eetq.weight().dtype(), DType::i8);
}

TEST(AdapterLayer, PrintsItselfWithItsPrefix) {
  lora::GPTQLoraLinear layer(make_base("gptq", 64, 32), "default", {.r = 2});
  const std::string text = print(layer);
  EXPECT_NE(text.find("lora.GPTQLoraLinear(default: lora r=2, scaling=0.5, dropout=0, active"), std::string::npos) << text;
  EXPECT_NE(text.find("(base_layer): QuantLinear"), std::string::npos) << text;
}

// ---- merging ----

TEST(Merge, GivesTheSameFunctionAndComesOutAgain) {
  for (const bool safe : {false, true}) {
    const auto layer = layer_with({"a", "b"});
    layer->set_adapter({"a", "b"});
    const Tensor weight = layer->weight(), before = weight.clone(), y = layer->forward(x);
    layer->merge(safe);
    EXPECT_EQ(layer->merged_adapters(), (std::vector<std::string>{"a", "b"}));
    EXPECT_GT(distance(weight, before), 0.01);
    EXPECT_LT(distance(layer->forward(x), y), 1e-4);
    EXPECT_LT(distance(layer->base_layer()->forward(x), y), 1e-4);
    layer->unmerge();
    EXPECT_LT(distance(weight, before), 1e-6);
    EXPECT_LT(distance(layer->forward(x), y), 1e-4);
  }
}

TEST(Merge, SwitchingOffTakesItOut) {
  const auto layer = layer_with({"a"});
  const Tensor y0 = layer->base_layer()->forward(x);
  layer->merge();
  layer->enable_adapters(false);
  EXPECT_TRUE(layer->merged_adapters().empty());
  EXPECT_LT(distance(layer->forward(x), y0), 1e-5);
}

TEST(Merge, RefusesAndLeavesTheLayerAsItWas) {
  const auto layer = layer_with({"a"});
  const Tensor before = layer->weight().clone();
  const auto adapter = std::dynamic_pointer_cast<lora::LoraAdapter>(layer->adapter("a"));
  adapter->A.fill_(INFINITY);
  expect_error<ValueError>([&] { layer->merge(true); }, "merging adapter 'a' gives values that are not finite");
  EXPECT_EQ(distance(layer->weight(), before), 0);
  expect_error<ValueError>([&] { layer->merge(false, std::vector<std::string>{"nobody"}); }, "there is no adapter 'nobody'");

  lora::Linear biased(make_base("dense", 64, 32), "a", {.r = 2, .lora_bias = true});
  expect_error<ValueError>([&] { biased.merge(); }, "has a bias (lora_bias) and the base layer has none");
  lora::GPTQLoraLinear gptq(make_base("gptq", 64, 32), "a", {.r = 2});
  expect_error<NotImplementedError>([&] { gptq.merge(); }, "the base (QuantLinear) holds packed integers");
  expect_error<NotImplementedError>([&] { gptq.unmerge(); }, "the base (QuantLinear) holds packed integers");
  lora::EetqLoraLinear eetq(make_base("eetq", 64, 32), "a", {.r = 2});
  expect_error<AttributeError>([&] { eetq.merge(); }, "Merging LoRA layers is not supported for Eetq layers.");
  expect_error<AttributeError>([&] { eetq.unmerge(); }, "Unmerging LoRA layers is not supported for Eetq layers.");

  const auto merged = layer_with({"a"});
  merged->merge();
  expect_error<ValueError>([&] { merged->delete_adapter("a"); }, "adapter 'a' is merged");
}

TEST(Merge, WarnsAboutWhatIsMergedAlready) {
  const auto layer = layer_with({"a", "b"});
  layer->merge(false, std::vector<std::string>{"a"});
  const adapters::WarningScope warnings;
  layer->merge(false, std::vector<std::string>{"a", "b"});
  EXPECT_EQ(warnings.messages(), std::vector<std::string>{"lora.Linear: these adapters are merged already: a"});
  EXPECT_EQ(layer->merged_adapters(), (std::vector<std::string>{"a", "b"}));
}

TEST(Merge, AnErrorTakesOutNoMoreThanItPutIn) {
  test::Model model;
  const LoraConfig config{.r = 4, .target_modules = {"q_proj"}, .init_lora_weights = false};
  adapters::inject(model, config, {.adapter_name = "a"});
  adapters::inject(model, config, {.adapter_name = "b"});
  adapters::merge_adapter(model, false, std::vector<std::string>{"a"});
  adapters::for_each_layer(model, [](const std::string& path, AdapterLayer& layer) {
    if (path == "model.layers.1.q_proj") std::dynamic_pointer_cast<lora::LoraAdapter>(layer.adapter("b"))->A.fill_(NAN);
  });
  expect_error<ValueError>([&] { adapters::merge_adapter(model, true, std::vector<std::string>{"b"}); }, "not finite");
  adapters::for_each_layer(model, [](const std::string& path, AdapterLayer& layer) {
    EXPECT_EQ(layer.merged_adapters(), std::vector<std::string>{"a"}) << path;
  });
}

TEST(Merge, ThroughoutAModel) {
  test::Model model;
  adapters::inject(model, LoraConfig{.r = 4, .target_modules = "all-linear", .init_lora_weights = false});
  const Tensor y = model.forward(x);
  adapters::merge_adapter(model);
  EXPECT_LT(distance(model.forward(x), y), 1e-3);
  adapters::unmerge_adapter(model);
  EXPECT_LT(distance(model.forward(x), y), 1e-3);
  adapters::merge_and_unload(model);
  EXPECT_TRUE(adapters::adapter_names(model).empty());
  EXPECT_LT(distance(model.forward(x), y), 1e-3);
}

TEST(Merge, UnloadGivesTheBaseBack) {
  test::Model model("gptq"), bare("gptq");
  adapters::inject(model, LoraConfig{.r = 4, .target_modules = "all-linear", .init_lora_weights = false});
  EXPECT_GT(distance(model.forward(x), bare.forward(x)), 0.01);
  adapters::unload(model);
  EXPECT_EQ(print(model), print(bare));
  EXPECT_EQ(distance(model.forward(x), bare.forward(x)), 0);
}

TEST(Merge, AModelThatCannotIsLeftAsItWas) {
  for (const auto& [format, words] :
       {std::pair{"gptq", "quantized with GPTQ"}, {"awq", "packed awq weights"}, {"eetq", "Merging LoRA layers"}}) {
    test::Model model(format);
    adapters::inject(model, LoraConfig{.r = 4, .target_modules = {"q_proj"}});
    try {
      adapters::merge_adapter(model);
      ADD_FAILURE() << format;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  }
  test::Model model;
  adapters::inject(model, LoraConfig{.r = 4, .target_modules = {"q_proj"}, .init_lora_weights = false});
  const Tensor y = model.forward(x);
  adapters::for_each_layer(model, [](const std::string& path, AdapterLayer& layer) {
    if (path == "model.layers.1.q_proj") std::dynamic_pointer_cast<lora::LoraAdapter>(layer.adapter("default"))->A.fill_(NAN);
  });
  expect_error<ValueError>([&] { adapters::merge_adapter(model, true); }, "not finite");
  adapters::for_each_layer(model, [](const std::string&, AdapterLayer& layer) { EXPECT_TRUE(layer.merged_adapters().empty()); });
}

}  // namespace
}  // namespace graft::adapter_test
