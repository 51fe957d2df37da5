// What the seeds state about their types by name: constructors and their defaults, both names of the base, dispatch, refusals.
#include <gtest/gtest.h>

#include <utility>

#include "graft/adapters/adalora.h"
#include "graft/adapters/oft.h"
#include "graft/adapters/wrappers.h"
#include "graft/autograd/ops.h"
#include "graft/quant/format.h"

#include "../support/errors.h"
#include "layers.h"

namespace graft {
namespace {

using test::distance;
using test::expect_error;
using test::make_base;

/// A layer under other words about who packed it.
std::shared_ptr<LinearBase> packed_by(const std::string& format, const std::string& producer, const std::string& version = "") {
  const auto layer = std::dynamic_pointer_cast<quant::QuantLinear>(make_base(format, 64, 32));
  quant::Stored stored{.module = format, .description = layer->format(), .in = 64, .out = 32, .tensors = {}};
  stored.description.producer = producer;
  stored.description.producer_version = version;
  for (const auto& [name, tensor] : layer->original()) stored.tensors[name] = tensor;
  return quant::make_layer(stored);
}

std::vector<std::shared_ptr<AdapterLayer>> one_of_each() {
  return {std::make_shared<lora::GPTQLoraLinear>(make_base("gptq", 64, 32, true), "default", lora::Options{.r = 4}),
          std::make_shared<lora::AwqLoraLinear>(make_base("awq", 64, 32, true), "default", lora::Options{.r = 4}),
          std::make_shared<lora::EetqLoraLinear>(make_base("eetq", 64, 32, true), "default", lora::Options{.r = 4}),
          std::make_shared<adalora::SVDQuantLinear>(make_base("gptq", 64, 32, true), "default", adalora::Options{.r = 4}),
          std::make_shared<oft::GPTQOFTLinear>(make_base("gptq", 64, 32, true), "default")};
}

TEST(Wrappers, LoraParametersHaveTheSeedsDefaults) {
  const lora::Options o;
  EXPECT_EQ(o.r, 0);
  EXPECT_EQ(o.lora_alpha, 1);
  EXPECT_EQ(o.lora_dropout, 0);
  EXPECT_EQ(o.init_lora_weights, InitWeights(true));
  EXPECT_FALSE(o.use_rslora);
  EXPECT_FALSE(o.use_dora);
  EXPECT_FALSE(o.use_qalora);
  EXPECT_FALSE(o.lora_bias);
  EXPECT_EQ(o.qalora_group_size, 32);
  EXPECT_EQ(LoraConfig().qalora_group_size, 16);
}

TEST(Wrappers, AdaLoraAndOftParametersHaveTheSeedsDefaults) {
  const adalora::Options a;
  EXPECT_EQ(a.r, 0);
  EXPECT_EQ(a.lora_alpha, 1);
  EXPECT_EQ(a.lora_dropout, 0);
  EXPECT_EQ(a.init_lora_weights, InitWeights(true));
  const oft::Options o;
  EXPECT_EQ(o.r, 8);
  EXPECT_EQ(o.oft_block_size, 0);
  EXPECT_EQ(o.module_dropout, 0);
  EXPECT_FALSE(o.coft);
  EXPECT_EQ(o.eps, 6e-5);
  EXPECT_FALSE(o.block_share);
  EXPECT_FALSE(o.use_cayley_neumann);
  EXPECT_EQ(o.num_cayley_neumann_terms, 5);
  EXPECT_FALSE(o.fan_in_fan_out);
  EXPECT_EQ(o.init_weights, InitWeights(true));
  const oft::GPTQOFTLinear layer(make_base("gptq", 64, 32), "default");
  EXPECT_EQ(std::dynamic_pointer_cast<oft::OFTAdapter>(layer.adapter("default"))->rotation().blocks(), 8);
}

TEST(Wrappers, TheBaseHasTwoNamesAndItsTensorsAreForwarded) {
  for (const auto& layer : one_of_each()) {
    SCOPED_TRACE(layer->type_name());
    const auto base = std::dynamic_pointer_cast<quant::QuantLinear>(layer->base_layer());
    EXPECT_EQ(layer->quant_linear_module(), layer->base_layer());
    EXPECT_EQ(distance(to(layer->qweight(), DType::f64), to(base->qweight(), DType::f64)), 0);
    EXPECT_TRUE(layer->bias().same(base->bias()));
    EXPECT_EQ(layer->weight().defined(), base->format().method == "eetq");  // EETQ's packed weight goes by that name too
  }
}

TEST(Wrappers, PrintedNamesBeginWithTheMethod) {
  std::vector<std::string> names;
  for (const auto& layer : one_of_each()) names.push_back(layer->type_name());
  EXPECT_EQ(names, (std::vector<std::string>{"lora.GPTQLoraLinear", "lora.AwqLoraLinear", "lora.EetqLoraLinear",
                                             "adalora.SVDQuantLinear", "oft.GPTQOFTLinear"}));
}

TEST(Wrappers, SwitchedOffTheyAreTheirBaseBitForBit) {
  const Tensor x = test::random({3, 64}, 5);
  for (const auto& layer : one_of_each()) {
    SCOPED_TRACE(layer->type_name());
    test::randomise(*layer, "default", 9);
    const Tensor y0 = layer->base_layer()->forward(x);
    EXPECT_GT(distance(layer->forward(x), y0), 1e-3);
    layer->enable_adapters(false);
    EXPECT_EQ(distance(layer->forward(x), y0), 0);
  }
}

TEST(Wrappers, HalfPrecisionComesBackAsItWent) {
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32})
    for (const auto& layer : one_of_each())
      EXPECT_EQ(layer->forward(test::random({3, 64}, 5, dtype)).dtype(), dtype) << layer->type_name();
}

