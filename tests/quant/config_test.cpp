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

TEST(QuantConfig, APackerIsFoundAnywhereInTheList) {
  const auto awq = [](const char* list) {
    return base(fmt::format(R"({{"quant_method": "awq", "meta": {{"quantizer": {}}}}})", list));
  };
  EXPECT_EQ(awq(R"(["llm-compressor:0.5", "AutoAWQ:0.1.8"])").producer, "autoawq");
  EXPECT_EQ(awq(R"(["llm-compressor:0.5", "AutoAWQ:0.1.8"])").producer_version, "0.1.8");
  EXPECT_EQ(awq(R"(["autoawq:0.1.8", "gptqmodel:7.0.0"])").producer, "gptqmodel") << "its files are never refused";
}

TEST(QuantConfig, SaysWhetherSymmetryIsOnlyAssumed) {
  EXPECT_TRUE(base(R"({"bits": 4, "group_size": 128})").sym_assumed);
  EXPECT_FALSE(base(R"({"bits": 4, "group_size": 128, "sym": true})").sym_assumed);
  EXPECT_FALSE(base(R"({"bits": 4, "group_size": 128, "quant_method": "gptq", "zero_point": false})").sym_assumed);
  const auto config = QuantConfig::parse(R"({"bits": 4, "group_size": 128, "dynamic": {"a": {"sym": true}}})", "config");
  EXPECT_FALSE(config.describe("a")->sym_assumed);
  EXPECT_TRUE(config.describe("b")->sym_assumed);
}

