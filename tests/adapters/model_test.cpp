#include "graft/adapters/model.h"

#include <gtest/gtest.h>

#include "graft/adapters/inject.h"
#include "graft/adapters/lora.h"
#include "graft/adapters/routing.h"
#include "graft/adapters/warning.h"
#include "graft/autograd/ops.h"

#include "../support/errors.h"
#include "layers.h"

namespace graft::adapters::model_test {
namespace {

using test::distance;
using test::expect_error;

using Names = std::vector<std::string>;

const Tensor x = test::random({3, 64}, 5);

/// "a" on q_proj, "b" on q_proj and v_proj; both do something, and "a" is active.
std::unique_ptr<test::Model> model_with_two(const std::string& format = "dense") {
  auto model = std::make_unique<test::Model>(format);
  inject(*model, LoraConfig{.r = 4, .target_modules = {"q_proj"}, .init_lora_weights = false}, {.adapter_name = "a"});
  inject(*model, LoraConfig{.r = 2, .target_modules = {"q_proj", "v_proj"}, .init_lora_weights = false}, {.adapter_name = "b"});
  return model;
}

std::vector<float> bits(const Tensor& t) { return t.to_vector<float>(); }

Names paths(Module& model) {
  Names found;
  for_each_layer(model, [&](const std::string& path, AdapterLayer&) { found.push_back(path); });
  return found;
}

TEST(AdaptedModel, ListsAdaptersLayersAndTheParametersOfTheBase) {
  const auto model = model_with_two();
  EXPECT_EQ(adapter_names(*model), (Names{"a", "b"}));
  EXPECT_EQ(paths(*model),
            (Names{"model.layers.0.q_proj", "model.layers.0.v_proj", "model.layers.1.q_proj", "model.layers.1.v_proj"}));
  Names base;
  for_each_base_parameter(*model, [&](const std::string& path, Tensor&) { base.push_back(path); });
  EXPECT_EQ(base, (Names{"model.layers.0.q_proj.base_layer.weight", "model.layers.0.v_proj.base_layer.weight",
                         "model.layers.0.down_proj.weight", "model.layers.1.q_proj.base_layer.weight",
                         "model.layers.1.v_proj.base_layer.weight", "model.layers.1.down_proj.weight", "model.norm.weight",
                         "lm_head.weight"}));
}

TEST(AdaptedModel, RenamingChangesNothingElse) {
  const auto model = model_with_two("gptq");
  const auto y = bits(model->forward(x));
  rename_adapter(*model, "a", "z");
  EXPECT_EQ(adapter_names(*model), (Names{"z", "b"}));
  EXPECT_EQ(bits(model->forward(x)), y);
  for (const auto& [name, tensor] : trainable(*model)) EXPECT_NE(name.find(".z."), std::string::npos) << name;
  rename_adapter(*model, "z", "z");
  expect_error<ValueError>([&] { rename_adapter(*model, "z", "b"); }, "there is an adapter 'b' already");
  expect_error<ValueError>([&] { rename_adapter(*model, "a", "c"); }, "there is no adapter 'a' in this model, only z, b");
  for (const char* name : {"", "z.1", base_name})
    expect_error<ValueError>([&] { rename_adapter(*model, "z", name); }, "cannot be the name of an adapter");
  EXPECT_EQ(adapter_names(*model), (Names{"z", "b"}));
}

TEST(AdaptedModel, DeletingTakesOneAwayEverywhere) {
  const auto model = model_with_two("awq");
  test::Model bare("awq");
  const NoGrad no_grad;
  set_adapter(*model, {"b"});
  const auto with_b = bits(model->forward(x));
  set_adapter(*model, {"a"});
  WarningScope warnings;
  delete_adapter(*model, "a");
  EXPECT_EQ(adapter_names(*model), Names{"b"});
  EXPECT_EQ(warnings.messages(), Names{"adapter 'a' was active and is gone; 'b' is active now"});
  for_each_layer(*model, [](const std::string&, AdapterLayer& layer) { EXPECT_EQ(layer.active_adapters(), Names{"b"}); });
  set_adapter(*model, {"b"});
  EXPECT_EQ(bits(model->forward(x)), with_b);
  expect_error<ValueError>([&] { delete_adapter(*model, "a"); }, "there is no adapter 'a' in this model, only b");
  delete_adapter(*model, "b");
  EXPECT_EQ(bits(model->forward(x)), bits(bare.forward(x)));
}

TEST(AdaptedModel, LayersWithoutAnAdapterFollowItsNameAndItsEnd) {
  const auto model = model_with_two();
  const auto active = [&](const Names& names) {
    for_each_layer(*model,
                   [&](const std::string& path, AdapterLayer& layer) { EXPECT_EQ(layer.active_adapters(), names) << path; });
  };
  set_adapter(*model, {"b", "a"});
  rename_adapter(*model, "a", "z");
  active({"b", "z"});
  // A new adapter of the old name is not active where the old one never was.
  inject(*model, LoraConfig{.r = 2, .target_modules = {"v_proj"}}, {.adapter_name = "a"});
  active({"b", "z"});
  delete_adapter(*model, "z");
  active({"b"});
  set_adapter(*model, {});
  delete_adapter(*model, "a");
  active({});
}

TEST(AdaptedModel, AMergedAdapterIsNotDeletedAnywhere) {
  const auto model = model_with_two();
  set_adapter(*model, {"b"});
  for_each_layer(*model, [](const std::string& path, AdapterLayer& layer) {
    if (path == "model.layers.1.v_proj") layer.merge();
  });
  expect_error<ValueError>([&] { delete_adapter(*model, "b"); }, "model.layers.1.v_proj: adapter 'b' is merged");
  for_each_layer(*model, [](const std::string&, AdapterLayer& layer) { EXPECT_TRUE(layer.has_adapter("b")); });
}

TEST(AdaptedModel, SwitchesAdaptersAndSwitchesThemOff) {
  const auto model = model_with_two();
  test::Model bare;
  const auto y0 = bits(bare.forward(x)), with_a = bits(model->forward(x));
  set_adapter(*model, {"b"});
  const auto with_b = bits(model->forward(x));
  set_adapter(*model, {"b", "a"});
  const auto with_both = bits(model->forward(x));
  EXPECT_NE(with_a, with_b);
  EXPECT_NE(with_both, with_b);
  EXPECT_EQ(trainable(*model).size(), 4u + 8u);
  enable_adapters(*model, false);
  EXPECT_EQ(bits(model->forward(x)), y0);
  enable_adapters(*model, true);
  EXPECT_EQ(bits(model->forward(x)), with_both);
  set_adapter(*model, {});
  EXPECT_EQ(bits(model->forward(x)), y0);
  set_adapter(*model, {"a"}, true);
  EXPECT_EQ(bits(model->forward(x)), with_a);
  EXPECT_TRUE(trainable(*model).empty()) << "for inference";
  expect_error<ValueError>([&] { set_adapter(*model, {"a", "c"}); }, "there is no adapter 'c' in this model, only a, b");
  EXPECT_EQ(bits(model->forward(x)), with_a);
}

TEST(AdaptedModel, MergedAdaptersAreTakenOutBeforeOthersBecomeActive) {
  const auto model = model_with_two();
  set_adapter(*model, {"b"});
  const Tensor with_b = model->forward(x);
  set_adapter(*model, {"a"});
  merge_adapter(*model);
  const WarningScope warnings;
  set_adapter(*model, {"b"});
  EXPECT_EQ(warnings.messages().size(), 2u);
  EXPECT_LT(distance(model->forward(x), with_b), 1e-4);
}

TEST(AdaptedModel, OnlyOneTrainedCopyOfAModuleIsInPlace) {
  test::Model model;
  const LoraConfig config{.r = 2, .target_modules = {"q_proj"}, .modules_to_save = {"norm"}};
  inject(model, config, {.adapter_name = "a"});
  inject(model, config, {.adapter_name = "b"});
  model.norm->weight.fill_(2);
  set_adapter(model, {"b"});
  EXPECT_EQ(model.norm->weight.to_vector<float>()[0], 1);
  model.norm->weight.fill_(3);
  set_adapter(model, {"a"});
  EXPECT_EQ(model.norm->weight.to_vector<float>()[0], 2);
  expect_error<ValueError>(
      [&] {
        set_adapter(model, {"a", "b"});
      },
      "model.norm.weight: adapters 'a' and 'b' both have a trained copy of it");
  for_each_layer(model, [](const std::string&, AdapterLayer& layer) { EXPECT_EQ(layer.active_adapters(), Names{"a"}); });
  EXPECT_EQ(model.norm->weight.to_vector<float>()[0], 2);
  delete_adapter(model, "a");
  delete_adapter(model, "b");
  EXPECT_EQ(model.norm->weight.to_vector<float>()[0], 1);
}

// ---- per call ----

TEST(Routing, GuardsNestAndEnd) {
  const auto model = model_with_two();
  const NoGrad no_grad;
  const auto with_a = bits(model->forward(x));
  {
    const UseAdapters none(*model, {});
    const auto y0 = bits(model->forward(x));
    EXPECT_NE(y0, with_a);
    {
      const MixedBatch mixed(*model, {"a", "b", base_name});
      const auto y = bits(model->forward(x));
      EXPECT_NE(y, y0);
    }
    EXPECT_EQ(bits(model->forward(x)), y0);
  }
  EXPECT_EQ(bits(model->forward(x)), with_a);
  EXPECT_EQ(routing(), nullptr);
}

TEST(Routing, RefusesNamesRowsModesAndMergedLayers) {
  const auto model = model_with_two();
  expect_error<ValueError>([&] { UseAdapters(*model, {"c"}); }, "no layer of the model has an adapter 'c'");
  expect_error<ValueError>([&] { UseAdapters(*model, {base_name}); }, "no layer of the model has an adapter '__base__'");
  expect_error<ValueError>([&] { MixedBatch(*model, {"a", "c", "a"}); }, "no layer of the model has an adapter 'c'");
  EXPECT_EQ(routing(), nullptr) << "a guard that was refused leaves nothing behind";
  {
    const MixedBatch two(*model, {"a", "b"});
    expect_error<ValueError>([&] { model->forward(x); }, "2 adapter names are given for an input of shape [3, 64]");
  }
  set_training(*model, true);
  expect_error<ValueError>([&] { MixedBatch(*model, {"a", "b", "a"}); }, "the model is in training mode");
  set_training(*model, false);
  merge_adapter(*model);
  const MixedBatch mixed(*model, {"a", "b", "a"});
  expect_error<ValueError>([&] { model->forward(x); }, "while some are merged (a); unmerge first");
  const UseAdapters use(*model, {"b"});
  expect_error<ValueError>([&] { model->forward(x); }, "while some are merged (a); unmerge first");
}

TEST(Routing, TrainedCopiesOfTheModelsParametersAreNotChosenPerCall) {
  const NoGrad no_grad;
  const LoraConfig plain{.r = 2, .target_modules = {"q_proj"}, .init_lora_weights = false};
  for (const bool biases : {false, true}) {
    LoraConfig config = plain;
    if (biases) config.bias = "lora_only";
    else config.modules_to_save = {"norm"};
    test::Model model("gptq", true);
    inject(model, config, {.adapter_name = "copies"});
    inject(model, plain, {.adapter_name = "plain"});
    const char* another = "are in place for adapter 'copies', which not every row chooses";
    for (const Names& names : {Names{"copies", "copies", base_name}, {"plain", "plain", "plain"}, {"copies", "plain", "copies"}})
      expect_error<ValueError>([&] { MixedBatch(model, names); }, another);
    for (const Names& names : {Names{}, {"plain"}}) expect_error<ValueError>([&] { UseAdapters(model, names); }, another);
    const auto y = bits(model.forward(x));
    {
      const UseAdapters use(model, {"copies"});
      EXPECT_EQ(bits(model.forward(x)), y);
    }
    { const MixedBatch mixed(model, {"copies", "copies", "copies"}); }
    set_adapter(model, {"plain"});
    const char* absent =
        "adapter 'copies' has trained copies of the model's own parameters (modules_to_save, bias), which are not";
    expect_error<ValueError>([&] { MixedBatch(model, {"plain", "plain", "copies"}); }, absent);
    expect_error<ValueError>([&] { UseAdapters(model, {"copies"}); }, absent);
    const MixedBatch mixed(model, {"plain", base_name, "plain"});
  }
}

TEST(Routing, SwitchedOffALayerIsItsBaseWhateverIsChosen) {
  const NoGrad no_grad;
  for (const auto& format : test::formats) {
    const auto model = model_with_two(format);
    const auto y0 = bits(test::Model(format).forward(x));
    enable_adapters(*model, false);
    {
      const MixedBatch mixed(*model, {"a", "b", "a"});
      EXPECT_EQ(bits(model->forward(x)), y0) << format;
    }
    {
      const UseAdapters use(*model, {"b"});
      EXPECT_EQ(bits(model->forward(x)), y0) << format;
    }
    enable_adapters(*model, true);
    const MixedBatch mixed(*model, {"a", "b", "a"});
    EXPECT_NE(bits(model->forward(x)), y0) << format;
  }
}

// One product where nothing is recorded, and rows taken apart where it is.
TEST(Routing, AMixedBatchIsTheSameWithGradients) {
  for (const std::string format : {"gptq", "awq", "eetq"})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto model = model_with_two(format);
      const MixedBatch mixed(*model, {"b", base_name, "a"});
      const Tensor input = to(x, dtype), y = model->forward(input);
      EXPECT_TRUE(y.requires_grad());
      const NoGrad no_grad;
      const Tensor wide = to(y, DType::f32), nothing = Tensor::zeros(y.shape());
      EXPECT_LE(distance(to(model->forward(input), DType::f32), wide),
                (dtype == DType::f32 ? 1e-5 : 0x1p-6) * distance(wide, nothing))
          << format << " " << name(dtype);
    }
}

TEST(Routing, MethodsAndRanksMixInOneBatch) {
  for (const auto& format : test::formats) {
    SCOPED_TRACE(format);
    test::Model model(format);
    inject(model, LoraConfig{.r = 4, .target_modules = {"q_proj"}}, {.adapter_name = "lora"});
    inject(model, LoraConfig{.r = 8, .lora_alpha = 4, .target_modules = {"q_proj", "down_proj"}, .use_rslora = true},
           {.adapter_name = "wide"});
    inject(model, OFTConfig{.oft_block_size = 16, .target_modules = {"q_proj"}}, {.adapter_name = "turned"});
    inject(model, AdaLoraConfig{.target_r = 1, .init_r = 3, .total_step = 9, .target_modules = {"v_proj"}},
           {.adapter_name = "ranked"});
    const Names names = {"turned", "lora", base_name, "ranked", "wide", "lora", "turned"};
    for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
      for (const auto& name : layer.adapter_names()) test::randomise(layer, name, 7 + name.size());
    });
    const NoGrad no_grad;
    const Tensor input = test::random({7, 2, 64}, 6);
    const MixedBatch mixed(model, names);
    const Tensor y = model.forward(input);
    const double size = 1e-5 * distance(y, Tensor::zeros(y.shape()));
    for (int row = 0; row < 7; ++row) {
      const UseAdapters use(model, names[row] == base_name ? Names{} : Names{names[row]});
      EXPECT_LT(distance(slice(y, 0, row, row + 1), model.forward(slice(input, 0, row, row + 1))), size) << names[row];
    }
  }
}