TEST(Wrappers, NoPackedWeightIsMerged) {
  for (const auto& layer : one_of_each()) {
    SCOPED_TRACE(layer->type_name());
    if (layer->type_name() == "lora.EetqLoraLinear") {
      expect_error<AttributeError>([&] { layer->merge(); }, "Merging LoRA layers is not supported for Eetq layers.");
      expect_error<AttributeError>([&] { layer->unmerge(); }, "Unmerging LoRA layers is not supported for Eetq layers.");
    } else {
      expect_error<NotImplementedError>([&] { layer->merge(); }, "holds packed integers");
      expect_error<NotImplementedError>([&] { layer->unmerge(); }, "holds packed integers");
    }
  }
}

TEST(Wrappers, DoraIsRefusedBeforeAnythingIsMade) {
  const lora::Options dora{.r = 4, .use_dora = true};
  expect_error<ValueError>([&] { lora::GPTQLoraLinear(make_base("gptq", 64, 32), "default", dora); },
                           "lora.GPTQLoraLinear does not support DoRA");
  expect_error<ValueError>([&] { lora::AwqLoraLinear(make_base("awq", 64, 32), "default", dora); },
                           "lora.AwqLoraLinear does not support DoRA");
  expect_error<ValueError>([&] { lora::EetqLoraLinear(make_base("eetq", 64, 32), "default", dora); },
                           "lora.EetqLoraLinear does not support DoRA");
  lora::GPTQLoraLinear layer(make_base("gptq", 64, 32), "default", {.r = 4});
  expect_error<ValueError>([&] { layer.update_layer("second", dora); }, "does not support DoRA");
  expect_error<NotImplementedError>([&] { layer.update_layer("second", {.r = 4, .use_dora = true, .use_qalora = true}); },
                                    "cannot be combined");
  EXPECT_EQ(layer.adapter_names(), std::vector<std::string>{"default"});
}

TEST(Wrappers, VariantsAreResolvedFromTheTwoFlags) {
  const lora::VariantMaker dora = &lora::make_variant<lora::DoraLinearVariant>,
                           qalora = &lora::make_variant<lora::QALoraLinearVariant>;
  EXPECT_EQ(lora::resolve_lora_variant(false, false), nullptr);
  EXPECT_EQ(lora::resolve_lora_variant(true, false), dora);
  EXPECT_EQ(lora::resolve_lora_variant(false, true), qalora);
  EXPECT_EQ(lora::GPTQLoraLinear::resolve_lora_variant(false, true), qalora);
  expect_error<NotImplementedError>([] { lora::resolve_lora_variant(true, true); }, "use_dora and use_qalora cannot be combined");
  const lora::GPTQLoraLinear layer(make_base("gptq", 64, 32), "default", {.r = 4, .use_qalora = true});
  EXPECT_EQ(std::dynamic_pointer_cast<lora::QALoraLinearVariant>(layer.adapter("default"))->group_size(), 32);
}

TEST(Wrappers, ModuleDropoutSwitchesBlocksOffInTraining) {
  oft::GPTQOFTLinear layer(make_base("gptq", 64, 32), "default", {.r = 8, .module_dropout = 0.5, .seed = 3});
  test::randomise(layer, "default", 9);
  const Tensor x = test::random({3, 64}, 5),
               turned = std::as_const(*layer.adapter("default")).input(x, {*layer.base_layer(), false});
  const Tensor dropped = std::as_const(*layer.adapter("default")).input(x, {*layer.base_layer(), true});
  int same_as_x = 0, same_as_turned = 0;
  for (int block = 0; block < 8; ++block) {
    const auto of = [&](const Tensor& t) { return slice(t, 1, 8 * block, 8 * block + 8).detach(); };
    same_as_x += distance(of(dropped), of(x)) < 1e-6;
    same_as_turned += distance(of(dropped), of(turned)) < 1e-6;
  }
  EXPECT_EQ(same_as_x, 4);
  EXPECT_EQ(same_as_turned, 4);
}

