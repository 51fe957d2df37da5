#include "graft/quant/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "graft/tests/support/errors.h"

namespace graft::quant {
namespace {

namespace fs = std::filesystem;

Description base(const std::string& json) { return QuantConfig::parse(json, "config").base(); }

void expect_refusal(const std::string& json, const std::string& words) {
  SCOPED_TRACE(json);
  test::expect_error<ValueError>([&] { base(json); }, words);
}

TEST(QuantConfig, GptqModel) {
  const Description d =
      base(R"({"bits": 3, "group_size": 32, "desc_act": true, "sym": false, "lm_head": false, "quant_method": "gptq",
      "checkpoint_format": "gptq_v2", "format": "gptq_v2", "pack_dtype": "int32", "dynamic": null,
      "meta": {"quantizer": ["gptqmodel:7.7.0"], "uri": "x"}})");
  EXPECT_EQ(d.method, "gptq");
  EXPECT_EQ(d.layout, "gptq_v2");
  EXPECT_EQ(d.bits, 3);
  EXPECT_EQ(d.group_size, 32);
  EXPECT_FALSE(d.sym);
  EXPECT_TRUE(d.desc_act);
  EXPECT_EQ(d.producer, "gptqmodel");
  EXPECT_EQ(d.producer_version, "7.7.0");
  EXPECT_EQ(d.pack_dtype, "int32");
}

TEST(QuantConfig, AutoGptqAndItsDefaults) {
  const Description d =
      base(R"({"bits": 4, "group_size": -1, "damp_percent": 0.01, "model_name_or_path": null, "is_marlin_format": false})");
  EXPECT_EQ(d.method, "gptq");
  EXPECT_EQ(d.layout, "gptq");
  EXPECT_EQ(d.group_size, -1);
  EXPECT_TRUE(d.sym);
  EXPECT_FALSE(d.desc_act);
  EXPECT_EQ(d.producer, "auto_gptq");
  EXPECT_EQ(base(R"({"bits": 4, "group_size": 128, "is_marlin_format": true})").layout, "marlin");
  EXPECT_EQ(base(R"({"bits": 4, "group_size": 128, "quant_method": "marlin"})").layout, "marlin");
  EXPECT_EQ(base(R"({"wbits": 2, "group_size": 64})").bits, 2);
  EXPECT_EQ(base(R"({"bits": 4, "group_size": 128})").producer, "");
}

TEST(QuantConfig, AwqInAllItsSpellings) {
  Description d = base(R"({"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"})");
  EXPECT_EQ(d.method, "awq");
  EXPECT_EQ(d.layout, "gemm");
  EXPECT_EQ(d.group_size, 64);
  EXPECT_FALSE(d.sym);
  d = base(R"({"quant_method": "awq", "bits": 4, "version": "GEMV_Fast", "modules_to_not_convert": null})");
  EXPECT_EQ(d.layout, "gemv_fast");
  EXPECT_EQ(d.group_size, 128);
  EXPECT_FALSE(d.sym);
  d = base(R"({"quant_method": "awq", "zero_point": false, "version": "marlin"})");
  EXPECT_EQ(d.layout, "marlin");
  EXPECT_TRUE(d.sym);
  EXPECT_EQ(base(R"({"quant_method": "awq", "version": "gemm", "backend": "llm-awq"})").layout, "llm-awq");
  EXPECT_EQ(base(R"({"quant_method": "awq", "version": "exllama"})").layout, "gemm");
  EXPECT_EQ(base(R"({"quant_method": "awq", "format": "gemv", "version": "gemv", "meta": {"quantizer": "gptqmodel:7.7.0"}})")
                .producer_version,
            "7.7.0");
}

TEST(QuantConfig, Eetq) {
  for (const char* json : {R"({"quant_method": "eetq", "weights": "int8", "modules_to_not_convert": ["lm_head"]})",
                           R"({"quant_method": "eetq", "zero_point": false, "bits": 8})"}) {
    const Description d = base(json);
    EXPECT_EQ(d.method, "eetq");
    EXPECT_EQ(d.layout, "");
    EXPECT_EQ(d.bits, 8);
    EXPECT_EQ(d.group_size, -1);
  }
}

TEST(QuantConfig, BothVersionLabelsLeaveTheLayoutToTheData) {
  EXPECT_EQ(base(R"({"bits": 4, "group_size": 128, "format": "gptq", "checkpoint_format": "gptq_v2"})").layout,
            "gptq or gptq_v2");
  expect_refusal(R"({"bits": 4, "group_size": 128, "format": "gptq", "checkpoint_format": "marlin"})",
                 "config: names the layouts marlin and gptq");
}

TEST(QuantConfig, TheOwnQuantizerIsFoundAmongOthers) {
  const Description d = base(R"({"bits": 4, "group_size": 128, "meta": {"quantizer": ["optimum:1.24.0", "gptqmodel:2.2.0"]}})");
  EXPECT_EQ(d.producer, "gptqmodel");
  EXPECT_EQ(d.producer_version, "2.2.0");
  EXPECT_EQ(base(R"({"bits": 4, "group_size": 128, "meta": {"quantizer": ["optimum:1.24.0"]}})").producer, "optimum");
}

TEST(QuantConfig, Refusals) {
  expect_refusal("{", "config: is not valid JSON");
  expect_refusal("[]", "config: is not an object");
  expect_refusal("{}", "config: has neither quant_method nor bits");
  expect_refusal(R"({"quant_method": "fp8"})", "config: quant_method is 'fp8'; known are gptq, awq and eetq");
  expect_refusal(R"({"bits": 1, "group_size": 128})", "config: bits is 1; known are 2 to 8");
  expect_refusal(R"({"bits": "4", "group_size": 128})", "config: bits is \"4\", not an integer");
  expect_refusal(R"({"bits": 4, "w_bit": 8, "group_size": 128})", "config: w_bit is 8, but bits is 4");
  expect_refusal(R"({"bits": 4})", "config: has no group_size, for which AutoGPTQ would take -1 and GPTQModel 128; add it");
  expect_refusal(R"({"bits": 4, "group_size": 0})", "config: group_size is 0; it must be positive, or -1 for one group");
  expect_refusal(R"({"bits": 4, "group_size": 128, "sym": 1})", "config: sym is 1, not true or false");
  expect_refusal(R"({"bits": 4, "group_size": 128, "format": "gguf"})",
                 "config: layout 'gguf' of method gptq; known are gptq, gptq_v2, gptq_p, gptq or gptq_v2, marlin");
  expect_refusal(R"({"bits": 4, "group_size": 128, "pack_dtype": "float"})",
                 "config: pack_dtype is float; known are int8, int16 and int32");
  expect_refusal(R"({"bits": 4, "group_size": 128, "dynamic": {"(": {}}})",
                 "config: dynamic has the pattern '(', which cannot be read");
  expect_refusal(R"({"bits": 4, "group_size": 128, "dynamic": []})", "config: dynamic is not an object");
  expect_refusal(R"({"quant_method": "eetq", "weights": "int4"})", "config: weights is 'int4'; EETQ has int8");
  test::expect_error<NotImplementedError>([] { base(R"({"bits": 4, "group_size": 128, "format": "bitblas"})"); },
                                          "layout bitblas is not read");
  test::expect_error<NotImplementedError>([] { base(R"({"bits": 4, "group_size": 128, "pack_dtype": "int64"})"); },
                                          "pack_dtype is int64");
}

TEST(QuantConfig, DynamicOverridesMatchFromTheBeginningAndTheFirstWins) {
  const QuantConfig config = QuantConfig::parse(R"({"bits": 4, "group_size": 128, "dynamic": {
      "+:.*\\.0\\..*down_proj.*": {"bits": 8, "group_size": 32},
      ".*down_proj": {"bits": 2, "sym": false, "desc_act": true, "pack_dtype": "int8"},
      "layers": {"bits": 3},
      "-:.*mlp\\.gate$": {}, "-:.*1\\.mlp": {}}})",
                                                "config");
  EXPECT_EQ(config.describe("model.layers.0.mlp.down_proj")->bits, 8);
  EXPECT_EQ(config.describe("model.layers.0.mlp.down_proj")->group_size, 32);
  const auto second = config.describe("model.layers.2.mlp.down_proj");
  EXPECT_EQ(second->bits, 2);
  EXPECT_EQ(second->group_size, 128);
  EXPECT_FALSE(second->sym);
  EXPECT_TRUE(second->desc_act);
  EXPECT_EQ(second->pack_dtype, "int8");
  EXPECT_FALSE(config.describe("model.layers.5.mlp.gate").has_value());
  EXPECT_EQ(config.describe("model.layers.5.mlp.gate_proj")->bits, 4);
  EXPECT_FALSE(config.describe("model.layers.1.mlp.down_proj").has_value()) << "excluding rules come first";
  EXPECT_EQ(config.describe("model.layers.5.self_attn.q_proj")->bits, 4) << "'layers' is not at the beginning";
}

