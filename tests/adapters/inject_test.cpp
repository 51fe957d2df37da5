#include "graft/adapters/inject.h"

#include <gtest/gtest.h>

#include "graft/adapters/model.h"
#include "graft/adapters/rules.h"
#include "graft/adapters/wrappers.h"
#include "graft/autograd/ops.h"

#include "../support/errors.h"
#include "layers.h"

namespace graft::adapters {
namespace {

using test::expect_error;
using test::Model;

LoraConfig on_q(std::int64_t r = 4) { return {.r = r, .target_modules = {"q_proj"}}; }

AdapterLayer& layer_at(Module& model, const std::string& path) {
  AdapterLayer* found = nullptr;
  for_each_layer(model, [&](const std::string& where, AdapterLayer& layer) {
    if (where == path) found = &layer;
  });
  check(found != nullptr, "nothing is adapted at {}", path);
  return *found;
}

std::vector<std::string> trainable_names(Module& model) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : trainable(model)) names.push_back(name);
  return names;
}

TEST(Inject, ReportsWhichRuleWonAndWhyOthersDeclined) {
  const std::map<std::string, std::string> wrappers = {
      {"dense", "lora.Linear"}, {"gptq", "lora.GPTQLoraLinear"}, {"awq", "lora.AwqLoraLinear"}, {"eetq", "lora.EetqLoraLinear"}};
  for (const auto& format : test::formats) {
    Model model(format);
    const auto report = inject(model, on_q());
    ASSERT_EQ(report.targets.size(), 2u);
    EXPECT_EQ(report.targets[1].path, "model.layers.1.q_proj");
    EXPECT_EQ(report.targets[1].rule, "lora/" + format);
    EXPECT_EQ(report.targets[1].layer, wrappers.at(format));
    EXPECT_EQ(layer_at(model, "model.layers.1.q_proj").type_name(), wrappers.at(format));
    for (const auto& declined : report.targets[1].declined) EXPECT_NE(declined.reason, "");
    EXPECT_EQ(report.trainable_parameters, 2 * 2 * 4 * 64);
  }
  Model model;
  const std::string text = fmt::format("{}", inject(model, on_q()));
  EXPECT_NE(text.find("model.layers.0.q_proj: lora.Linear by lora/dense; not lora/eetq (a layer of type Linear, not eetq)"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("trainable parameters: 1024 of"), std::string::npos) << text;
}

TEST(Inject, ParametersHavePeftsNamesAndTheBaseIsFrozen) {
  Model model("dense", true);
  inject(model, LoraConfig{.r = 2, .target_modules = {"layers.0.q_proj"}});
  EXPECT_EQ(trainable_names(model), (std::vector<std::string>{"model.layers.0.q_proj.lora_A.default.weight",
                                                              "model.layers.0.q_proj.lora_B.default.weight"}));
  std::vector<std::string> all;
  for (const auto& [name, tensor] : named_parameters(model)) all.push_back(name);
  EXPECT_EQ(std::count(all.begin(), all.end(), "model.layers.0.q_proj.base_layer.weight"), 1);
}

TEST(Inject, StartsAsTheBase) {
  for (const auto& format : test::formats) {
    Model model(format), bare(format);
    inject(model, LoraConfig{.r = 4, .target_modules = "all-linear"});
    const Tensor x = test::random({3, 64}, 5);
    EXPECT_EQ(test::distance(model.forward(x), bare.forward(x)), 0) << format;
  }
}

TEST(Inject, InitialValuesFollowFromTheSeedAndThePathAlone) {
  Model a, b, c;
  inject(a, on_q(), {.seed = 3});
  inject(b, LoraConfig{.r = 4, .target_modules = {"q_proj", "v_proj"}}, {.seed = 3});
  inject(c, on_q(), {.seed = 4});
  const auto A = [](Module& model, const char* path) {
    return std::dynamic_pointer_cast<lora::LoraAdapter>(layer_at(model, path).adapter("default"))->A;
  };
  EXPECT_EQ(test::distance(A(a, "model.layers.0.q_proj"), A(b, "model.layers.0.q_proj")), 0);
  EXPECT_GT(test::distance(A(a, "model.layers.0.q_proj"), A(a, "model.layers.1.q_proj")), 0);
  EXPECT_GT(test::distance(A(a, "model.layers.0.q_proj"), A(c, "model.layers.0.q_proj")), 0);
}

TEST(Inject, RankAndAlphaPatterns) {
  Model model;
  inject(model, LoraConfig{.r = 8,
                           .lora_alpha = 16,
                           .target_modules = {"q_proj", "v_proj"},
                           .rank_pattern = {{"layers.1.q_proj", 2}},
                           .alpha_pattern = {{"v_proj", 4}}});
  const auto adapter = [&](const char* path) {
    return std::dynamic_pointer_cast<lora::LoraAdapter>(layer_at(model, path).adapter("default"));
  };
  EXPECT_EQ(adapter("model.layers.0.q_proj")->r(), 8);
  EXPECT_EQ(adapter("model.layers.1.q_proj")->r(), 2);
  EXPECT_EQ(adapter("model.layers.1.q_proj")->scaling(), 8);
  EXPECT_EQ(adapter("model.layers.0.v_proj")->scaling(), 0.5);
}

TEST(Inject, AllLinearIsResolvedToNames) {
  Model model("gptq");
  const auto report = inject(model, LoraConfig{.r = 2, .target_modules = "all-linear"});
  EXPECT_EQ(report.targets.size(), 6u);
  EXPECT_EQ(report.outputs, std::vector<std::string>{"lm_head"});
  EXPECT_NE(to_string(report).find("left out of all-linear: lm_head\n"), std::string::npos);
  const auto record = layer_at(model, "model.layers.0.v_proj").record("default");
  EXPECT_EQ(std::get<LoraConfig>(record->config).target_modules, (Targets{"q_proj", "v_proj", "down_proj"}));
}

TEST(Inject, FurtherAdaptersWaitFrozen) {
  Model model("gptq");
  inject(model, on_q());
  const auto before = trainable_names(model);
  inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj", "v_proj"}}, {.adapter_name = "second"});
  EXPECT_EQ(trainable_names(model), before);
  EXPECT_EQ(layer_at(model, "model.layers.0.q_proj").adapter_names(), (std::vector<std::string>{"default", "second"}));
  EXPECT_EQ(layer_at(model, "model.layers.0.v_proj").active_adapters(), std::vector<std::string>{"default"});
  set_adapter(model, {"second"});
  EXPECT_EQ(trainable_names(model).size(), 8u);
}

TEST(Inject, TheFirstAfterAllWereDeletedIsActiveAgain) {
  Model model("gptq");
  inject(model, on_q());
  delete_adapter(model, "default");
  inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj", "v_proj"}}, {.adapter_name = "second"});
  EXPECT_EQ(trainable_names(model).size(), 8u);
  for_each_layer(model, [](const std::string&, AdapterLayer& layer) {
    EXPECT_EQ(layer.active_adapters(), std::vector<std::string>{"second"});
  });
}

TEST(Inject, BiasAndModulesToSave) {
  Model all("dense", true), own("gptq", true);
  inject(all, LoraConfig{.r = 2, .target_modules = {"layers.0.q_proj"}, .bias = "all"});
  EXPECT_EQ(trainable_names(all).size(), 2u + 7u);
  inject(own, LoraConfig{.r = 2, .target_modules = {"layers.0.q_proj"}, .bias = "lora_only"});
  EXPECT_EQ(trainable_names(own),
            (std::vector<std::string>{"model.layers.0.q_proj.base_layer.bias", "model.layers.0.q_proj.lora_A.default.weight",
                                      "model.layers.0.q_proj.lora_B.default.weight"}));

  Model model;
  const Tensor original = model.norm->weight;
  const auto report = inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}, .modules_to_save = {"norm"}});
  EXPECT_EQ(report.modules_saved, std::vector<std::string>{"model.norm"});
  EXPECT_TRUE(model.norm->weight.requires_grad());
  model.norm->weight.fill_(2);
  EXPECT_EQ(original.to_vector<float>()[0], 1);
  enable_adapters(model, false);
  EXPECT_EQ(model.norm->weight.to_vector<float>()[0], 1);
  enable_adapters(model, true);
  EXPECT_EQ(model.norm->weight.to_vector<float>()[0], 2);
  delete_adapter(model, "default");
  EXPECT_EQ(model.norm->weight.to_vector<float>()[0], 1);
  expect_error<ValueError>([&] { inject(model, LoraConfig{.target_modules = {"q_proj"}, .modules_to_save = {"nothing"}}); },
                           "no module of the model is meant by modules_to_save (nothing)");
}

