#include "graft/quant/auto_gptq.h"

#include <gtest/gtest.h>

#include "graft/quant/config.h"

namespace graft::quant {
namespace {

std::string_view class_of(const std::string& json) { return auto_gptq_class(QuantConfig::parse(json, "config").base()); }

TEST(AutoGptq, TheClassThatPeftAsksFor) {
  EXPECT_EQ(class_of(R"({"bits": 4, "group_size": 128})"), "exllama") << "the default is the first exllama";
  EXPECT_EQ(class_of(R"({"bits": 4, "group_size": 128, "use_exllama": true, "exllama_config": {"version": 1}})"), "exllama");
  EXPECT_EQ(class_of(R"({"bits": 4, "group_size": 128, "exllama_config": {"version": 2}})"), "exllamav2");
  EXPECT_EQ(class_of(R"({"bits": 4, "group_size": 128, "desc_act": true, "disable_exllama": false})"), "exllama");
  EXPECT_EQ(class_of(R"({"bits": 4, "group_size": 128, "use_exllama": false})"), "cuda_old");
  EXPECT_EQ(class_of(R"({"bits": 4, "group_size": 128, "disable_exllama": true, "exllama_config": {"version": 2}})"), "cuda_old");
  EXPECT_EQ(class_of(R"({"bits": 4, "group_size": 128, "desc_act": true, "disable_exllama": true})"), "cuda");
  EXPECT_EQ(class_of(R"({"bits": 4, "group_size": 128, "use_exllama": true, "disable_exllama": true})"), "exllama")
      << "the newer name";
  for (const char* bits : {"2", "3", "8"}) {
    SCOPED_TRACE(bits);
    const std::string start = R"({"bits": )" + std::string(bits);
    EXPECT_EQ(class_of(start + R"(, "group_size": 128})"), "cuda_old");
    EXPECT_EQ(class_of(start + R"(, "group_size": 128, "desc_act": true})"), "cuda");
    EXPECT_EQ(class_of(start + R"(, "group_size": -1, "desc_act": true})"), "cuda_old");
  }
}

TEST(AutoGptq, NoClassForWhatItCannotHold) {
  EXPECT_EQ(class_of(R"({"bits": 5, "group_size": 128, "format": "gptq_p"})"), "");
  EXPECT_EQ(class_of(R"({"bits": 4, "group_size": 128, "format": "gptq_p"})"), "");
  EXPECT_EQ(class_of(R"({"bits": 4, "group_size": 128, "format": "marlin"})"), "");
  EXPECT_EQ(class_of(R"({"quant_method": "awq", "bits": 4})"), "");
  EXPECT_EQ(class_of(R"({"quant_method": "eetq"})"), "");
}

TEST(AutoGptq, HintsThatMakeNoSenseAreNoneAtAll) {
  EXPECT_EQ(class_of(R"({"bits": 4, "group_size": 128, "use_exllama": 3, "exllama_config": "ONE"})"), "exllama");
  EXPECT_EQ(class_of(R"({"bits": 4, "group_size": 128, "use_exllama": null, "exllama_config": {"version": "2"}})"), "exllama");
}

}  // namespace
}  // namespace graft::quant
