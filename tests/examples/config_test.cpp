#include "graft/examples/llama/config.h"

#include <gtest/gtest.h>

#include "graft/autograd/ops.h"
#include "graft/core/formats/json.h"

#include "../support/errors.h"

namespace graft::llama {
namespace {

using nlohmann::json;

json small() {
  return {{"model_type", "llama"},  {"vocab_size", 320},        {"hidden_size", 96},        {"intermediate_size", 128},
          {"num_hidden_layers", 2}, {"num_attention_heads", 6}, {"num_key_value_heads", 2}, {"rope_theta", 500000.0}};
}

json with(json changes) {
  json config = small();
  config.update(changes);
  return config;
}

template <class E>
std::string message_of(const json& config) {
  try {
    Config::parse(dump_json(config));
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Config, ReadsTheOlderSpelling) {
  const Config config = Config::parse(dump_json(small()));
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.rope.theta, 500000.0);
  EXPECT_EQ(config.rope.kind, Rope::Kind::plain);
  EXPECT_EQ(config.activation, &silu);
  EXPECT_FALSE(config.tie_word_embeddings || config.attention_bias || config.mlp_bias);
}

TEST(Config, ReadsTheNewerSpelling) {
  const Config config = Config::parse(with({{"rope_theta", nullptr},
                                            {"rope_parameters", {{"rope_theta", 20000.0}, {"rope_type", "default"}}},
                                            {"dtype", "auto"},
                                            {"head_dim", 32},
                                            {"hidden_act", "gelu_pytorch_tanh"},
                                            {"tie_word_embeddings", true},
                                            {"attention_bias", true},
                                            {"mlp_bias", true},
                                            {"eos_token_id", {1, 2}}})
                                          .dump());
  EXPECT_EQ(config.rope.theta, 20000.0);
  EXPECT_EQ(config.head_dim, 32);
  EXPECT_EQ(config.activation, &gelu_tanh);
  EXPECT_TRUE(config.tie_word_embeddings && config.attention_bias && config.mlp_bias);
  EXPECT_EQ(config.eos_token_ids, (std::vector<std::int64_t>{1, 2}));
}

TEST(Config, ReadsScaledRotationUnderAllItsNames) {
  const json llama3{
      {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 32}};
  const auto named = [](json object, const char* key, const char* value) {
    object[key] = value;
    return object;
  };
  for (const json& change :
       {json{{"rope_scaling", named(llama3, "rope_type", "llama3")}}, json{{"rope_scaling", named(llama3, "type", "llama3")}},
        json{{"rope_parameters", named(llama3, "rope_type", "llama3")}}}) {
    const Rope rope = Config::parse(dump_json(with(change))).rope;
    EXPECT_EQ(rope.kind, Rope::Kind::llama3);
    EXPECT_EQ(rope.theta, 500000.0);
    EXPECT_EQ(rope.factor, 8);
    EXPECT_EQ(rope.original_max_position_embeddings, 32);
  }
  const Rope linear = Config::parse(dump_json(with({{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}))).rope;
  EXPECT_EQ(linear.kind, Rope::Kind::linear);
  EXPECT_EQ(linear.factor, 2);
}

TEST(Config, TakesTwoSpellingsThatAgree) {
  const json linear{{"rope_type", "linear"}, {"type", "linear"}, {"factor", 2}};
  const json parameters{{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 1000.0}, {"partial_rotary_factor", 1.0}};
  const json change{
      {"rope_theta", nullptr}, {"rope_scaling", linear}, {"rope_parameters", parameters}, {"attention_dropout", 0.0}};
  const Rope rope = Config::parse(dump_json(with(change))).rope;
  EXPECT_EQ(rope, (Rope{.kind = Rope::Kind::linear, .theta = 1000, .factor = 2}));
}

TEST(Config, TellsImpossibleValuesByFieldValueAndWish) {
  const std::pair<json, const char*> cases[] = {
      {{{"vocab_size", 0}}, "config.json: vocab_size = 0, and a whole number from 1 is wanted"},
      {{{"hidden_size", -4}}, "config.json: hidden_size = -4, and a whole number from 1 is wanted"},
      {{{"hidden_size", 1e300}}, "config.json: hidden_size = 1e+300, and a whole number from 1 is wanted"},
      {{{"num_hidden_layers", "two"}}, "config.json: num_hidden_layers = \"two\", and a whole number from 1 is wanted"},
      {{{"intermediate_size", nullptr}}, "config.json: intermediate_size is missing"},
      {{{"num_key_value_heads", 4}}, "config.json: num_key_value_heads = 4, and a divisor of num_attention_heads = 6 is wanted"},
      {{{"num_attention_heads", 10}, {"num_key_value_heads", 10}},
       "config.json: num_attention_heads = 10, and without head_dim a divisor of hidden_size = 96 is wanted"},
      {{{"head_dim", 15}}, "config.json: head_dim = 15, and rotary embedding wants an even number"},
      {{{"rms_norm_eps", -1e-6}}, "config.json: rms_norm_eps = -1e-06, and a number above 0 is wanted"},
      {{{"tie_word_embeddings", 1}}, "config.json: tie_word_embeddings = 1, and true or false is wanted"},
      {{{"eos_token_id", 320}}, "config.json: eos_token_id = 320, and token ids below vocab_size = 320 are wanted"},
      {{{"rope_theta", 0}}, "config.json: rope_theta = 0, and a number above 0 is wanted"},
      {{{"rope_scaling", 3}}, "config.json: rope_scaling = 3, and an object is wanted"},
      {{{"rope_scaling", {{"type", "linear"}}}}, "config.json: rope_scaling.factor is missing"},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 0.5}}}},
       "config.json: the rotary factor = 0.5, and a number from 1 is wanted"},
      {{{"rope_scaling", {{"type", "llama3"}, {"factor", 2}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}}},
       "config.json: low_freq_factor = 4 and high_freq_factor = 4, and the first must be smaller"},
      {{{"rope_scaling", {{"type", 2}}}}, "config.json: rope_scaling.type = 2, and a text is wanted"},
      {{{"hidden_act", true}}, "config.json: hidden_act = true, and a text is wanted"},
      {{{"rope_parameters", {{"rope_theta", 1.0}}}},
       "config.json: rope_theta = 500000 and rope_parameters.rope_theta = 1 contradict each other"},
      {{{"rope_scaling", {{"rope_theta", 1.0}}}},
       "config.json: rope_theta = 500000 and rope_scaling.rope_theta = 1 contradict each other"},
      {{{"rope_scaling", {{"rope_type", "default"}, {"type", "linear"}, {"factor", 2}}}},
       "config.json: rope_type = \"default\" and type = \"linear\" contradict each other"},
      {{{"rope_parameters", {{"rope_type", "default"}}}, {"rope_scaling", {{"type", "linear"}, {"factor", 2}}}},
       "config.json: rope_parameters = {\"rope_type\":\"default\"} and rope_scaling = {\"factor\":2,\"type\":\"linear\"} "
       "contradict each other"},
  };
  for (const auto& [change, message] : cases) EXPECT_EQ(message_of<ValueError>(with(change)), message);
  EXPECT_EQ(message_of<ValueError>(json::array()), "config.json: an object is wanted, not array");
  test::expect_error<ValueError>([] { Config::parse("{"); }, "config.json is malformed: ");
}

TEST(Config, RefusesWhatItDoesNotImplement) {
  const std::pair<json, const char*> cases[] = {
      {{{"model_type", "gpt2"}}, "config.json: model_type = \"gpt2\", and only \"llama\" is understood"},
      {{{"hidden_act", "mish"}},
       "config.json: hidden_act = \"mish\" is not one of silu, swish, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, gelu_tanh, "
       "relu"},
      {{{"rope_scaling", {{"type", "yarn"}, {"factor", 2}}}},
       "config.json: rope_type = \"yarn\" is not one of default, linear, llama3"},
      {{{"attention_dropout", 0.1}}, "config.json: attention_dropout = 0.1, and only 0 is understood"},
      {{{"partial_rotary_factor", 0.5}}, "config.json: partial_rotary_factor = 0.5, and only 1 is understood"},
      {{{"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.25}}}},
       "config.json: rope_parameters.partial_rotary_factor = 0.25, and only 1 is understood"},
  };
  for (const auto& [change, message] : cases) EXPECT_EQ(message_of<NotImplementedError>(with(change)), message);
}

}  // namespace
}  // namespace graft::llama
