#include "graft/adapters/verify.h"

#include <gtest/gtest.h>

#include <set>

#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/autograd/ops.h"

#include "../support/errors.h"
#include "layers.h"

namespace graft::adapters {
namespace {

using test::expect_error;

const LoraConfig on_q_and_v{.r = 4, .target_modules = {"q_proj", "v_proj"}};

TEST(Verify, TellsSilentLayersFromThoseThatChange) {
  for (const auto& format : test::formats) {
    SCOPED_TRACE(format);
    test::Model model(format);
    inject(model, on_q_and_v);
    const auto fresh = verify(model);
    ASSERT_EQ(fresh.size(), 4u);
    EXPECT_EQ(fresh[3].path, "model.layers.1.v_proj");
    for (const auto& change : fresh) EXPECT_EQ(change.relative, 0) << change.path;
    for_each_layer(model, [](const std::string& path, AdapterLayer& layer) {
      if (path == "model.layers.1.q_proj") test::randomise(layer, "default", 1);
    });
    for (const auto& change : verify(model))
      EXPECT_EQ(change.relative > 1e-3, change.path == "model.layers.1.q_proj") << change.path;
  }
}

TEST(Verify, IsTheRelativeChangeOfTheOutput) {
  test::Model model;
  inject(model, on_q_and_v);
  // B A = W with scaling 1: twice the base's output, a change of 1.
  for_each_layer(model, [](const std::string& path, AdapterLayer& layer) {
    if (path != "model.layers.0.q_proj") return;
    struct Filler final : Visitor {
      Tensor weight;
      void parameter(std::string_view name, Tensor& tensor) override {
        tensor = name.starts_with("lora_A") ? weight.clone() : to(Tensor::eye(64), weight.device());
      }
    } filler;
    filler.weight = layer.weight() * 2.0;  // scaling is 8 / 4
    layer.adapter("default")->visit(filler, "default");
  });
  EXPECT_NEAR(verify(model).front().relative, 4, 1e-4);
}

TEST(Verify, LooksAtOneAdapterWhateverIsActiveAndChangesNothing) {
  test::Model model("gptq");
  inject(model, on_q_and_v, {.adapter_name = "a"});
  LoraConfig loud = on_q_and_v;
  loud.init_lora_weights = false;
  inject(model, loud, {.adapter_name = "b"});
  set_training(model, true);
  enable_adapters(model, false);
  for (const auto& change : verify(model, "a")) EXPECT_EQ(change.relative, 0);
  for (const auto& change : verify(model, "b")) EXPECT_GT(change.relative, 0);
  for_each_layer(model, [](const std::string&, AdapterLayer& layer) {
    EXPECT_TRUE(layer.training());
    EXPECT_TRUE(layer.disable_adapters());
    EXPECT_EQ(layer.active_adapters(), std::vector<std::string>{"a"});
  });
  expect_error<ValueError>([&] { verify(model, "c"); }, "there is no adapter 'c' in this model");
}

TEST(Verify, ATrainedBiasIsAChangeWhetherItIsInPlaceOrNot) {
  test::Model model("gptq", true);
  inject(model, LoraConfig{.r = 4, .target_modules = {"q_proj"}, .bias = "lora_only"});
  EXPECT_EQ(verify(model).front().relative, 0);
  for (const auto& [name, tensor] : trainable(model))
    if (name == "model.layers.0.q_proj.base_layer.bias") tensor.copy_(tensor.detach() + 0.5);
  const auto in_place = verify(model);
  EXPECT_GT(in_place[0].relative, 0.1);
  EXPECT_EQ(in_place[1].relative, 0);
  enable_adapters(model, false);
  const auto taken_out = verify(model);
  for (int i : {0, 1}) EXPECT_NEAR(taken_out[i].relative, in_place[i].relative, 1e-5);
}

TEST(Verify, ARefusalLeavesTrainingModeOn) {
  test::Model model;
  inject(model, on_q_and_v);
  merge_adapter(model);
  set_training(model, true);
  expect_error<ValueError>([&] { verify(model); }, "while some are merged");
  for_each_layer(model, [](const std::string&, AdapterLayer& layer) { EXPECT_TRUE(layer.training()); });
}

TEST(Fingerprint, IsTheBasesAlone) {
  std::set<std::string> seen;
  for (const auto& format : test::formats) {
    test::Model model(format), same(format);
    const std::string print = fingerprint(model);
    EXPECT_EQ(print.size(), 16u);
    EXPECT_EQ(fingerprint(same), print);
    inject(model, LoraConfig{.target_modules = {"q_proj"}, .init_lora_weights = false});
    EXPECT_EQ(fingerprint(model), print) << "adapters do not count";
    seen.insert(print);
  }
  EXPECT_EQ(seen.size(), 4u);

  test::Model model;
  const std::string before = fingerprint(model);
  model.lm_head->weight().fill_(0.5);
  EXPECT_NE(fingerprint(model), before);
}

TEST(Fingerprint, ATrainedCopyOfAWeightIsNotTheBases) {
  test::Model model;
  const std::string before = fingerprint(model);
  inject(model, LoraConfig{.target_modules = {"q_proj"}, .modules_to_save = {"lm_head"}});
  model.lm_head->weight().fill_(0.5);
  EXPECT_EQ(fingerprint(model), before);
}

TEST(Fingerprint, TheDtypeThatACheckpointIsLoadedInMakesNoDifference) {
  test::Model wide, half;
  for (auto* model : {&wide, &half})
    for_each_slot(*model, [&](const std::string&, SlotBase& slot) {
      const auto layer = std::dynamic_pointer_cast<LinearBase>(slot.module());
      if (layer)
        slot.replace(std::make_shared<Linear>(to(to(layer->weight(), DType::bf16), model == &half ? DType::bf16 : DType::f32)));
    });
  EXPECT_EQ(fingerprint(wide), fingerprint(half));
}

}  // namespace
}  // namespace graft::adapters
