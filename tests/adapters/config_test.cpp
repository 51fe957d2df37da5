#include "graft/adapters/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "graft/adapters/warning.h"
#include "graft/core/formats/json.h"

#include "../support/errors.h"

namespace graft::config_test {
namespace {

using test::expect_error;
using Json = nlohmann::json;

template <class C>
C round_trip(const C& config) {
  C back = std::get<C>(config_from_json(to_json(config)));
  EXPECT_TRUE(back.inference_mode);  // as PEFT writes it
  back.inference_mode = config.inference_mode;
  back.peft_version = config.peft_version;
  return back;
}

TEST(Config, EveryFieldSurvivesTheFile) {
  const LoraConfig lora{.r = 16,
                        .lora_alpha = 24.5,
                        .target_modules = {"q_proj", "v_proj"},
                        .lora_dropout = 0.1,
                        .bias = "lora_only",
                        .use_rslora = true,
                        .init_lora_weights = "gaussian",
                        .use_qalora = true,
                        .qalora_group_size = 64,
                        .qalora_scale = QALoraScale::paper,
                        .rank_pattern = {{"q_proj", 4}},
                        .alpha_pattern = {{"v_proj", 8}},
                        .exclude_modules = ".*7.*",
                        .modules_to_save = {"lm_head"},
                        .layers_to_transform = {1, 2},
                        .layers_pattern = {"layers"},
                        .task_type = "CAUSAL_LM",
                        .base_model_name_or_path = "base",
                        .revision = "main",
                        .auto_mapping = R"({"parent_library":"x"})"};
  EXPECT_EQ(round_trip(lora), lora);
  const AdaLoraConfig adalora{.target_r = 2,
                              .init_r = 6,
                              .tinit = 4,
                              .tfinal = 20,
                              .deltaT = 2,
                              .beta1 = 0.7,
                              .beta2 = 0.9,
                              .orth_reg_weight = 0.1,
                              .total_step = 40,
                              .lora_alpha = 12,
                              .target_modules = ".*proj",
                              .init_lora_weights = false,
                              .rank_pattern = {{"q_proj.lora_E", {true, false, true, true, false, false}}}};
  EXPECT_EQ(round_trip(adalora), adalora);
  const OFTConfig oft{.r = 4,
                      .oft_block_size = 0,
                      .module_dropout = 0.5,
                      .target_modules = {"k"},
                      .bias = "oft_only",
                      .init_weights = false,
                      .coft = true,
                      .eps = 1e-3,
                      .block_share = true,
                      .use_cayley_neumann = false,
                      .num_cayley_neumann_terms = 7};
  EXPECT_EQ(round_trip(oft), oft);
}

TEST(Config, TheFileHasPeftsKeys) {
  const Json lora = parse_json<Json>(to_json(LoraConfig{})), adalora = parse_json<Json>(to_json(AdaLoraConfig{})),
             oft = parse_json<Json>(to_json(OFTConfig{}));
  EXPECT_EQ(lora.size(), 41u);
  EXPECT_EQ(adalora.size(), 50u);
  EXPECT_EQ(oft.size(), 23u);
  EXPECT_EQ(lora.at("peft_type"), "LORA");
  EXPECT_EQ(dump_json(lora.at("lora_alpha")), "8");  // an integer, as PEFT types it
  EXPECT_TRUE(lora.at("target_modules").is_null());
  EXPECT_EQ(lora.at("loftq_config"), Json::object());
  EXPECT_EQ(dump_json(oft.at("eps")), "6e-05");
}

TEST(Config, WhatPeftWritesOtherwise) {
  const auto read = [](const std::string& text) { return std::get<LoraConfig>(config_from_json(text)); };
  EXPECT_EQ(read(R"({"peft_type": "LORA"})").r, 8);
  EXPECT_EQ(read(R"({"peft_type": "LORA", "layers_to_transform": 3})").layers_to_transform, std::vector<std::int64_t>{3});
  EXPECT_EQ(read(R"({"peft_type": "LORA", "layers_to_transform": [1], "layers_pattern": "h"})").layers_pattern,
            std::vector<std::string>{"h"});
  EXPECT_EQ(read(R"({"peft_type": "LORA", "rank_pattern": {"z": 1, "a": 2}})").rank_pattern.front().first,
            "z");  // their order decides
  EXPECT_EQ(read(R"({"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"})").init_lora_weights,
            InitWeights("pissa_niter_4"));
}

TEST(Config, WarnsAboutWhatItDrops) {
  const auto warnings = [](const std::string& text) {
    const adapters::WarningScope scope;
    config_from_json(text);
    return scope.messages();
  };
  EXPECT_TRUE(warnings(R"({"peft_type": "LORA"})").empty());
  ASSERT_EQ(warnings(R"({"peft_type": "LORA", "unheard_of": 1})").size(), 1u);
  EXPECT_NE(warnings(R"({"peft_type": "LORA", "unheard_of": 1})")[0].find("unheard_of"), std::string::npos);
  EXPECT_EQ(warnings(R"({"peft_type": "LORA", "loftq_config": {"loftq_bits": 4}})").size(), 1u);
  EXPECT_EQ(warnings(R"({"peft_type": "OFT", "oft_block_size": 32, "peft_version": "0.17.1"})").size(), 1u);
  EXPECT_EQ(warnings(R"({"peft_type": "OFT", "oft_block_size": 32})").size(), 1u);
  EXPECT_TRUE(warnings(R"({"peft_type": "OFT", "oft_block_size": 32, "peft_version": "0.18.0"})").empty());
  EXPECT_EQ(warnings(R"({"peft_type": "ADALORA", "total_step": 10, "r": 4})").size(), 1u);
}

TEST(Config, RefusesFilesThatItCannotFollow) {
  const auto refuse = [](const std::string& text, const std::string& words) {
    expect_error<ValueError>([&] { config_from_json(text); }, words);
  };
  refuse("[]", "not a JSON object");
  refuse("{", "not a JSON object");
  expect_error<TypeError>([] { config_from_json(R"({"r": 8})"); }, "peft_type is missing");
  refuse(R"({"peft_type": "LOHA"})", "peft_type is 'LOHA', not one of LORA, ADALORA, OFT");
  refuse(R"({"peft_type": "LORA", "r": "eight"})", "r has an unexpected value: \"eight\"");
  for (const char* number : {"1e300", "-1e300", "9007199254740994.0", "18446744073709551615", "1.5"})
    refuse(fmt::format(R"({{"peft_type": "LORA", "r": {}}})", number), "r has an unexpected value: ");
  refuse(R"({"peft_type": "LORA", "target_modules": [1]})", "target_modules has an unexpected value: [1]");
  refuse(R"({"peft_type": "LORA", "rank_pattern": {"q": null}})", "rank_pattern has an unexpected value");
  refuse(R"({"peft_type": "LORA", "qalora_scale": "mine"})", "qalora_scale is \"mine\", not one of peft, paper, authors");
  refuse(R"({"peft_type": "OFT", "r": 8})", "no oft_block_size");
  refuse(R"({"peft_type": "ADALORA", "total_step": 10, "use_dora": true})", "AdaLoRA does not support DoRA");
  for (const char* key :
       {"alora_invocation_tokens", "layer_replication", "trainable_token_indices", "target_parameters", "use_bdlora"})
    expect_error<NotImplementedError>([&] { config_from_json(fmt::format(R"({{"peft_type": "LORA", "{}": [1]}})", key)); }, key);
}

template <class C>
void refused(const C& config, const std::string& words) {
  expect_error<ValueError>([&] { validate(config); }, words);
}

TEST(Config, RefusesWhatCannotWork) {
  refused(LoraConfig{.target_modules = ".*", .layers_to_transform = {1}},
          "layers_to_transform cannot be used when target_modules is a regular");
  refused(LoraConfig{.target_modules = {"q"}, .layers_pattern = {"h"}}, "layers_pattern is given without layers_to_transform");
  refused(LoraConfig{.lora_dropout = 1}, "lora_dropout is 1, not a probability in [0, 1)");
  refused(LoraConfig{.bias = "oft_only"}, "bias is 'oft_only', not one of none, all, lora_only");
  refused(LoraConfig{.init_lora_weights = "gaussian", .lora_bias = true},
          "lora_bias needs init_lora_weights to be true or false");
  refused(LoraConfig{.lora_bias = true, .use_dora = true}, "lora_bias cannot be combined with use_dora");
  refused(LoraConfig{.use_qalora = true, .qalora_group_size = 0}, "qalora_group_size is 0");
  refused(LoraConfig{.fan_in_fan_out = true}, "fan_in_fan_out");
  refused(LoraConfig{.task_type = "NONSENSE"}, "task_type is 'NONSENSE'");

  refused(AdaLoraConfig{}, "total_step");
  refused(AdaLoraConfig{.tinit = 6, .tfinal = 4, .total_step = 10}, "no step is left for budgeting");
  refused(AdaLoraConfig{.beta1 = 1, .total_step = 10}, "beta1 is 1");
  refused(AdaLoraConfig{.beta2 = 0, .total_step = 10}, "beta2 is 0");
  refused(AdaLoraConfig{.orth_reg_weight = -1, .total_step = 10}, "orth_reg_weight is -1");
  refused(AdaLoraConfig{.target_r = 13, .total_step = 10}, "target_r is 13, not between 0 and init_r = 12");
  refused(AdaLoraConfig{.deltaT = 0, .total_step = 10}, "deltaT is 0");
  refused(AdaLoraConfig{.total_step = 10, .init_lora_weights = "gaussian"}, "there are no schemes");
  validate(AdaLoraConfig{.orth_reg_weight = 0, .total_step = 10});
  validate(AdaLoraConfig{.target_r = 12, .total_step = 10});

  refused(OFTConfig{.r = 8}, "cannot both be set");
  refused(OFTConfig{.r = 0, .oft_block_size = 0}, "both are 0");
  refused(OFTConfig{.r = -1, .oft_block_size = 0}, "must not be negative");
  refused(OFTConfig{.module_dropout = 1.5}, "module_dropout is 1.5");
  refused(OFTConfig{.coft = true, .eps = 0}, "eps, the radius of COFT, is 0, not a positive number");
}

TEST(Config, RefusesNumbersThatAreNone) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  for (const double none : {inf, -inf, std::nan("")}) {
    const std::string words = fmt::format(" is {}, not a finite number", none);
    refused(LoraConfig{.lora_alpha = none}, "lora_alpha" + words);
    refused(LoraConfig{.lora_dropout = none}, "lora_dropout" + words);
    refused(LoraConfig{.alpha_pattern = {{"q_proj", 1}, {"v_proj", none}}}, "alpha_pattern['v_proj']" + words);
    refused(AdaLoraConfig{.total_step = 10, .lora_alpha = none}, "lora_alpha" + words);
    refused(AdaLoraConfig{.beta1 = none, .total_step = 10}, "beta1" + words);
    refused(AdaLoraConfig{.orth_reg_weight = none, .total_step = 10}, "orth_reg_weight" + words);
    refused(OFTConfig{.eps = none}, "eps" + words);
    refused(OFTConfig{.module_dropout = none}, "module_dropout" + words);
  }
}

TEST(Config, WritesWholeNumbersAsSuchAsFarAsADoubleCountsThem) {
  const auto written = [](double alpha) {
    const Json json = parse_json<Json>(to_json(LoraConfig{.lora_alpha = alpha, .alpha_pattern = {{"q", alpha}}}));
    EXPECT_EQ(json.at("alpha_pattern").at("q"), json.at("lora_alpha"));
    return dump_json(json.at("lora_alpha"));
  };
  EXPECT_EQ(written(16), "16");
  EXPECT_EQ(written(-3), "-3");
  EXPECT_EQ(written(0.5), "0.5");
  EXPECT_EQ(written(0x1p53 - 1), "9007199254740991");
  EXPECT_EQ(written(0x1p53), "9.007199254740992e+15");
  EXPECT_EQ(written(1e300), "1e+300");
  EXPECT_EQ(written(-1e300), "-1e+300");
}

}  // namespace
}  // namespace graft::config_test