TEST(Inject, TrainedBiasesGoWithTheirAdapter) {
  for (const auto& format : test::formats) {
    for (const char* bias : {"lora_only", "all"}) {
      SCOPED_TRACE(fmt::format("{} {}", format, bias));
      Model model(format, true), bare(format, true);
      const Tensor x = test::random({3, 64}, 5), y0 = bare.forward(x);
      inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}, .bias = bias});
      for (const auto& [name, tensor] : trainable(model))
        if (name.ends_with("bias")) tensor.fill_(0.5);
      const Tensor y = model.forward(x);
      EXPECT_GT(test::distance(y, y0), 0.01);
      enable_adapters(model, false);
      EXPECT_EQ(test::distance(model.forward(x), y0), 0);
      EXPECT_TRUE(trainable(model).empty());
      enable_adapters(model, true);
      EXPECT_EQ(test::distance(model.forward(x), y), 0);
      // A later adapter may wrap a layer whose bias the first one trains.
      inject(model, LoraConfig{.r = 2, .target_modules = {"v_proj"}}, {.adapter_name = "later"});
      EXPECT_EQ(test::distance(model.forward(x), y), 0);
      set_adapter(model, {"later"});
      EXPECT_EQ(test::distance(model.forward(x), y0), 0);
      set_adapter(model, {"default", "later"});
      EXPECT_EQ(test::distance(model.forward(x), y), 0);
      delete_adapter(model, "default");
      EXPECT_EQ(test::distance(model.forward(x), y0), 0);

      Model unloaded(format, true);
      inject(unloaded, LoraConfig{.r = 2, .target_modules = {"q_proj"}, .bias = bias});
      for (const auto& [name, tensor] : trainable(unloaded))
        if (name.ends_with("bias")) tensor.fill_(0.5);
      unload(unloaded);
      EXPECT_EQ(test::distance(unloaded.forward(x), y0), 0);
    }
  }
}