TEST(Wrappers, ATransposedWeightIsRefused) {
  expect_error<ValueError>([] { oft::GPTQOFTLinear(make_base("gptq", 64, 32), "default", {.fan_in_fan_out = true}); },
                           "fan_in_fan_out is true, but every linear layer here stores its weight as [out, in]");
}

TEST(Dispatch, EachTakesItsOwnMethodAndNoOther) {
  for (const auto& format : test::formats) {
    SCOPED_TRACE(format);
    const auto base = make_base(format, 64, 32);
    EXPECT_EQ(lora::dispatch_gptq(base, "default", {.r = 4}) != nullptr, format == "gptq");
    EXPECT_EQ(lora::dispatch_awq(base, "default", {.r = 4}) != nullptr, format == "awq");
    EXPECT_EQ(lora::dispatch_eetq(base, "default", {.r = 4}) != nullptr, format == "eetq");
    EXPECT_EQ(oft::dispatch_gptq(base, "default", {.r = 4}) != nullptr, format == "gptq");
    EXPECT_EQ(oft::dispatch_awq(base, "default", {.r = 4}) != nullptr, format == "awq");
    EXPECT_EQ(oft::dispatch_eetq(base, "default", {.r = 4}) != nullptr, format == "eetq");
  }
}

TEST(Dispatch, LooksBelowALayerThatIsWrappedAlready) {
  const auto first = lora::dispatch_gptq(make_base("gptq", 64, 32), "first", {.r = 4});
  const auto second = lora::dispatch_gptq(first, "second", {.r = 4});
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(second->base_layer(), first);
  EXPECT_EQ(distance(to(second->qweight(), DType::f64), to(first->qweight(), DType::f64)), 0);
  EXPECT_EQ(&adapters::innermost(*second), first->base_layer().get());
}

TEST(Dispatch, GPTQModelFirstThenAutoGPTQByTheQuantizationConfig) {
  const auto modern = packed_by("gptq", "gptqmodel", "4.2.5"), legacy = packed_by("gptq", "auto_gptq");
  const quant::Description right = std::dynamic_pointer_cast<quant::QuantLinear>(legacy)->format();
  quant::Description other = right;
  other.bits = 8;
  EXPECT_NE(lora::dispatch_gptq(modern, "default", {.r = 4}, {.gptq_quantization_config = &other}), nullptr);
  EXPECT_NE(lora::dispatch_gptq(legacy, "default", {.r = 4}, {.gptq_quantization_config = &right}), nullptr);
  EXPECT_EQ(lora::dispatch_gptq(legacy, "default", {.r = 4}, {.gptq_quantization_config = &other}), nullptr);
  EXPECT_NE(lora::dispatch_gptq(legacy, "default", {.r = 4}), nullptr);
  EXPECT_NE(oft::dispatch_gptq(modern, "default", {.r = 4}, &other), nullptr);
  EXPECT_NE(oft::dispatch_gptq(legacy, "default", {.r = 4}, &right), nullptr);
  EXPECT_EQ(oft::dispatch_gptq(legacy, "default", {.r = 4}, &other), nullptr);
}

TEST(Dispatch, AnOldPackerIsRefusedThereAndNotBefore) {
  const auto old = packed_by("awq", "autoawq", "0.1.8");
  EXPECT_NO_THROW(lora::AwqLoraLinear(old, "default", {.r = 4}));
  expect_error<ImportError>([&] { lora::dispatch_awq(old, "default", {.r = 4}); },
                            "packed by AutoAWQ 0.1.8; 0.2.0 is the first version");
  expect_error<ImportError>([&] { oft::dispatch_awq(old, "default", {.r = 4}); },
                            "packed by AutoAWQ 0.1.8; 0.2.0 is the first version");
  for (const char* version : {"0.2.0", "0.2.9", "1.0"})
    EXPECT_NE(lora::dispatch_awq(packed_by("awq", "autoawq", version), "default", {.r = 4}), nullptr);
  const auto silent = make_base("awq", 64, 32);
  EXPECT_NE(lora::dispatch_awq(silent, "default", {.r = 4}), nullptr);
  expect_error<ImportError>([&] { lora::dispatch_awq(silent, "default", {.r = 4}, {.auto_awq_version = "0.1.6"}); },
                            "AutoAWQ 0.1.6");
  expect_error<ValueError>([&] { lora::dispatch_awq(silent, "default", {.r = 4}, {.auto_awq_version = "new"}); },
                           "'new' is no version of AutoAWQ");
  EXPECT_NE(lora::dispatch_awq(packed_by("awq", "gptqmodel", "0.1.0"), "default", {.r = 4}), nullptr);
}

}  // namespace
}  // namespace graft