/// A packed layer that notes what it is asked for.
struct Watched final : LinearBase {
  std::shared_ptr<LinearBase> layer;
  mutable int products = 0;
  mutable std::vector<std::int64_t> rows;  // of each term
  explicit Watched(std::shared_ptr<LinearBase> layer) : layer(std::move(layer)) {}
  std::string type_name() const override { return layer->type_name(); }
  void visit(Visitor& visitor) override { layer->visit(visitor); }
  std::int64_t in_features() const override { return layer->in_features(); }
  std::int64_t out_features() const override { return layer->out_features(); }
  Tensor bias() const override { return layer->bias(); }
  Tensor forward(const Tensor& x) const override { return ++products, layer->forward(x); }
  Tensor forward(const Tensor& x, std::span<const LowRankTerm> terms) const override {
    ++products;
    for (const LowRankTerm& term : terms) {
      rows.push_back(0);
      for (const RowRange& range : term.rows) rows.back() += range.end - range.begin;
    }
    return layer->forward(x, terms);
  }
};

TEST(Routing, RowsOfOneAdapterAreOneTermBesideOneProduct) {
  for (const auto& format : test::formats) {
    const auto base = std::make_shared<Watched>(test::make_base(format, 64, 32));
    AdapterLayer layer(base, "test");
    for (const char* name : {"a", "b"})
      layer.add_adapter(name, std::make_shared<lora::LoraAdapter>(*base->layer, lora::Options{.r = 2}, Rounding::before_scale));
    layer.set_training(false);
    const NoGrad no_grad;
    const RoutingGuard guard({{"a", "b", "a", base_name, "b", "a"}, true});
    layer.forward(test::random({6, 2, 64}, 6));
    EXPECT_EQ(base->products, 1) << format;
    EXPECT_EQ(base->rows, (std::vector<std::int64_t>{3 * 2, 2 * 2})) << format;
  }
}

}  // namespace
}  // namespace graft::adapters::model_test
