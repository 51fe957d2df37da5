#include "graft/adapters/match.h"

#include <gtest/gtest.h>

#include "../support/errors.h"
#include "layers.h"

namespace graft::adapters {
namespace {

using test::expect_error;

const std::string q0 = "model.layers.0.self_attn.q_proj", q3 = "model.layers.3.self_attn.q_proj";

Match matched(const LoraConfig& config, const std::string& path) { return match(selection(config), path); }

TEST(Match, NamesAreWholePathsOrTheirEndsBehindADot) {
  EXPECT_EQ(matched({.target_modules = {"q_proj"}}, q0), Match::yes);
  EXPECT_EQ(matched({.target_modules = {"self_attn.q_proj"}}, q0), Match::yes);
  EXPECT_EQ(matched({.target_modules = {q0}}, q0), Match::yes);
  EXPECT_EQ(matched({.target_modules = {"proj"}}, q0), Match::no);
  EXPECT_EQ(matched({.target_modules = {"q_proj"}}, "q_proj"), Match::yes);
  EXPECT_EQ(matched({.target_modules = {"q_proj"}}, "model.q_proj.inner"), Match::no);
}

TEST(Match, AStringIsARegularExpressionForTheWholePath) {
  EXPECT_EQ(matched({.target_modules = ".*\\.(q_proj|v_proj)"}, q0), Match::yes);
  EXPECT_EQ(matched({.target_modules = "q_proj"}, q0), Match::no);
  EXPECT_EQ(matched({.target_modules = ".*layers\\.[02]\\..*"}, q0), Match::yes);
  EXPECT_EQ(matched({.target_modules = ".*layers\\.[02]\\..*"}, q3), Match::no);
  expect_error<ValueError>([] { matched({.target_modules = "(q_proj"}, q0); }, "'(q_proj' is not a regular expression");
}

TEST(Match, ExcludedModules) {
  EXPECT_EQ(matched({.target_modules = {"q_proj"}, .exclude_modules = {q0}}, q0), Match::excluded);
  EXPECT_EQ(matched({.target_modules = {"q_proj"}, .exclude_modules = {q0}}, q3), Match::yes);
  EXPECT_EQ(matched({.target_modules = {"q_proj"}, .exclude_modules = {"q_proj"}}, q3), Match::excluded);
  EXPECT_EQ(matched({.target_modules = {"q_proj"}, .exclude_modules = ".*\\.3\\..*"}, q3), Match::excluded);
}

TEST(Match, WhatIsSavedWholeGetsNoAdapterNorDoesAnythingBelow) {
  const LoraConfig config{.target_modules = {"q_proj", "lm_head"}, .modules_to_save = {"lm_head", "self_attn"}};
  EXPECT_EQ(matched(config, "lm_head"), Match::excluded);
  EXPECT_EQ(matched(config, q0), Match::excluded);
  EXPECT_EQ(matched(config, "model.my_self_attn.q_proj"), Match::yes);
}

TEST(Match, LayersToTransform) {
  const auto in_layer = [](std::vector<std::int64_t> layers, std::vector<std::string> pattern = {}) {
    return LoraConfig{
        .target_modules = {"q_proj"}, .layers_to_transform = std::move(layers), .layers_pattern = std::move(pattern)};
  };
  EXPECT_EQ(matched(in_layer({3}), q3), Match::yes);
  EXPECT_EQ(matched(in_layer({3}), q0), Match::no);
  EXPECT_EQ(matched(in_layer({0, 3}), q0), Match::yes);
  EXPECT_EQ(matched(in_layer({}), q0), Match::yes);
  // The first number counts, and it needs two components before it.
  EXPECT_EQ(matched(in_layer({1}), "model.experts.1.blocks.2.q_proj"), Match::yes);
  EXPECT_EQ(matched(in_layer({2}), "model.experts.1.blocks.2.q_proj"), Match::no);
  EXPECT_EQ(matched(in_layer({1}), "layers.1.q_proj"), Match::no);
  EXPECT_EQ(matched(in_layer({2}, {"blocks"}), "model.experts.1.blocks.2.q_proj"), Match::yes);
  EXPECT_EQ(matched(in_layer({2}, {"h", "blocks"}), "model.experts.1.blocks.2.q_proj"), Match::yes);
  EXPECT_EQ(matched(in_layer({2}, {"h"}), "model.experts.1.blocks.2.q_proj"), Match::no);
  // A whole path is meant whatever its layer.
  EXPECT_EQ(match(selection(LoraConfig{.target_modules = {q0}, .layers_to_transform = {3}}), q0), Match::yes);
}

TEST(Match, AllLinearSeesQuantizedLayersAndLeavesTheOutputAlone) {
  for (const auto& format : test::formats) {
    test::Model model(format);
    const auto paths = all_linear(model, "");
    EXPECT_EQ(paths.size(), 6u) << format;
    EXPECT_EQ(paths.front(), "model.layers.0.q_proj");
    EXPECT_EQ(std::count(paths.begin(), paths.end(), "lm_head"), 0);
    EXPECT_EQ(all_linear(model, "SEQ_CLS").size(), 7u);  // there lm_head is a layer like any other
  }
}

TEST(Match, AllLinearTakesALayerOfABlockForNoOutput) {
  struct Named final : Module {
    std::vector<std::pair<std::string, Slot<LinearBase>>> children;
    std::string type_name() const override { return "Named"; }
    void visit(Visitor& visitor) override {
      for (auto& [name, slot] : children) visitor.child(name, slot);
    }
  } model;
  for (const char* name : {"encoder.layer.0.output", "encoder.layer.0.score", "layers.1.lm_head", "output", "head.score"})
    model.children.emplace_back(name, test::make_base("dense", 64, 64));
  std::vector<std::string> left_out;
  EXPECT_EQ(all_linear(model, "", &left_out),
            (std::vector<std::string>{"encoder.layer.0.output", "encoder.layer.0.score", "layers.1.lm_head", "head.score"}));
  EXPECT_EQ(left_out, std::vector<std::string>{"output"});
  EXPECT_EQ(all_linear(model, "SEQ_CLS"),
            (std::vector<std::string>{"encoder.layer.0.output", "encoder.layer.0.score", "layers.1.lm_head", "output"}));
}

TEST(Match, PatternsTakeTheFirstKeyThatMatches) {
  const Pattern<std::int64_t> ranks = {
      {"q_proj", 4}, {"layers.3.self_attn.q_proj", 2}, {"^model.layers.0.self_attn.v_proj", 8}, {".*gate.*", 1}};
  EXPECT_EQ(look_up(ranks, q0), 4);
  EXPECT_EQ(look_up(ranks, q3), 4);
  EXPECT_EQ(look_up(ranks, "model.layers.0.self_attn.v_proj"), 8);
  EXPECT_EQ(look_up(ranks, "model.layers.0.mlp.gate_proj"), 1);
  EXPECT_EQ(look_up(ranks, "model.layers.0.my_q_proj"), std::nullopt);
  expect_error<ValueError>([] { look_up(Pattern<double>{{"[", 1}}, q0); }, "is not a regular expression");
}

TEST(Match, DefaultTargets) {
  EXPECT_EQ(default_targets("llama"), (Targets{"q_proj", "v_proj"}));
  expect_error<ValueError>([] { default_targets("nonsense"); }, "no default for architecture 'nonsense'");
}

}  // namespace
}  // namespace graft::adapters
