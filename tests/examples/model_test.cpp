#include "graft/examples/llama/model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <fstream>

#include "graft/autograd/ops.h"
#include "graft/examples/llama/files.h"
#include "graft/examples/llama/sampling.h"

namespace graft::llama {
namespace {

const std::filesystem::path folder = GRAFT_SOURCE_DIR "/examples/models/tiny-llama-gptq";

const CausalLM& model() {
  static const CausalLM instance = load(folder);
  return instance;
}

Tensor ids(const std::vector<std::int64_t>& values, std::int64_t rows = 1) {
  return Tensor::from(values, {rows, static_cast<std::int64_t>(values.size()) / rows});
}

void expect_near(const Tensor& a, const Tensor& b, double tolerance) {
  ASSERT_EQ(a.shape(), b.shape());
  EXPECT_LE(amax(reshape(abs(a - b), {-1}), 0).item(), tolerance);
}

TEST(Model, HasTheNamesOfHuggingFace) {
  std::vector<std::string> names;
  CausalLM copy = load(folder);
  for_each_module(copy, [&](const std::string& name, Module&) { names.push_back(name); });
  for (const char* name : {"model.embed_tokens", "model.layers.3.self_attn.q_proj", "model.layers.0.mlp.down_proj",
                           "model.layers.1.input_layernorm", "model.layers.1.post_attention_layernorm", "model.norm", "lm_head"})
    EXPECT_EQ(std::count(names.begin(), names.end(), name), 1) << name;
  EXPECT_EQ(copy.type_name(), "LlamaForCausalLM");
}

TEST(Model, ACacheChangesNothing) {
  NoGrad no_grad;
  const std::vector<std::int64_t> tokens{303, 260, 757, 405, 336, 260, 12, 77, 901, 4};
  const Tensor whole = model().forward(ids(tokens));
  KeyValueCache cache;
  std::vector<Tensor> parts;
  std::size_t at = 0;
  for (const std::size_t n : {3u, 1u, 4u, 1u, 1u}) {
    parts.push_back(model().forward(ids({tokens.begin() + at, tokens.begin() + at + n}), &cache));
    at += n;
  }
  expect_near(concat(parts, 1), whole, 1e-4);
  EXPECT_EQ(cache.length(), 10);

  cache.truncate(5);
  expect_near(model().forward(ids({tokens.begin() + 5, tokens.end()}), &cache), slice(whole, 1, 5, 10), 1e-4);
  EXPECT_THROW(cache.truncate(11), ValueError);
}

TEST(Model, ACacheGrowsBeyondItsFirstRoom) {
  NoGrad no_grad;
  std::vector<std::int64_t> tokens;
  for (int i = 0; i < 150; ++i) tokens.push_back(i * 7 % 1000);
  KeyValueCache cache;
  Tensor last;
  for (std::size_t i = 0; i < tokens.size(); ++i) last = model().forward(ids({tokens[i]}), &cache);
  expect_near(last, slice(model().forward(ids(tokens)), 1, 149, 150), 1e-4);
}

TEST(Model, PaddingOnTheLeftIsNotSeen) {
  NoGrad no_grad;
  const Tensor alone = model().forward(ids({303, 260, 757}));
  const Tensor padded = model().forward(ids({0, 0, 303, 260, 757}), nullptr,
                                        Tensor::from(std::vector<std::int64_t>{0, 0, 1, 1, 1}, {1, 5}).to(DType::boolean));
  // Rotary embedding knows distances only, so the shift by two positions does not matter either.
  expect_near(slice(padded, 1, 2, 5), alone, 1e-4);
}

TEST(Model, RefusesWhatItCannotCompute) {
  NoGrad no_grad;
  EXPECT_THROW(model().forward(ids({1024})), ValueError);
  EXPECT_THROW(model().forward(ids({-1})), ValueError);
  EXPECT_THROW(model().forward(Tensor::zeros({4}, DType::i64)), ValueError);
  KeyValueCache cache;
  model().forward(ids({1, 2, 3}), &cache);
  EXPECT_THROW(model().forward(ids({1, 2}, 2), &cache), ValueError) << "two rows do not follow one";
  EXPECT_EQ(cache.length(), 3);
  {
    GradMode recording(true);
    try {
      model().forward(ids({1}), &cache);
      FAIL();
    } catch (const ValueError& error) {
      EXPECT_STREQ(error.what(), "a key-value cache is for inference: call forward under NoGrad");
    }
  }
  EXPECT_THROW(load("/nonexistent"), FileError);
  EXPECT_THROW(load(folder, DType::i8), TypeError);
}

TEST(Model, GeneratesTheSameWithAndWithoutSampling) {
  const std::vector<std::int64_t> prompt{303, 260, 757, 405, 336, 260};
  const auto greedy = generate(model(), prompt, {.max_tokens = 12});
  EXPECT_EQ(greedy, (std::vector<std::int64_t>{757, 12, 986, 728, 12, 315, 487, 782, 442, 351, 364, 83}));
  EXPECT_EQ(generate(model(), prompt, {.max_tokens = 12, .sampling = {.temperature = 1, .top_k = 1}}), greedy);
  EXPECT_EQ(generate(model(), prompt, {.max_tokens = 12, .stop_ids = {728}}), (std::vector<std::int64_t>{757, 12, 986}));
  int seen = 0;
  EXPECT_EQ(generate(model(), prompt, {.max_tokens = 12, .on_token = [&](std::int64_t) { return ++seen < 5; }}).size(), 5u);
  EXPECT_TRUE(generate(model(), prompt, {.max_tokens = 0}).empty());
  EXPECT_THROW(generate(model(), {}, {}), ValueError);
}

TEST(Rope, SlowsDownWhatTurnsSlowly) {
  const Rope rope{.kind = Rope::Kind::llama3,
                  .theta = 10000,
                  .factor = 8,
                  .low_freq_factor = 1,
                  .high_freq_factor = 4,
                  .original_max_position_embeddings = 32};
  Rope plain = rope;
  plain.kind = Rope::Kind::plain;
  const auto angle = [](const Rope& rope, std::int64_t pair) {
    return std::asin(rotary_table(rope, 16, 1, 1, {}).sin.to_vector<double>()[pair]);
  };
  // Pair 0 turns 32/2π = 5.1 times in the original context, pair 1 1.6 times, pair 2 half a time.
  EXPECT_NEAR(angle(rope, 1) / angle(plain, 1), (1 - 0.2035) / 8 + 0.2035, 1e-3);
  EXPECT_NEAR(angle(rope, 2) / angle(plain, 2), 1.0 / 8, 1e-6);
  const RotaryTable table = rotary_table(rope, 16, 3, 2, {});
  EXPECT_EQ(table.cos.shape(), (Shape{1, 2, 8}));
  EXPECT_FLOAT_EQ(table.cos.to_vector<float>()[0], std::cos(3.0f)) << "pair 0 turns as without scaling";
  Rope linear = plain;
  linear.kind = Rope::Kind::linear;
  EXPECT_NEAR(angle(linear, 1), angle(plain, 1) / 8, 1e-7);
}

}  // namespace
}  // namespace graft::llama
