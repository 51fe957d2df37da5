#include "graft/quant/quantize_folder.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "graft/autograd/linear.h"
#include "graft/autograd/ops.h"
#include "graft/core/formats/json.h"
#include "graft/quant/checkpoint.h"
#include "graft/quant/folder_writer.h"
#include "graft/quant/pack_checkpoint.h"
#include "graft/quant/round_to_nearest.h"

#include "../support/errors.h"
#include "calibrated_layer.h"

namespace graft::quant {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using Json = nlohmann::json;

constexpr std::int64_t width = 64, inner = 128;

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// A folder of its own for each test.
struct Folder {
  fs::path path = fs::temp_directory_path() /
                  fmt::format("graft-{}-{}", ::getpid(), testing::UnitTest::GetInstance()->current_test_info()->name());
  Folder() { fs::remove_all(path), fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

class Scale final : public Module {
 public:
  explicit Scale(Tensor weight) : weight_(std::move(weight)) {}
  std::string type_name() const override { return "Scale"; }
  void visit(Visitor& visitor) override { visitor.parameter("weight", weight_); }
  Tensor forward(const Tensor& x) const { return mul(x, weight_); }

 private:
  Tensor weight_;
};

// x + down(relu-free gate(n) + up(n)), n = norm(x): two layers with a common input, and one behind them.
class ToyBlock final : public Module {
 public:
  explicit ToyBlock(const Checkpoint& checkpoint, const std::string& prefix) {
    norm_.replace(std::make_shared<Scale>(checkpoint.tensor(prefix + ".norm.weight", {width}, DType::f32)));
    gate_.replace(checkpoint.linear(prefix + ".gate", width, inner, DType::f32));
    up_.replace(checkpoint.linear(prefix + ".up", width, inner, DType::f32));
    down_.replace(checkpoint.linear(prefix + ".down", inner, width, DType::f32));
  }
  std::string type_name() const override { return "ToyBlock"; }
  void visit(Visitor& visitor) override {
    visitor.child("norm", norm_);
    visitor.child("gate", gate_);
    visitor.child("up", up_);
    visitor.child("down", down_);
  }
  Tensor forward(const Tensor& x) const {
    const Tensor n = norm_->forward(x);
    return add(x, down_->forward(mul(gate_->forward(n), up_->forward(n))));
  }

 private:
  Slot<Scale> norm_;
  Slot<LinearBase> gate_, up_, down_;
};

class ToyModel : public QuantizableModel {
 public:
  explicit ToyModel(const fs::path& folder, std::int64_t blocks = 2) : blocks_(blocks), checkpoint_(Checkpoint::open(folder)) {}
  std::int64_t blocks() const override { return blocks_; }
  std::string prefix(std::int64_t block) const override { return fmt::format("layers.{}", block); }
  std::vector<QuantizeStep> steps(std::int64_t) const override { return {{{"gate", "up"}, "norm"}, {{"down"}, "up"}}; }
  std::int64_t batches() const override { return 8; }
  Tensor embed(std::int64_t batch) override {
    return mul(calibration_.alias({40, width}, {width, 1}, batch * 40 * width), test::full({1}, 0.3));
  }
  std::shared_ptr<Module> load(std::int64_t block) override {
    return test::placed(std::make_shared<ToyBlock>(checkpoint_, prefix(block)));
  }
  Tensor forward(Module& block, const Tensor& hidden, std::int64_t) override {
    return dynamic_cast<ToyBlock&>(block).forward(hidden);
  }

  Tensor logits() {
    Tensor x = embed(batches());  // more of the same, but not what was calibrated with
    for (std::int64_t i = 0; i < blocks(); ++i) {
      const auto block = load(i);
      x = forward(*block, x, 0);
    }
    return x;
  }

 private:
  std::int64_t blocks_;
  Tensor calibration_ = test::make_layer(1, width, 9 * 40, 100).x;
  Checkpoint checkpoint_;
};

void write_dense(const fs::path& folder, DType dtype = DType::f16, std::int64_t blocks = 2) {
  std::vector<NamedTensor> tensors;
  const auto add = [&](const std::string& name, const Tensor& values) {
    const Tensor stored = Tensor::empty(values.shape(), dtype);
    stored.copy_(values);
    tensors.push_back({name, stored});
  };
  add("embed.weight", test::make_layer(10, width, 1, 50).weight);
  for (std::int64_t i = 0; i < blocks; ++i) {
    const auto seed = static_cast<std::uint64_t>(10 * i);
    const std::string prefix = fmt::format("layers.{}.", i);
    add(prefix + "norm.weight", Tensor::full({width}, 1.5));
    add(prefix + "gate.weight", test::make_layer(inner, width, 1, seed + 1).weight);
    add(prefix + "up.weight", test::make_layer(inner, width, 1, seed + 2).weight);
    add(prefix + "up.bias", Tensor::from(test::normals(seed + 3, inner), {inner}));
    add(prefix + "down.weight", test::make_layer(width, inner, 1, seed + 4).weight);
  }
  fs::create_directories(folder);
  safetensors::save(folder / "model.safetensors", tensors);
  std::ofstream(folder / "config.json") << R"({"model_type": "toy", "hidden_size": 64})";
  std::ofstream(folder / "tokenizer.json") << "{}";
}

double distance(const Tensor& a, const Tensor& b) {
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double error = 0, size = 0;
  for (std::size_t i = 0; i < x.size(); ++i) error += (x[i] - y[i]) * (x[i] - y[i]), size += y[i] * y[i];
  return std::sqrt(error / size);
}

TEST(QuantizeFolder, EveryMethodWritesAFolderThatReadsBack) {
  Folder folder;
  write_dense(folder.path / "dense");
  ToyModel model(folder.path / "dense");
  const Tensor expected = model.logits();
  const Grid gptq4{.group_size = 32}, awq4{.group_size = 32, .sym = false, .rule = GridRule::awq};
  const std::vector<std::pair<std::string, QuantizeMethod>> methods{
      {"gptq", GptqSettings{.grid = gptq4}},
      {"gptq_v2", GptqSettings{.grid = {.group_size = 32, .sym = false}, .desc_act = true}},
      {"gptq3", GptqSettings{.grid = {.bits = 3, .group_size = 32, .sym = false}, .act_group_aware = true}},
      {"gptq6", GptqSettings{.grid = {.bits = 6, .group_size = -1}, .static_groups = true}},
      {"round", gptq4},
      {"awq", AwqSettings{.grid = awq4}},
      {"awq-round", awq4},
      {"eetq", eetq_grid()}};
  std::map<std::string, double> errors;
  for (const auto& [name, method] : methods) {
    SCOPED_TRACE(name);
    std::vector<std::string> seen;
    const auto report =
        quantize_folder(folder.path / "dense", folder.path / name, model, method, {.progress = [&](const QuantizedModule& m) {
                          seen.push_back(m.module);
                          EXPECT_EQ(m.number, static_cast<std::int64_t>(seen.size()));
                          EXPECT_EQ(m.count, 6);
                        }});
    EXPECT_EQ(seen, (std::vector<std::string>{"layers.0.gate", "layers.0.up", "layers.0.down", "layers.1.gate", "layers.1.up",
                                              "layers.1.down"}));
    for (const QuantizedModule& m : report) EXPECT_FALSE(m.uncalibrated || m.indefinite);
    const Checkpoint checkpoint = Checkpoint::open(folder.path / name);
    EXPECT_EQ(checkpoint.quantized_modules().size(), 6u);
    EXPECT_TRUE(checkpoint.contains("embed.weight"));
    EXPECT_EQ(text_of(folder.path / name / "tokenizer.json"), "{}");
    EXPECT_EQ(fs::exists(folder.path / name / "quantize_config.json"), name != "eetq");
    const Json config = parse_json<Json>(text_of(folder.path / name / "config.json"));
    EXPECT_EQ(config.at("hidden_size"), 64);
    EXPECT_EQ(config.at("quantization_config").at("quant_method"), name.substr(0, 3) == "awq" ? "awq"
                                                                   : name == "eetq"           ? "eetq"
                                                                                              : "gptq");
    ToyModel quantized(folder.path / name);
    errors[name] = distance(quantized.logits(), expected);
  }
  EXPECT_LT(errors["gptq"], errors["round"]);
  EXPECT_LT(errors["awq"], errors["awq-round"]);
  EXPECT_LT(errors["gptq_v2"], errors["round"]);
  EXPECT_LT(errors["gptq6"], errors["gptq"]);
  EXPECT_LT(errors["eetq"], 0.02);
  EXPECT_LT(errors["gptq3"], 0.5);
}

TEST(QuantizeFolder, RoundingIsThatOfTheStoredWeights) {
  Folder folder;
  write_dense(folder.path / "dense", DType::bf16);
  ToyModel model(folder.path / "dense");
  const Grid grid{.group_size = 16};
  quantize_folder(folder.path / "dense", folder.path / "out", model, grid, {.layout = "gptq_v2"});
  const Checkpoint dense = Checkpoint::open(folder.path / "dense"), out = Checkpoint::open(folder.path / "out");
  const Quantized expected = round_to_nearest(dense.tensor("layers.1.down.weight", {width, inner}, DType::f32), grid);
  const Decoded decoded = out.decode("layers.1.down");
  EXPECT_EQ(decoded.description.layout, "gptq_v2");
  EXPECT_EQ(dequantize(decoded, 0, width).to_vector<float>(), dequantize(expected).to_vector<float>());
}

TEST(QuantizeFolder, HoldsOneBlockInFloatHoweverManyThereAre) {
  Folder folder;
  constexpr std::int64_t shard_bytes = 10'000;  // packed layers wait in memory until they fill a shard
  const auto peak = [&](std::int64_t blocks, const QuantizeMethod& method) {
    const fs::path dense = folder.path / fmt::format("dense{}", blocks);
    if (!fs::exists(dense)) write_dense(dense, DType::f16, blocks);
    ToyModel model(dense, blocks);
    memory::reset_peak();
    const std::int64_t before = memory::live_bytes();
    quantize_folder(dense, folder.path / "out", model, method, {.shard_bytes = shard_bytes});
    fs::remove_all(folder.path / "out");
    return memory::peak_bytes() - before;
  };
  static_assert(8 * shard_bytes < 3 * width * inner * sizeof(float), "a block must be told apart from a shard");
  const Grid awq{.group_size = 32, .sym = false, .rule = GridRule::awq};
  for (const QuantizeMethod& method : std::vector<QuantizeMethod>{Grid{}, GptqSettings{}, AwqSettings{.grid = awq}})
    EXPECT_LE(peak(8, method) - peak(2, method), shard_bytes) << "method " << method.index();
}

TEST(QuantizeFolder, AwqHoldsOneCopyOfItsBlock) {
  Folder folder;
  write_dense(folder.path / "dense");
  ToyModel model(folder.path / "dense");
  const Grid grid{.group_size = 32, .sym = false, .rule = GridRule::awq};
  constexpr std::int64_t shard = 10'000, f = sizeof(float);
  memory::reset_peak();
  const std::int64_t before = memory::live_bytes();
  quantize_folder(folder.path / "dense", folder.path / "out", model, AwqSettings{.grid = grid}, {.shard_bytes = shard});
  const std::int64_t peak = memory::peak_bytes() - before;
  const std::int64_t block = (3 * width * inner + width + inner) * f,
                     moments = (width * width + inner * inner) * f + (width + inner) * 8, hidden = 8 * 40 * width * f,
                     step = 2 * width * inner * f;
  // A search compares candidates for a step, which are made and held against the originals in as much memory again.
  EXPECT_LE(peak, block + moments + hidden + shard + 3 * step)
      << "block " << block << ", moments " << moments << ", hidden " << hidden << ", step " << step;
  EXPECT_GT(peak, block + moments + hidden) << "less than must be held at once: something is not counted";
}

// A model whose blocks do not use what they hold, as experts that no token is sent to.
struct IdleModel : ToyModel {
  using ToyModel::ToyModel;
  Tensor forward(Module&, const Tensor& hidden, std::int64_t) override { return hidden; }
};

void expect_plain_rounding(const fs::path& dense, const fs::path& out, const std::string& module, const Shape& shape,
                           const Grid& grid) {
  const Tensor weight = Checkpoint::open(dense).tensor(module + ".weight", shape, DType::f32);
  EXPECT_EQ(dequantize(Checkpoint::open(out).decode(module), 0, shape[0]).to_vector<float>(),
            dequantize(round_to_nearest(weight, grid)).to_vector<float>())
      << module;
}

TEST(QuantizeFolder, WhatNoTokenReachesIsRoundedPlainly) {
  Folder folder;
  write_dense(folder.path / "dense");
  IdleModel model(folder.path / "dense");
  const Grid gptq{.group_size = 32}, awq{.group_size = 32, .sym = false, .rule = GridRule::awq};
  const std::pair<QuantizeMethod, Grid> cases[] = {{GptqSettings{.grid = gptq}, gptq}, {AwqSettings{.grid = awq}, awq}};
  for (const auto& [method, grid] : cases) {
    const auto report = quantize_folder(folder.path / "dense", folder.path / "out", model, method);
    EXPECT_EQ(report.size(), 6u);
    for (const QuantizedModule& module : report) {
      EXPECT_TRUE(module.uncalibrated) << module.module;
      EXPECT_FALSE(module.indefinite) << module.module;
      EXPECT_EQ(module.loss, 0) << module.module;
      const bool down = module.module.ends_with("down");
      expect_plain_rounding(folder.path / "dense", folder.path / "out", module.module,
                            down ? Shape{width, inner} : Shape{inner, width}, grid);
    }
    const Checkpoint dense = Checkpoint::open(folder.path / "dense"), out = Checkpoint::open(folder.path / "out");
    EXPECT_EQ(out.tensor("layers.0.norm.weight", {width}, DType::f32).to_vector<float>(),
              dense.tensor("layers.0.norm.weight", {width}, DType::f32).to_vector<float>());
    fs::remove_all(folder.path / "out");
  }
}

TEST(QuantizeFolder, WhatNoDampingMakesDefiniteIsRoundedPlainly) {
  struct LoudModel : ToyModel {
    using ToyModel::ToyModel;
    std::vector<QuantizeStep> steps(std::int64_t) const override { return {{{"gate", "up"}, "norm"}}; }
    Tensor embed(std::int64_t) override { return test::full({4, width}, 1e20); }  // their squares are infinite
  };
  Folder folder;
  write_dense(folder.path / "dense", DType::f16, 1);
  LoudModel model(folder.path / "dense", 1);
  const Grid grid{.group_size = 32};
  const auto report = quantize_folder(folder.path / "dense", folder.path / "out", model, GptqSettings{.grid = grid});
  ASSERT_EQ(report.size(), 2u);
  for (const QuantizedModule& module : report) {
    EXPECT_TRUE(module.indefinite);
    EXPECT_FALSE(module.uncalibrated);
    expect_plain_rounding(folder.path / "dense", folder.path / "out", module.module, {inner, width}, grid);
  }
}

TEST(QuantizeFolder, AwqMovesItsScalesIntoTheProducers) {
  // Rounded to 8 bits the model must stay what it was: norms divided, the bias and rows of `up` divided, columns multiplied.
  Folder folder;
  write_dense(folder.path / "dense", DType::f32);
  ToyModel model(folder.path / "dense");
  quantize_folder(
      folder.path / "dense", folder.path / "out", model,
      AwqSettings{.grid = {.bits = 8, .group_size = 32, .sym = false, .rule = GridRule::awq, .scale_dtype = DType::f32}});
  ToyModel quantized(folder.path / "out");
  EXPECT_LT(distance(quantized.logits(), model.logits()), 0.01);
  const Checkpoint dense = Checkpoint::open(folder.path / "dense"), out = Checkpoint::open(folder.path / "out");
  for (const char* name : {"layers.0.norm.weight", "layers.0.up.bias"}) {
    const Shape shape{std::string(name).ends_with("bias") ? inner : width};
    EXPECT_NE(dense.tensor(name, shape, DType::f32).to_vector<float>(), out.tensor(name, shape, DType::f32).to_vector<float>())
        << name;
  }
}

TEST(QuantizeFolder, AnErrorLeavesNothingBehind) {
  Folder folder;
  write_dense(folder.path / "dense");
  ToyModel model(folder.path / "dense");
  const auto before = std::distance(fs::directory_iterator(folder.path), fs::directory_iterator());
  expect_error<ValueError>(
      [&] {
        quantize_folder(folder.path / "dense", folder.path / "out", model, Grid{},
                        {.progress = [](const QuantizedModule& m) { check(m.number < 3, "stop here"); }});
      },
      "stop here");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()), before);
}

TEST(QuantizeFolder, RefusesWhatDoesNotFit) {
  Folder folder;
  write_dense(folder.path / "dense");
  ToyModel model(folder.path / "dense");
  const auto quantizing = [&](const QuantizeMethod& method, QuantizeOptions options = {}) {
    return [&, method, options] { quantize_folder(folder.path / "dense", folder.path / "out", model, method, options); };
  };
  expect_error<ValueError>(quantizing(Grid{.bits = 1}), "bits is 1");
  expect_error<ValueError>(quantizing(Grid{}, {.layout = "gemm2"}), "layout 'gemm2'");
  expect_error<ValueError>(quantizing(Grid{}, {.shard_bytes = 0}), "shards of 0 bytes");
  expect_error<FileError>([&] { quantize_folder(folder.path / "dense", folder.path / "dense", model, Grid{}); },
                          "exists already");
  expect_error<FileError>([&] { quantize_folder(folder.path / "nowhere", folder.path / "out", model, Grid{}); }, "nowhere");
  quantizing(Grid{})();
  expect_error<ValueError>([&] { quantize_folder(folder.path / "out", folder.path / "twice", model, Grid{}); },
                           "is quantized already");

  struct OddModel : ToyModel {
    using ToyModel::ToyModel;
    std::vector<QuantizeStep> wanted;
    std::vector<QuantizeStep> steps(std::int64_t) const override { return wanted; }
  } odd(folder.path / "dense");
  const auto with_steps = [&](std::vector<QuantizeStep> steps, const QuantizeMethod& method) {
    odd.wanted = std::move(steps);
    return [&, method] { quantize_folder(folder.path / "dense", folder.path / "odd", odd, method); };
  };
  expect_error<ValueError>(with_steps({}, Grid{}), "names no layers to quantize");
  expect_error<ValueError>(with_steps({{{}, ""}}, Grid{}), "layers.0: a step without modules");
  expect_error<ValueError>(with_steps({{{"gates"}, ""}}, GptqSettings{}), "layers.0: has no module 'gates'");
  expect_error<FileError>(with_steps({{{"gates"}, ""}}, Grid{}), "layers.0.gates.weight");
  expect_error<ValueError>(with_steps({{{"norm"}, ""}}, GptqSettings{}), "'norm' is not a dense linear layer");
  expect_error<ValueError>(with_steps({{{"gate"}, "nor"}}, AwqSettings{}), "the producer 'nor' has no weight");
  expect_error<ValueError>(with_steps({{{"gate"}, "norm"}, {{"up"}, "norm"}}, AwqSettings{}),
                           "two steps have the producer 'norm'");
}

TEST(FolderWriter, CutsShardsAndWritesTheirIndex) {
  Folder folder;
  write_dense(folder.path / "dense");
  {
    FolderWriter writer(folder.path / "dense", folder.path / "out", 20'000);
    for (const char* name : {"layers.0.gate", "layers.1.gate"})
      writer.put(name, to_stored(round_to_nearest(writer.source().tensor(name + std::string(".weight")), {}), "gptq"));
    writer.replace("layers.0.norm.weight", Tensor::full({width}, 2));
    expect_error<ValueError>([&] { writer.replace("layers.0.norm.weight", Tensor::ones({width})); }, "replaced twice");
    expect_error<ValueError>([&] { writer.replace("layers.1.norm.weight", Tensor::ones({3})); }, "its replacement has [3]");
    expect_error<FileError>([&] { writer.replace("nothing", Tensor::ones({3})); }, "has no tensor 'nothing'");
    const Quantized small = round_to_nearest(Tensor::ones({32, 32}), {});
    expect_error<ValueError>([&] { writer.put("layers.0.up", to_stored(small, "gptq")); },
                             "the packed layer has 32 outputs and 32 inputs");
    EXPECT_FALSE(fs::exists(folder.path / "out"));
    expect_error<ValueError>([&] { writer.finish("[]", true); }, "is not a JSON object");
    writer.finish(R"({"quant_method": "gptq", "bits": 4, "group_size": 128})", true);
  }
  const Json index = parse_json<Json>(text_of(folder.path / "out/model.safetensors.index.json"));
  const auto source = safetensors::Checkpoint::open(folder.path / "dense"),
             out = safetensors::Checkpoint::open(folder.path / "out");
  EXPECT_EQ(index.at("metadata").at("total_size"), out.bytes());
  EXPECT_EQ(index.at("weight_map").size(), out.names().size());
  for (const std::string& name : source.names()) {
    if (name == "layers.0.gate.weight" || name == "layers.1.gate.weight") {
      EXPECT_FALSE(out.contains(name));
    } else if (name == "layers.0.norm.weight") {
      EXPECT_EQ(out.tensor(name).dtype(), DType::f16);
      EXPECT_EQ(out.tensor(name).to_vector<float>(), std::vector<float>(width, 2));
    } else {
      EXPECT_EQ(out.tensor(name).to_vector<float>(), source.tensor(name).to_vector<float>()) << name;
    }
  }
  for (const auto& file : fs::directory_iterator(folder.path / "out"))
    if (file.path().extension() == ".safetensors") {
      EXPECT_LE(fs::file_size(file), 30'000u);
    }
}

}  // namespace
}  // namespace graft::quant