class QuantConfigFolder : public testing::Test {
 protected:
  QuantConfigFolder() {
    std::string name = (fs::temp_directory_path() / "graft-config-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~QuantConfigFolder() override { fs::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name) << text; }
  fs::path folder_;
};

TEST_F(QuantConfigFolder, TakesTheFirstFileAndHoldsTheOthersAgainstIt) {
  EXPECT_FALSE(QuantConfig::read(folder_).has_value());
  write("config.json", R"({"model_type": "llama"})");
  EXPECT_FALSE(QuantConfig::read(folder_).has_value());
  write("config.json", R"({"quantization_config": {"bits": 4, "group_size": 128, "quant_method": "gptq"}})");
  EXPECT_EQ(QuantConfig::read(folder_)->base().layout, "gptq");
  write("quant_config.json", R"({"bits": 4, "group_size": 128, "format": "gptq_v2"})");
  EXPECT_EQ(QuantConfig::read(folder_)->base().layout, "gptq_v2");
  EXPECT_EQ(QuantConfig::read(folder_)->source(), (folder_ / "quant_config.json").string());
  write("quantize_config.json", R"({"bits": 4, "group_size": 128, "format": "gptq", "desc_act": true})");
  EXPECT_EQ(QuantConfig::read(folder_)->base().layout, "gptq or gptq_v2");
  EXPECT_TRUE(QuantConfig::read(folder_)->base().desc_act);
  write("quantize_config.json", R"({"bits": 8, "group_size": 128})");
  test::expect_error<ValueError>([&] { QuantConfig::read(folder_); }, "says gptq, 8 bits and groups of 128, but ");
  write("config.json", "{");
  write("quantize_config.json", R"({"bits": 4, "group_size": 128})");
  test::expect_error<FileError>([&] { QuantConfig::read(folder_); }, "config.json: is not valid JSON");
}

}  // namespace
}  // namespace graft::quant
