#include "graft/examples/llama/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "graft/autograd/ops.h"
#include "graft/core/formats/json.h"
#include "graft/examples/llama/files.h"
#include "graft/examples/llama/sampling.h"

#include "../support/errors.h"
#include "../support/tensors.h"

namespace graft::llama {
namespace {

using test::expect_error;

const std::filesystem::path folder = GRAFT_SOURCE_DIR "/examples/models/tiny-llama-gptq";

const CausalLM& model() {
  static const CausalLM instance = [] {
    CausalLM made = load(folder);
    to(made, test::tested_device());
    return made;
  }();
  return instance;
}

Tensor ids(const std::vector<std::int64_t>& values, std::int64_t rows = 1) {
  return test::from(values, {rows, static_cast<std::int64_t>(values.size()) / rows});
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
  expect_error<ValueError>([&] { cache.truncate(11); }, "a cache of 10 tokens cannot be cut to 11");
  expect_error<ValueError>([&] { cache.truncate(-1); }, "a cache of 10 tokens cannot be cut to -1");
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
                                        test::from(std::vector<std::int64_t>{0, 0, 1, 1, 1}, {1, 5}).to(DType::boolean));
  // Rotary embedding knows distances only, so the shift by two positions does not matter either.
  expect_near(slice(padded, 1, 2, 5), alone, 1e-4);
}

TEST(Model, RefusesWhatItCannotCompute) {
  NoGrad no_grad;
  expect_error<ValueError>([] { model().forward(ids({1024})); }, "1024");
  expect_error<ValueError>([] { model().forward(ids({-1})); }, "-1");
  expect_error<ValueError>([] { model().forward(test::zeros({4}, DType::i64)); },
                           "token ids [batch, length] are wanted, not [4]");
  KeyValueCache cache;
  model().forward(ids({1, 2, 3}), &cache);
  expect_error<ValueError>(
      [&] {
        model().forward(ids({1, 2}, 2), &cache);
      },
      " cannot be appended");  // two rows do not follow one
  EXPECT_EQ(cache.length(), 3);
  {
    GradMode recording(true);
    expect_error<ValueError>([&] { model().forward(ids({1}), &cache); },
                             "a key-value cache is for inference: call forward under NoGrad");
  }
  expect_error<FileError>([] { load("/nonexistent"); }, "/nonexistent: is not a folder");
  expect_error<TypeError>([] { load(folder, DType::i8); }, "a model's weights are floating: i8 is not");
}

// A copy of the model whose config.json and tensors may be changed.
class AnotherFolder {
 public:
  explicit AnotherFolder(const std::string& name) : path_(std::filesystem::path(testing::TempDir()) / ("model_test_" + name)) {
    std::filesystem::remove_all(path_);
    std::filesystem::copy(folder, path_);
    std::filesystem::permissions(path_, std::filesystem::perms::owner_write, std::filesystem::perm_options::add);
  }
  ~AnotherFolder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

  void configure(const nlohmann::json& changes) const {
    nlohmann::json config = parse_json<nlohmann::json>(read_text(folder / "config.json"));
    config.update(changes);
    safetensors::write_file_atomically(path_ / "config.json", dump_json(config));
  }
  void add(const std::vector<NamedTensor>& more) const {
    const auto file = safetensors::File::open(folder / "model.safetensors");
    std::vector<NamedTensor> tensors = more;
    for (const auto& [name, entry] : file.entries()) tensors.push_back({name, file.tensor(name)});
    safetensors::save(path_ / "model.safetensors", tensors, file.metadata());
  }

 private:
  std::filesystem::path path_;
};

TEST(Model, RefusesAFileThatConfigJsonDescribesInPart) {
  const AnotherFolder other("unused");
  other.configure({{"num_hidden_layers", 2}});
  expect_error<ValueError>([&] { load(other.path()); },
                           "config.json describes no use for 60 of the tensors: model.layers.2.input_layernorm.weight, "
                           "model.layers.2.mlp.down_proj.g_idx, ");
  other.configure(nlohmann::json::object());
  other.add({{"model.norm.bias", Tensor::zeros({256})}});
  expect_error<ValueError>([&] { load(other.path()); }, "config.json describes no use for 1 of the tensors: model.norm.bias");
}

TEST(Model, LeavesAloneWhatATiedOrAnOldFileHasTwice) {
  const AnotherFolder other("tied");
  other.configure({{"tie_word_embeddings", true}});
  other.add({{"model.layers.0.self_attn.rotary_emb.inv_freq", Tensor::zeros({16})}});
  CausalLM tied = load(other.path());
  EXPECT_EQ(named_parameters(tied).size() + 1, named_parameters(const_cast<CausalLM&>(model())).size());
}

TEST(Model, RefusesBiasesThatTheFileLacks) {
  const AnotherFolder other("bias");
  other.configure({{"attention_bias", true}});
  expect_error<ValueError>([&] { load(other.path()); },
                           "config.json announces biases, and the checkpoint has no model.layers.0.self_attn.q_proj.bias");
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
  expect_error<ValueError>([] { generate(model(), {}, {}); }, "a prompt of at least one token is wanted");
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
  // The blend in f32, operation by operation as in transformers, for three of Llama 3.1's pairs; f64 would round them otherwise.
  const Rope large{.kind = Rope::Kind::llama3, .theta = 500000, .factor = 8};
  const auto sines = rotary_table(large, 128, 1, 1, {}).sin.to_vector<float>();
  EXPECT_EQ(sines[29], std::sin(0x1.1bfa0cp-9f));
  EXPECT_EQ(sines[32], std::sin(0x1.132ba4p-11f));
  EXPECT_EQ(sines[34], std::sin(0x1.765ba4p-13f));
  Rope linear = plain;
  linear.kind = Rope::Kind::linear;
  EXPECT_NEAR(angle(linear, 1), angle(plain, 1) / 8, 1e-7);
}

}  // namespace
}  // namespace graft::llama