// transformers 5 writes GPTQ's field with its default beside AWQ's own.
TEST(QuantConfig, ZeroPointDecidesForAwq) {
  EXPECT_FALSE(base(R"({"quant_method": "awq", "bits": 4, "sym": true, "zero_point": true})").sym);
  EXPECT_TRUE(base(R"({"quant_method": "awq", "bits": 4, "sym": true, "zero_point": false})").sym);
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
                 "config: layout 'gguf' of method gptq; known are gptq, gptq_v2, gptq_p, marlin");
  expect_refusal(R"({"bits": 4, "group_size": 128, "format": "gptq or gptq_v2"})",
                 "config: layout 'gptq or gptq_v2' of method gptq; known are gptq, gptq_v2, gptq_p, marlin");
  expect_refusal(R"({"bits": 4, "group_size": 128, "sym": true, "zero_point": true, "quant_method": "gptq"})",
                 "config: sym is true and zero_point is true, of which each denies the other");
  expect_refusal(
      R"({"bits": 4, "group_size": 128, "quant_method": "gptq", "dynamic": {"a": {"sym": false, "zero_point": false}}})",
      "config: dynamic 'a': sym is false and zero_point is false, of which each denies the other");
  expect_refusal(R"({"bits": 4, "group_size": 128, "pack_dtype": "float"})",
                 "config: pack_dtype is float; known are int8, int16 and int32");
  expect_refusal(R"({"bits": 4, "group_size": 128, "dynamic": {"(": {}}})",
                 "config: dynamic has the pattern '(', which cannot be read");
  expect_refusal(R"({"bits": 4, "group_size": 128, "dynamic": []})", "config: dynamic is not an object");
  expect_refusal(R"({"quant_method": "eetq", "weights": "int4"})", "config: weights is \"int4\"; EETQ has \"int8\"");
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

std::string with_pattern(const std::string& pattern) {
  return fmt::format(R"({{"bits": 4, "group_size": 128, "dynamic": {{"{}": {{"bits": 8}}}}}})", pattern);
}

TEST(QuantConfig, PatternsAndNamesAreBounded) {
  const std::string deep = std::string(20'000, '(') + "a" + std::string(20'000, ')');
  expect_refusal(with_pattern(deep), "config: dynamic has a pattern of 40001 characters; at most 512 are read");
  const std::string nested = std::string(101, '(') + "a" + std::string(101, ')');
  expect_refusal(with_pattern(nested), "config: dynamic has a pattern of 101 groups; at most 100 are read");
  expect_refusal(with_pattern("-:" + nested), "config: dynamic has a pattern of 101 groups");
  const QuantConfig config = QuantConfig::parse(with_pattern(".*down"), "config");
  test::expect_error<ValueError>([&] { config.describe(std::string(80'000, 'a') + "down"); },
                                 "config: a module's name has 80004 characters; dynamic is applied to at most 4096");
  EXPECT_EQ(config.describe(std::string(4092, 'a') + "down")->bits, 8);
  EXPECT_EQ(base(R"({"bits": 4, "group_size": 128})").bits, 4);
  EXPECT_EQ(QuantConfig::parse(R"({"bits": 4, "group_size": 128})", "config").describe(std::string(80'000, 'a'))->bits, 4);
}

TEST(QuantConfig, NoPatternWithinTheBoundsTakesTheStackOrForever) {
  const std::string deepest = std::string(100, '(') + "a|b" + std::string(100, ')') + "*down";
  EXPECT_EQ(QuantConfig::parse(with_pattern(deepest), "config").describe(std::string(4092, 'a') + "down")->bits, 8);
  EXPECT_EQ(QuantConfig::parse(with_pattern("(.*)*(.*)*(.*)*x"), "config").describe(std::string(4096, 'a'))->bits, 4);
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
  test::expect_error<ValueError>(
      [&] { QuantConfig::read(folder_); },
      fmt::format("{}: bits is 8, but {} says 4; remove the wrong one", (folder_ / "quantize_config.json").string(),
                  (folder_ / "quant_config.json").string()));
  write("config.json", "{");
  write("quantize_config.json", R"({"bits": 4, "group_size": 128})");
  test::expect_error<FileError>([&] { QuantConfig::read(folder_); }, "config.json: is not valid JSON");
}

TEST_F(QuantConfigFolder, OneFileSaysWhatAnotherLeavesOpen) {
  write("quantize_config.json", R"({"bits": 4, "model_file_base_name": "x"})");
  write("config.json",
        R"({"quantization_config": {"bits": 4, "group_size": 64, "sym": false, "quant_method": "gptq", "desc_act": true,
      "pack_dtype": "int16", "exllama_config": {"version": 2}, "dynamic": {"+:a": {"bits": 8}, "-:b": {}},
      "meta": {"quantizer": ["gptqmodel:6.0.3"]}}})");
  const auto config = QuantConfig::read(folder_);
  const Description d = *config->describe("c");
  EXPECT_EQ(d.group_size, 64);
  EXPECT_FALSE(d.sym);
  EXPECT_FALSE(d.sym_assumed);
  EXPECT_TRUE(d.desc_act);
  EXPECT_EQ(d.pack_dtype, "int16");
  EXPECT_EQ(d.exllama, 2);
  EXPECT_EQ(d.producer, "gptqmodel") << "a name is worth more than AutoGPTQ's kind of fields";
  EXPECT_EQ(d.producer_version, "6.0.3");
  EXPECT_EQ(config->describe("a")->bits, 8);
  EXPECT_FALSE(config->describe("b").has_value());
}

TEST_F(QuantConfigFolder, FilesThatDifferInAFieldAreRefused) {
  const std::string rest = R"("bits": 4, "group_size": 128, "quant_method": "gptq", )";
  const std::pair<std::string, std::string> cases[] = {{R"("sym": true)", R"("sym": false)"},
                                                       {R"("desc_act": true)", R"("desc_act": false)"},
                                                       {R"("pack_dtype": "int32")", R"("pack_dtype": "int16")"},
                                                       {R"("dynamic": {"a":{}})", R"("dynamic": {"b":{}})"}};
  for (const auto& [one, other] : cases) {
    write("quantize_config.json", "{" + rest + one + "}");
    write("config.json", R"({"quantization_config": {)" + rest + other + "}}");
    const std::string field = one.substr(1, one.find('"', 1) - 1);
    const auto value = [](const std::string& text) { return text.substr(text.find(": ") + 2); };
    test::expect_error<ValueError>([&] { QuantConfig::read(folder_); },
                                   fmt::format("{}: {} is {}, but {}: quantization_config says {}; remove the wrong one",
                                               (folder_ / "quantize_config.json").string(), field, value(one),
                                               (folder_ / "config.json").string(), value(other)));
    write("config.json", R"({"quantization_config": {)" + rest + one + "}}");
    EXPECT_NO_THROW(QuantConfig::read(folder_)) << one;
  }
}

TEST_F(QuantConfigFolder, LlmAwqWinsWhicheverFileSaysIt) {
  write("quant_config.json", R"({"w_bit": 4, "q_group_size": 128, "zero_point": true, "version": "gemm"})");
  write("config.json", R"({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "backend": "llm-awq"}})");
  EXPECT_EQ(QuantConfig::read(folder_)->base().layout, "llm-awq");
  write("config.json", R"({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "backend": "autoawq"}})");
  EXPECT_EQ(QuantConfig::read(folder_)->base().layout, "gemm");
}

}  // namespace
}  // namespace graft::quant