TEST(Inject, RefusesAndLeavesTheModelAsItWas) {
  Model model("gptq");
  const auto unchanged = [&](const AdapterConfig& config, const std::string& words, const InjectOptions& options = {}) {
    const std::string before = print(model);
    expect_error<ValueError>([&] { inject(model, config, options); }, words);
    EXPECT_EQ(print(model), before);
  };
  unchanged(LoraConfig{.target_modules = {"nothing"}}, "no module of the model is meant by target_modules (nothing)");
  unchanged(LoraConfig{.target_modules = {"q_proj"}, .layers_to_transform = {7}}, "note that layers_to_transform is set");
  unchanged(LoraConfig{.target_modules = {"q_proj"}, .exclude_modules = {"q_proj"}},
            "are excluded by exclude_modules or modules_to_save: model.layers.0.q_proj, model.layers.1.q_proj");
  unchanged(LoraConfig{}, "no target_modules are given");
  unchanged(LoraConfig{.target_modules = {"q_proj", "norm"}}, "model.norm: a module of type Norm cannot be adapted");
  unchanged(LoraConfig{.r = 0, .target_modules = {"q_proj"}}, "r is 0, and the rank must be a positive integer");
  unchanged(LoraConfig{.target_modules = {"q_proj"}, .use_dora = true}, "lora.GPTQLoraLinear does not support DoRA");
  unchanged(LoraConfig{.target_modules = {"q_proj"}, .use_qalora = true, .qalora_group_size = 24},
            "qalora_group_size (24) must divide in_features (64)");
  unchanged(on_q(), "no rule takes a layer of type QuantLinear: there are no rules", {.registry = Registry()});
  unchanged(on_q(), "'a.b' cannot be the name of an adapter", {.adapter_name = "a.b"});
  inject(model, on_q());
  unchanged(on_q(), "there is an adapter 'default' already");
}

TEST(Inject, APartOfTheChoiceThatMeansNothingIsRefused) {
  Model model("gptq");
  const auto refuse = [&](const LoraConfig& config, const std::string& words) {
    expect_error<ValueError>([&] { inject(model, config); }, "nothing in the model is meant by " + words);
  };
  refuse({.target_modules = {"q_proj", "gate_proj"}}, "target_modules: gate_proj");
  refuse({.target_modules = {"q_proj"}, .layers_to_transform = {0, 7}}, "layers_to_transform: 7");
  refuse({.target_modules = {"q_proj"}, .rank_pattern = {{"v_proj", 4}}}, "rank_pattern: v_proj");
  refuse({.target_modules = {"q_proj"}, .alpha_pattern = {{"layers.0.q_proj", 4}, {"layers.0.down_proj", 4}}},
         "alpha_pattern: layers.0.down_proj");
  expect_error<ValueError>(
      [&] {
        inject(model, OFTConfig{.oft_block_size = 16, .target_modules = {"o_proj", "q_proj"}});
      },
      "target_modules: o_proj");
  EXPECT_TRUE(adapter_names(model).empty());
  const auto report = inject(model, LoraConfig{.target_modules = {"q_proj", "gate_proj"}}, {.strict = false});
  EXPECT_EQ(report.warnings, std::vector<std::string>{"nothing in the model is meant by target_modules: gate_proj"});
  EXPECT_EQ(report.targets.size(), 2u);
}

