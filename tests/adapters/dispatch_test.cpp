// Whose layer a quantized one is: what the seeds' dispatchers take, and what they leave to the next rule.
#include <gtest/gtest.h>

#include "graft/adapters/inject.h"
#include "graft/adapters/oft.h"
#include "graft/adapters/wrappers.h"
#include "graft/quant/kernels.h"
#include "graft/tests/support/errors.h"

#include "layers.h"

namespace graft::dispatch_test {
namespace {

std::shared_ptr<LinearBase> written_by(const std::string& format, const std::string& producer, const std::string& version = "") {
  const auto made = std::dynamic_pointer_cast<quant::QuantLinear>(test::make_base(format, 64, 32));
  quant::Description description = made->format();
  description.producer = producer;
  description.producer_version = version;
  return std::make_shared<quant::QuantLinear>(description, std::shared_ptr<const quant::Packed>(made, &made->packed()), Tensor(),
                                              made->original());
}

// Whether both dispatchers take the layer; they must agree.
bool gptq_takes(const std::shared_ptr<LinearBase>& layer, const quant::Description* config) {
  const bool lora = lora::dispatch_gptq(layer, "default", {.r = 4}, {.gptq_quantization_config = config}) != nullptr;
  const bool oft = oft::dispatch_gptq(layer, "default", {.r = 4}, config) != nullptr;
  EXPECT_EQ(lora, oft);
  return lora;
}

TEST(Dispatch, GptqModelsLayersAreTakenWhateverTheConfig) {
  quant::Description eight_bits;
  eight_bits.method = "gptq";
  eight_bits.bits = 8;
  for (const char* producer : {"gptqmodel", "graft", ""}) {
    EXPECT_TRUE(gptq_takes(written_by("gptq", producer), nullptr)) << producer;
    EXPECT_TRUE(gptq_takes(written_by("gptq", producer), &eight_bits)) << producer;
  }
  for (const char* other : {"awq", "eetq", "dense"}) EXPECT_FALSE(gptq_takes(test::make_base(other, 64, 32), nullptr)) << other;
}

TEST(Dispatch, RefusesToPutAnAdapterAroundNothing) {
  const char* words = "there is no layer to put an adapter around";
  test::expect_error<ValueError>([] { lora::dispatch_gptq(nullptr, "default", {.r = 4}); }, words);
  test::expect_error<ValueError>([] { lora::dispatch_awq(nullptr, "default", {.r = 4}); }, words);
  test::expect_error<ValueError>([] { lora::dispatch_eetq(nullptr, "default", {.r = 4}); }, words);
  test::expect_error<ValueError>([] { oft::dispatch_gptq(nullptr, "default", {.r = 4}); }, words);
  test::expect_error<ValueError>([] { oft::dispatch_awq(nullptr, "default", {.r = 4}); }, words);
  test::expect_error<ValueError>([] { oft::dispatch_eetq(nullptr, "default", {.r = 4}); }, words);
}

TEST(Dispatch, AutoGptqsLayersAreTakenWhenTheConfigNamesTheirClass) {
  const auto layer = written_by("gptq", "auto_gptq", "0.7.1");  // 4 bits, groups of 32, in order
  quant::Description config = std::dynamic_pointer_cast<quant::QuantLinear>(layer)->format();
  EXPECT_TRUE(gptq_takes(layer, nullptr)) << "the config that it was read by";
  EXPECT_TRUE(gptq_takes(layer, &config));
  config.group_size = 128;
  EXPECT_TRUE(gptq_takes(layer, &config)) << "exllama has groups of any size";
  config.bits = 8;
  EXPECT_FALSE(gptq_takes(layer, &config)) << "a class of 8 bits, which is not exllama";
  config.bits = 4;
  config.exllama = 0;
  EXPECT_TRUE(gptq_takes(layer, &config));
  config.desc_act = true;
  EXPECT_FALSE(gptq_takes(layer, &config)) << "one CUDA class is for act-order, the other is not";
  config.method = "awq";
  EXPECT_FALSE(gptq_takes(layer, &config));
}

TEST(Dispatch, EveryLayoutOfAwqIsTaken) {
  const auto made = std::dynamic_pointer_cast<quant::QuantLinear>(test::make_base("awq", 64, 32));
  for (const char* layout : {"gemm", "gemv", "gemv_fast", "llm-awq"}) {
    quant::Description description = made->format();
    description.layout = layout;
    const auto layer = std::make_shared<quant::QuantLinear>(
        description, std::shared_ptr<const quant::Packed>(made, &made->packed()), Tensor(), made->original());
    EXPECT_NE(lora::dispatch_awq(layer, "default", {.r = 4}), nullptr) << layout;
    EXPECT_NE(oft::dispatch_awq(layer, "default", {.r = 4}), nullptr) << layout;
  }
}

TEST(Dispatch, TheVersionOfAwqsPackerIsThatOfTheFileOrTheCallers) {
  const auto take = [](const std::shared_ptr<LinearBase>& layer, const std::string& version) {
    EXPECT_NE(lora::dispatch_awq(layer, "default", {.r = 4}, {.auto_awq_version = version}), nullptr);
    EXPECT_NE(oft::dispatch_awq(layer, "default", {.r = 4}, version), nullptr);
  };
  const auto refuse = [](const std::shared_ptr<LinearBase>& layer, const std::string& version, const std::string& words) {
    test::expect_error<ImportError>([&] { lora::dispatch_awq(layer, "default", {.r = 4}, {.auto_awq_version = version}); },
                                    words);
    test::expect_error<ImportError>([&] { oft::dispatch_awq(layer, "default", {.r = 4}, version); }, words);
  };
  take(written_by("awq", ""), "");
  take(written_by("awq", ""), "0.2.0");
  take(written_by("awq", "autoawq", "0.2.9"), "");
  take(written_by("awq", "gptqmodel", "0.1.0"), "");
  take(written_by("awq", "gptqmodel", "0.1.0"), "0.1.8");
  const std::string words = "this layer was packed by AutoAWQ 0.1.8; 0.2.0 is the first version that is supported";
  refuse(written_by("awq", ""), "0.1.8", words);
  refuse(written_by("awq", "autoawq", "0.1.8"), "", words);
  test::expect_error<ValueError>(
      [&] { lora::dispatch_awq(written_by("awq", ""), "default", {.r = 4}, {.auto_awq_version = "new"}); },
      "'new' is no version of AutoAWQ");
  EXPECT_EQ(lora::dispatch_awq(test::make_base("gptq", 64, 32), "default", {.r = 4}, {.auto_awq_version = "0.1.8"}), nullptr)
      << "not its layer, so not its refusal";
}

}  // namespace
}  // namespace graft::dispatch_test
