#include "graft/adapters/wrappers.h"

#include <gtest/gtest.h>

#include "graft/adapters/adalora.h"
#include "graft/adapters/oft.h"
#include "graft/quant/format.h"

#include "../support/errors.h"
#include "layers.h"

namespace graft::wrappers_test {
namespace {

using test::expect_error;
using test::make_base;

/// A quantized layer that says that this program wrote it.
std::shared_ptr<LinearBase> written_by(const std::string& format, const std::string& producer, const std::string& version = {}) {
  const auto layer = std::dynamic_pointer_cast<quant::QuantLinear>(make_base(format, 64, 32));
  quant::Stored stored{.module = "here", .description = layer->format(), .in = 64, .out = 32, .tensors = {}};
  for (const auto& [name, tensor] : layer->original()) stored.tensors[name] = tensor;
  stored.description.producer = producer;
  stored.description.producer_version = version;
  return quant::make_layer(stored);
}

TEST(Dispatch, EachTakesItsFormatAndNoOther) {
  for (const auto& format : test::formats) {
    SCOPED_TRACE(format);
    const auto base = make_base(format, 64, 32);
    const lora::Options options{.r = 2};
    EXPECT_EQ(lora::dispatch_gptq(base, "a", options) != nullptr, format == "gptq");
    EXPECT_EQ(lora::dispatch_awq(base, "a", options) != nullptr, format == "awq");
    EXPECT_EQ(lora::dispatch_eetq(base, "a", options) != nullptr, format == "eetq");
    EXPECT_EQ(oft::dispatch_gptq(base, "a", {}) != nullptr, format == "gptq");
    EXPECT_EQ(oft::dispatch_awq(base, "a", {}) != nullptr, format == "awq");
    EXPECT_EQ(oft::dispatch_eetq(base, "a", {}) != nullptr, format == "eetq");
  }
}

TEST(Dispatch, LooksBelowOtherWrappersAndPutsItselfAround) {
  const auto base = make_base("gptq", 64, 32);
  const auto inner = lora::dispatch_gptq(base, "inner", {.r = 2});
  const auto outer = lora::dispatch_gptq(inner, "outer", {.r = 2});
  ASSERT_NE(outer, nullptr);
  EXPECT_EQ(outer->base_layer(), inner);
  EXPECT_EQ(&adapters::innermost(*outer), base.get());
  EXPECT_EQ(outer->adapter_names(), std::vector<std::string>{"outer"});
}

TEST(Dispatch, AutoGptqLayersBelongToTheConfigThatDescribesThem) {
  const auto layer = written_by("gptq", "auto_gptq");
  quant::Description config = dynamic_cast<const quant::QuantLinear&>(*layer).format();
  const auto taken = [&] { return lora::dispatch_gptq(layer, "a", {.r = 2}, {.gptq_quantization_config = &config}) != nullptr; };
  EXPECT_NE(lora::dispatch_gptq(layer, "a", {.r = 2}), nullptr);
  EXPECT_TRUE(taken());
  config.bits = 8;
  EXPECT_FALSE(taken());
  EXPECT_EQ(oft::dispatch_gptq(layer, "a", {}, &config), nullptr);
  // GPTQModel's own layers are matched first, whatever the config says.
  EXPECT_NE(lora::dispatch_gptq(written_by("gptq", "gptqmodel"), "a", {.r = 2}, {.gptq_quantization_config = &config}), nullptr);
}

TEST(Dispatch, AwqAsksForThePackersVersion) {
  const auto dispatched = [](const std::shared_ptr<LinearBase>& layer, const std::string& version) {
    return lora::dispatch_awq(layer, "a", {.r = 2}, {.auto_awq_version = version});
  };
  const auto plain = written_by("awq", "");
  for (const char* version : {"", "0.2.0", "0.2.9", "1.0"}) EXPECT_NE(dispatched(plain, version), nullptr) << version;
  expect_error<ImportError>([&] { dispatched(plain, "0.1.8"); },
                            "this layer was packed by AutoAWQ 0.1.8; 0.2.0 is the first version that is supported");
  expect_error<ImportError>([&] { dispatched(written_by("awq", "autoawq", "0.1.6"), ""); }, "packed by AutoAWQ 0.1.6");
  expect_error<ImportError>([&] { oft::dispatch_awq(plain, "a", {}, "0.1.8"); }, "packed by AutoAWQ 0.1.8");
  expect_error<ValueError>([&] { dispatched(plain, "new"); }, "'new' is no version of AutoAWQ");
  EXPECT_NE(dispatched(written_by("awq", "gptqmodel"), "0.1.8"), nullptr) << "a GPTQModel layer is never refused";
  EXPECT_EQ(dispatched(make_base("gptq", 64, 32), "0.1.8"), nullptr) << "other layers are not asked";
}

TEST(Wrappers, EachTakesTheVariantsOfItsPolicy) {
  const auto refused = [](auto make, const std::string& type, const std::string& variant, bool dora) {
    expect_error<ValueError>([&] { make(lora::Options{.r = 2, .use_dora = dora, .use_qalora = !dora}); },
                             fmt::format("{} does not support {}", type, variant));
  };
  const auto dense = [](const lora::Options& o) { lora::Linear(make_base("dense", 64, 32), "a", o); };
  const auto gptq = [](const lora::Options& o) { lora::GPTQLoraLinear(make_base("gptq", 64, 32), "a", o); };
  const auto awq = [](const lora::Options& o) { lora::AwqLoraLinear(make_base("awq", 64, 32), "a", o); };
  const auto eetq = [](const lora::Options& o) { lora::EetqLoraLinear(make_base("eetq", 64, 32), "a", o); };
  dense({.r = 2, .use_dora = true});
  gptq({.r = 2, .use_qalora = true});
  refused(dense, "lora.Linear", "QA-LoRA", false);
  refused(gptq, "lora.GPTQLoraLinear", "DoRA", true);
  refused(awq, "lora.AwqLoraLinear", "DoRA", true);
  refused(awq, "lora.AwqLoraLinear", "QA-LoRA", false);
  refused(eetq, "lora.EetqLoraLinear", "DoRA", true);
  refused(eetq, "lora.EetqLoraLinear", "QA-LoRA", false);
  // Both at once: the constructor names DoRA first, a further adapter the combination.
  expect_error<ValueError>([&] { gptq({.r = 2, .use_dora = true, .use_qalora = true}); }, "does not support DoRA");
  lora::GPTQLoraLinear layer(make_base("gptq", 64, 32), "a", {.r = 2});
  expect_error<NotImplementedError>([&] { layer.update_layer("b", {.r = 2, .use_dora = true, .use_qalora = true}); },
                                    "cannot be combined");
  expect_error<ValueError>([&] { layer.update_layer("b", {.r = 2, .use_dora = true}); }, "does not support DoRA");
  EXPECT_EQ(layer.adapter_names(), std::vector<std::string>{"a"});
}

TEST(Wrappers, HaveTheirPrefixesAndTheTensorsOfTheirBases) {
  const auto base = make_base("awq", 64, 32, true);
  const adalora::SVDQuantLinear svd(base, "a", {.r = 2});
  const oft::AwqOFTLinear oft(base, "a");
  EXPECT_EQ(svd.type_name(), "adalora.SVDQuantLinear");
  EXPECT_EQ(oft.type_name(), "oft.AwqOFTLinear");
  for (const AdapterLayer* layer : {static_cast<const AdapterLayer*>(&svd), static_cast<const AdapterLayer*>(&oft)}) {
    EXPECT_EQ(layer->quant_linear_module(), base);
    EXPECT_EQ(layer->qweight().dtype(), DType::i32);
    EXPECT_TRUE(layer->bias().same(base->bias()));
  }
  const oft::EetqOFTLinear eetq(make_base("eetq", 64, 32), "a", {.r = 8});
  EXPECT_EQ(eetq.weight().dtype(), DType::i8);
}

}  // namespace
}  // namespace graft::wrappers_test