TEST(Inject, OneAdapterWithBiasesAndOneTrainableAdaLora) {
  Model model("dense", true);
  inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}, .bias = "all"});
  expect_error<ValueError>(
      [&] { inject(model, LoraConfig{.target_modules = {"v_proj"}, .bias = "lora_only"}, {.adapter_name = "b"}); },
      "both have bias other than 'none'");
  Model other;
  const AdaLoraConfig adalora{.total_step = 10, .target_modules = {"q_proj"}};
  inject(other, adalora);
  expect_error<ValueError>([&] { inject(other, adalora, {.adapter_name = "b"}); }, "both trainable AdaLoRA adapters");
  AdaLoraConfig inference = adalora;
  inference.inference_mode = true;
  inject(other, inference, {.adapter_name = "b"});
}

TEST(Inject, AUsersRuleComesFirst) {
  auto registry = Registry::builtin();
  registry.prepend<LoraConfig>(
      {.name = "mine",
       .accepts =
           [](const LinearBase& layer, const LoraConfig&) {
             return layer.in_features() == 64 ? Verdict::accept() : Verdict::decline("{} inputs", layer.in_features());
           },
       .make =
           [](std::shared_ptr<LinearBase> base, const std::string& name, const LoraConfig& config, std::uint64_t seed) {
             auto layer = std::make_shared<AdapterLayer>(base, "Mine");
             layer->add_adapter(name, std::make_shared<lora::LoraAdapter>(*base, lora::options(config, seed), Rounding::once));
             return layer;
           }});
  Model model("awq");
  EXPECT_EQ(inject(model, on_q(), {.registry = registry}).targets[0].layer, "Mine");

  auto dora = Registry::builtin();
  dora.prepend(rules::quantized_dora());
  dora.prepend(rules::quantized_qalora());
  for (const char* format : {"gptq", "awq", "eetq"}) {
    Model a(format), b(format), plain(format);
    EXPECT_EQ(inject(a, LoraConfig{.r = 2, .target_modules = {"q_proj"}, .use_dora = true}, {.registry = dora}).targets[0].rule,
              "lora/quantized-dora");
    EXPECT_EQ(inject(b, LoraConfig{.r = 2, .target_modules = {"q_proj"}, .use_qalora = true}, {.registry = dora}).targets[0].rule,
              "lora/quantized-qalora");
    EXPECT_EQ(inject(plain, on_q(), {.registry = dora}).targets[0].rule, std::string("lora/") + format);
  }
}

TEST(Inject, TheCallersVersionOfAwqsPackerHoldsForEveryRule) {
  auto registry = Registry::builtin();
  registry.prepend(rules::quantized_dora());
  registry.prepend(rules::quantized_qalora());
  const std::vector<AdapterConfig> configs = {on_q(), LoraConfig{.r = 2, .target_modules = {"q_proj"}, .use_dora = true},
                                              LoraConfig{.r = 2, .target_modules = {"q_proj"}, .use_qalora = true},
                                              AdaLoraConfig{.total_step = 10, .target_modules = {"q_proj"}},
                                              OFTConfig{.oft_block_size = 16, .target_modules = {"q_proj"}}};
  for (const auto& config : configs) {
    Model awq("awq");
    expect_error<ImportError>([&] { inject(awq, config, {.registry = registry, .auto_awq_version = "0.1.8"}); },
                              "packed by AutoAWQ 0.1.8; 0.2.0 is the first version that is supported");
    EXPECT_TRUE(adapter_names(awq).empty());
    inject(awq, config, {.registry = registry, .auto_awq_version = "0.2.9"});
    Model gptq("gptq");
    EXPECT_NO_THROW(inject(gptq, config, {.registry = registry, .auto_awq_version = "0.1.8"}));
  }
}

TEST(Inject, MethodsCanShareALayer) {
  Model model("eetq");
  inject(model, on_q());
  inject(model, OFTConfig{.oft_block_size = 16, .target_modules = {"q_proj"}}, {.adapter_name = "turned"});
  EXPECT_EQ(layer_at(model, "model.layers.0.q_proj").adapter("turned")->method(), "oft");
  EXPECT_EQ(layer_at(model, "model.layers.0.q_proj").type_name(), "lora.EetqLoraLinear");
}

}  // namespace
}  // namespace graft::adapters
