// Requests that PEFT passes over in silence or fails on late: an error, or at least a warning. docs/errors.md lists them.
#include <gtest/gtest.h>

#include <fstream>

#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/oft.h"
#include "graft/adapters/peft_io.h"
#include "graft/adapters/warning.h"
#include "graft/adapters/wrappers.h"
#include "graft/core/safetensors.h"

#include "../support/errors.h"
#include "layers.h"

namespace graft::adapters {
namespace {

using test::distance;
using test::expect_error;
using test::make_base;
using test::Model;

std::vector<std::string> warnings_of(const auto& f) {
  const WarningScope scope;
  f();
  return scope.messages();
}

TEST(Requests, QaLoraIsRefusedWhereALayerHasNone) {
  const lora::Options qalora{.r = 4, .use_qalora = true};
  expect_error<ValueError>([&] { lora::Linear(make_base("dense", 64, 32), "default", qalora); },
                           "lora.Linear does not support QA-LoRA");
  for (const char* format : {"dense", "awq", "eetq"}) {
    Model model(format);
    expect_error<ValueError>([&] { inject(model, LoraConfig{.target_modules = {"q_proj"}, .use_qalora = true}); },
                             "does not support QA-LoRA");
    EXPECT_TRUE(adapter_names(model).empty());
  }
}

TEST(Requests, QaLoraSaysWhatItDoesNotApply) {
  const auto made = [](const lora::Options& options) {
    return [=] { lora::GPTQLoraLinear(make_base("gptq", 64, 32, true), "default", options); };
  };
  EXPECT_TRUE(warnings_of(made({.r = 4, .use_qalora = true})).empty());
  EXPECT_EQ(warnings_of(made({.r = 4, .use_qalora = true, .lora_bias = true})),
            std::vector<std::string>{"use_qalora: the bias of lora_B is kept but not applied"});
  EXPECT_EQ(warnings_of(made({.r = 4, .init_lora_weights = "gaussian", .use_qalora = true})),
            std::vector<std::string>{"use_qalora: lora_A is uniform at first, whatever the scheme"});
  expect_error<ValueError>(made({.r = 4, .init_lora_weights = "olora", .use_qalora = true}),
                           "use_qalora takes init_lora_weights true, false or 'gaussian'");

  const LoraConfig biased{.target_modules = {"q_proj"}, .lora_bias = true, .use_qalora = true};
  const LoraConfig drawn{.target_modules = {"q_proj"}, .init_lora_weights = "gaussian", .use_qalora = true};
  Model model("gptq");
  expect_error<ValueError>([&] { inject(model, biased); }, "lora_bias has no effect with use_qalora");
  expect_error<ValueError>([&] { inject(model, drawn); }, "init_lora_weights = 'gaussian' has no effect with use_qalora");
  EXPECT_TRUE(adapter_names(model).empty());
  const auto report = inject(model, biased, {.strict = false});
  EXPECT_EQ(std::count(report.warnings.begin(), report.warnings.end(), "use_qalora: the bias of lora_B is kept but not applied"),
            std::ssize(report.targets));
}

TEST(Requests, FeaturesThatAreNotOfferedAreRefusedInFiles) {
  for (const char* type : {R"("LORA")", R"("ADALORA", "total_step": 10)"})
    for (const char* key :
         {"alora_invocation_tokens", "arrow_config", "ensure_weight_tying", "kasa_config", "layer_replication", "megatron_config",
          "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora", "velora_config"})
      expect_error<NotImplementedError>(
          [&] { config_from_json(fmt::format(R"({{"peft_type": {}, "{}": {{"a": 1}}}})", type, key)); },
          fmt::format("adapter_config.json: {} = {{\"a\":1}} is a feature that this library does not offer", key));
}

TEST(Requests, WhatPeftsAdaLoraIgnoresInAFileIsWarnedAbout) {
  for (const char* entry :
       {R"("use_rslora": true)", R"("lora_bias": true)", R"("alpha_pattern": {"q": 4})", R"("use_qalora": true)", R"("r": 4)"}) {
    const auto warnings =
        warnings_of([&] { config_from_json(fmt::format(R"({{"peft_type": "ADALORA", "total_step": 10, {}}})", entry)); });
    ASSERT_EQ(warnings.size(), 1u) << entry;
    EXPECT_NE(warnings[0].find("has no effect on AdaLoRA"), std::string::npos) << warnings[0];
  }
}

TEST(Requests, WhatPeftPassedOverWhenItTrainedIsNoReasonToRefuseTheFile) {
  AdaLoraConfig adalora;
  EXPECT_EQ(warnings_of([&] {
              adalora = std::get<AdaLoraConfig>(
                  config_from_json(R"({"peft_type": "ADALORA", "total_step": 10, "init_lora_weights": "gaussian"})"));
            }),
            std::vector<std::string>{"adapter_config.json: init_lora_weights = \"gaussian\" has no effect on AdaLoRA"});
  EXPECT_EQ(adalora.init_lora_weights, InitWeights(true));
  expect_error<ValueError>(
      [] { config_from_json(R"({"peft_type": "ADALORA", "total_step": 10, "init_lora_weights": "loftq"})"); },
      "AdaLoRA's init_lora_weights is true or false");

  OFTConfig turned{.oft_block_size = 16, .target_modules = ".*q_proj"};
  Model model;
  inject(model, turned);
  const test::TemporaryFolder folder;
  save_pretrained(model, folder.path());
  turned.layers_to_transform = {1};
  turned.layers_pattern = {"layers"};
  std::ofstream(folder.path() + "/adapter_config.json") << to_json(turned);
  Model loaded;
  const auto report = load_pretrained(loaded, folder.path());
  EXPECT_EQ(report.injection.targets.size(), 2u) << "the layers do not choose";
  EXPECT_EQ(report.warnings, std::vector<std::string>{"adapter_config.json: layers_to_transform has no effect on OFT where "
                                                      "target_modules is a regular expression"});
}

TEST(Requests, AnExclusionThatExcludesNothingIsWarnedAbout) {
  Model model;
  EXPECT_EQ(inject(model, LoraConfig{.target_modules = {"q_proj"}, .exclude_modules = {"k_proj"}}).warnings,
            std::vector<std::string>{"exclude_modules is given, but excludes nothing"});
}

TEST(Requests, MalformedRegularExpressionsAreNamed) {
  const auto refuse = [](const LoraConfig& config, const std::string& words) {
    Model model;
    expect_error<ValueError>([&] { inject(model, config); }, words);
  };
  refuse({.target_modules = "(q_proj"}, "'(q_proj' is not a regular expression");
  refuse({.target_modules = {"q_proj"}, .exclude_modules = "[v"}, "'[v' is not a regular expression");
  refuse({.target_modules = {"q_proj"}, .rank_pattern = {{"q_proj(", 4}}}, "q_proj(");
  refuse({.target_modules = {"q_proj"}, .layers_to_transform = {0}, .layers_pattern = {"layers("}},
         "layers_pattern: 'layers(' is not a regular expression");
}

TEST(Requests, OneTrainedCopyOfAModuleIsActiveAtATime) {
  Model model;
  const LoraConfig config{.r = 2, .target_modules = {"q_proj"}, .modules_to_save = {"norm"}};
  inject(model, config);
  inject(model, config, {.adapter_name = "second"});
  expect_error<ValueError>(
      [&] {
        set_adapter(model, {"default", "second"});
      },
      "model.norm.weight: adapters 'default' and 'second' both have a trained copy of it");
  EXPECT_NO_THROW(set_adapter(model, {"second"}));
}

TEST(Requests, BlocksThatDoNotDivideBecomeTheNearestDivisor) {
  struct Row {
    std::int64_t features, wanted, used;
  };
  for (const auto& [features, wanted, used] : {Row{4096, 48, 32}, Row{768, 32, 32}, Row{100, 32, 25}, Row{97, 32, 1},
                                               Row{10, 7, 5}, Row{12, 5, 4}, Row{3072, 5000, 3072}}) {
    const auto warnings = warnings_of([&, features = features, wanted = wanted, used = used] {
      EXPECT_EQ(oft::resolve_blocks(features, 0, wanted).size, used);
      EXPECT_EQ(oft::resolve_blocks(features, wanted, 0).count, used);
    });
    EXPECT_EQ(warnings.size(), wanted == used ? 0u : 2u);
  }
  expect_error<ValueError>([] { oft::resolve_blocks(64, 8, 8); }, "they are 8 and 8");
  expect_error<ValueError>([] { oft::resolve_blocks(64, 0, 0); }, "they are 0 and 0");
  expect_error<ValueError>([] { oft::resolve_blocks(64, -8, 0); }, "they are -8 and 0");
}

/// inject() refuses with these words and changes nothing; with strict = false, and for a folder, it warns with them and goes on.
void expect_refused_or_warned(const std::string& format, const AdapterConfig& config, const std::string& words) {
  Model model(format);
  expect_error<ValueError>([&] { inject(model, config); }, words);
  EXPECT_TRUE(adapter_names(model).empty());
  EXPECT_EQ(inject(model, config, {.strict = false}).warnings, std::vector<std::string>{words});
  EXPECT_EQ(adapter_names(model), std::vector<std::string>{"default"});
  const test::TemporaryFolder folder;
  save_pretrained(model, folder.path());
  Model loaded(format);
  EXPECT_EQ(load_pretrained(loaded, folder.path()).injection.warnings, std::vector<std::string>{words});
  EXPECT_EQ(adapter_names(loaded), std::vector<std::string>{"default"});
}

TEST(Requests, AWholePathBesideLayersThatLeaveItOut) {
  const std::string q0 = "model.layers.0.q_proj";
  expect_refused_or_warned("gptq", LoraConfig{.target_modules = {q0, "v_proj"}, .layers_to_transform = {1}},
                           "layers_to_transform leaves out model.layers.0.q_proj, but target_modules has the whole path, which "
                           "is not filtered by layer");
  expect_refused_or_warned(
      "dense", OFTConfig{.oft_block_size = 16, .target_modules = {"lm_head", "v_proj"}, .layers_to_transform = {1}},
      "layers_to_transform leaves out lm_head, but target_modules has the whole path, which is not filtered by layer");
  Model model;
  EXPECT_EQ(inject(model, LoraConfig{.target_modules = {q0, "v_proj"}, .layers_to_transform = {0}}).targets.size(), 2u);
}

TEST(Requests, ABiasToTrainWhereThereIsNone) {
  for (const char* format : {"dense", "awq"}) {
    expect_refused_or_warned(format, LoraConfig{.target_modules = {"q_proj"}, .bias = "all"},
                             "bias is 'all', but the model has no bias to train");
    expect_refused_or_warned(format, LoraConfig{.target_modules = {"q_proj"}, .bias = "lora_only"},
                             "bias is 'lora_only', but no layer that gets an adapter has one to train");
  }
  // One somewhere is enough for "all", and not for the layers' own.
  Model model;
  model.lm_head = make_base("dense", 64, 32, true);
  expect_error<ValueError>(
      [&] { inject(model, OFTConfig{.oft_block_size = 16, .target_modules = {"q_proj"}, .bias = "oft_only"}); },
      "bias is 'oft_only', but no layer that gets an adapter has one");
  EXPECT_TRUE(inject(model, OFTConfig{.oft_block_size = 16, .target_modules = {"q_proj"}, .bias = "all"}).warnings.empty());
  EXPECT_TRUE(model.lm_head->bias().requires_grad());
}

TEST(Requests, ModuleDropoutThatIsLessThanOneBlock) {
  const auto turned = [](std::int64_t block_size, double p, bool share = false) {
    return OFTConfig{
        .oft_block_size = block_size, .module_dropout = p, .target_modules = {"lm_head", "q_proj"}, .block_share = share};
  };
  const auto words = [](double p, const std::string& layers) {
    return fmt::format("module_dropout = {} is less than one block of those that these layers have, and drops nothing there: {}",
                       p, layers);
  };
  const std::string all = "model.layers.0.q_proj, model.layers.1.q_proj, lm_head";
  expect_refused_or_warned("eetq", turned(64, 0.9), words(0.9, all));
  expect_refused_or_warned("gptq", turned(16, 0.2), words(0.2, all));
  expect_refused_or_warned("dense", turned(16, 0.5, true), words(0.5, all));
  // Where some layers have blocks enough, the request means something.
  Model model;
  EXPECT_TRUE(inject(model, turned(16, 0.25)).warnings.empty());
  Model mixed;
  mixed.lm_head = make_base("dense", 16, 32);
  EXPECT_EQ(inject(mixed, turned(16, 0.25)).warnings, std::vector<std::string>{words(0.25, "lm_head")});
}

TEST(Requests, WeightsThatASchemeTookApartComeBackWhenAnotherLayerRefuses) {
  for (const char* scheme : {"olora", "pissa", "PiSSA_niter_2"}) {
    Model model;
    const Tensor before = model.layers[0]->q_proj->weight().clone();
    expect_error<ValueError>(
        [&] {
          inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj", "norm"}, .init_lora_weights = scheme});
        },
        "a module of type Norm cannot be adapted");
    EXPECT_EQ(distance(model.layers[0]->q_proj->weight(), before), 0);

    const test::TemporaryFolder folder;
    inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}, .init_lora_weights = scheme});
    save_pretrained(model, folder.path());
    safetensors::save(folder.path() + "/adapter_model.safetensors", {{"stray", Tensor::zeros({1})}});
    Model fresh;
    expect_error<ValueError>([&] { load_pretrained(fresh, folder.path()); }, "these are missing");
    EXPECT_EQ(distance(fresh.layers[0]->q_proj->weight(), before), 0);
  }
}

}  // namespace
}  // namespace graft::adapters
