#include "graft/quant/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "graft/quant/inspect.h"
#include "graft/quant/kernels.h"
#include "graft/tests/support/errors.h"

#include "reference.h"

namespace graft::quant {
namespace {

namespace fs = std::filesystem;
using reference::Integers;
using reference::ZeroWriter;

constexpr const char* gptq_config =
    R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": false, "checkpoint_format": "gptq_v2"})";
constexpr const char* eetq_config = R"({"quant_method": "eetq", "weights": "int8"})";

class CheckpointFolder : public testing::Test {
 protected:
  CheckpointFolder() {
    std::string name = (fs::temp_directory_path() / "graft-checkpoint-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~CheckpointFolder() override { fs::remove_all(folder_); }

  void add(const std::string& module, const Stored& stored) {
    for (const auto& [part, tensor] : stored.tensors) tensors_.push_back({module + "." + part, tensor});
  }
  void add(const std::string& name, const Tensor& tensor) { tensors_.push_back({name, tensor}); }
  void write(const std::string& config, const std::map<std::string, std::string>& metadata = {}) const {
    safetensors::save(folder_ / "model.safetensors", tensors_, metadata);
    std::ofstream(folder_ / "config.json") << (config.empty() ? "{}" : R"({"quantization_config": )" + config + "}");
  }
  Checkpoint open(const Choices& choices = {}) const { return Checkpoint::open(folder_, choices); }

  fs::path folder_;
  std::vector<NamedTensor> tensors_;
};

TEST_F(CheckpointFolder, GivesEachModuleTheLayerThatTheFileHolds) {
  const Integers integers = reference::draw(64, 32, 4, 32, false, true, 1);
  Stored quantized = reference::gptq(integers, ZeroWriter::as_is);
  quantized.tensors["bias"] = Tensor::full({32}, 0.5, DType::f16);
  add("a.q", quantized);
  add("a.dense.weight", Tensor::full({16, 8}, 3, DType::bf16));
  add("a.dense.bias", Tensor::full({16}, 1, DType::bf16));
  add("norm.weight", Tensor::full({8}, 2, DType::f16));
  write(gptq_config);

  const Checkpoint checkpoint = open();
  EXPECT_EQ(checkpoint.folder(), folder_);
  EXPECT_EQ(checkpoint.config(), R"({"quantization_config": )" + std::string(gptq_config) + "}");
  EXPECT_TRUE(checkpoint.contains("a.q.qweight"));
  EXPECT_EQ(checkpoint.names().front(), "a.dense.bias");
  EXPECT_EQ(checkpoint.quantized_modules(), std::vector<std::string>{"a.q"});

  const auto layer = std::dynamic_pointer_cast<QuantLinear>(checkpoint.linear("a.q", 64, 32, DType::bf16));
  ASSERT_TRUE(layer);
  EXPECT_EQ(layer->bias().dtype(), DType::bf16);
  EXPECT_EQ(layer->dequantize(7, 8).data<float>()[5], integers.weight(5, 7));
  EXPECT_EQ(layer->format().layout, "gptq_v2");
  EXPECT_EQ(layer->qweight().to_vector<std::int32_t>(), quantized.tensors["qweight"].to_vector<std::int32_t>());
  EXPECT_TRUE(layer->qweight().storage()->read_only()) << "the original bytes are those of the mapped file";

  const auto dense = checkpoint.linear("a.dense", 8, 16, DType::f32);
  EXPECT_EQ(dense->type_name(), "Linear");
  EXPECT_EQ(dense->weight().dtype(), DType::f32);
  EXPECT_EQ(dense->bias().to_vector<float>(), std::vector<float>(16, 1));
  EXPECT_EQ(checkpoint.tensor("norm.weight", {8}, DType::f32).to_vector<float>(), std::vector<float>(8, 2));
}

TEST_F(CheckpointFolder, TheTensorsOfAModuleSayWhetherItIsQuantized) {
  const Integers integers = reference::draw(64, 32, 4, 32, false, false, 1);
  for (const char* lm_head : {"", R"(, "lm_head": false)", R"(, "lm_head": true)"}) {
    const std::string config = std::string(gptq_config, std::string(gptq_config).size() - 1) + lm_head + "}";
    tensors_.clear();
    add("lm_head", reference::gptq(integers, ZeroWriter::as_is));
    write(config);
    EXPECT_EQ(open().linear("lm_head", 64, 32, DType::f32)->type_name(), "QuantLinear") << config;
    EXPECT_EQ(open().features("lm_head"), std::pair(std::int64_t{64}, std::int64_t{32}));
    tensors_.clear();
    add("lm_head.weight", Tensor::ones({32, 64}, DType::f16));
    write(config);
    EXPECT_EQ(open().linear("lm_head", 64, 32, DType::f32)->type_name(), "Linear") << config;
  }
}

TEST_F(CheckpointFolder, TheOriginalTensorsMakeTheSameFileAgain) {
  const auto bytes = [](const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  for (const Stored& stored : reference::one_of_each(256, 128)) {
    const Description& d = stored.description;
    SCOPED_TRACE(fmt::format("{} {} {} bits", d.method, d.layout, d.bits));
    tensors_.clear();
    add("a.b", stored);
    write(fmt::format(R"({{"quant_method": "{}", "bits": {}, "group_size": {}, "sym": {}, {}"desc_act": false}})", d.method,
                      d.bits, d.group_size, d.sym, d.method == "eetq" ? "" : fmt::format(R"("format": "{}", )", d.layout)));
    const auto layer = std::dynamic_pointer_cast<QuantLinear>(open().linear("a.b", 256, 128, DType::f32));
    std::vector<NamedTensor> originals;
    for (const auto& [part, tensor] : layer->original()) originals.push_back({"a.b." + part, tensor});
    safetensors::save(folder_ / "again", originals);
    EXPECT_TRUE(bytes(folder_ / "again") == bytes(folder_ / "model.safetensors"));
    fs::remove(folder_ / "again");
  }
}

TEST_F(CheckpointFolder, LoadingTakesNoMoreMemoryThanTheLayerKeeps) {
  const Integers integers = reference::draw(512, 256, 4, 128, true, false, 1);
  const struct {
    Stored stored;
    const char* config;
  } cases[] = {{reference::gptq(integers, ZeroWriter::per_word), R"({"bits": 4, "group_size": 128, "sym": true})"},
               {reference::awq_gemm(integers), R"({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"})"},
               {reference::eetq(reference::draw_eetq(512, 256, 1), "sm80"), eetq_config}};
  for (const auto& [stored, config] : cases) {
    tensors_.clear();
    add("a", stored);
    write(config);
    const Checkpoint checkpoint = open();
    const std::int64_t before = memory::live_bytes();
    memory::reset_peak();
    const auto layer = std::dynamic_pointer_cast<QuantLinear>(checkpoint.linear("a", 512, 256, DType::f32));
    EXPECT_EQ(memory::live_bytes() - before, layer->packed().bytes()) << config;
    EXPECT_EQ(memory::peak_bytes() - before, layer->packed().bytes()) << config;
  }
}

TEST_F(CheckpointFolder, OverridesReachTheirModules) {
  add("a.down", reference::gptq(reference::draw(64, 32, 8, -1, true, false, 1), ZeroWriter::as_is));
  add("a.up", reference::gptq(reference::draw(64, 32, 4, 32, false, false, 1), ZeroWriter::as_is));
  write(
      R"({"bits": 4, "group_size": 32, "sym": false, "format": "gptq_v2", "dynamic": {"+:.*down": {"bits": 8, "group_size": -1, "sym": true}}})");
  EXPECT_EQ(open().decode("a.down").bits, 8);
  EXPECT_EQ(open().decode("a.up").bits, 4);
  write(R"({"bits": 4, "group_size": 32, "sym": false, "format": "gptq_v2", "dynamic": {"-:.*down": {}}})");
  test::expect_error<ValueError>([&] { open().linear("a.down", 64, 32, DType::f32); }, "a.down: holds packed weights, but ");
}

TEST_F(CheckpointFolder, AutoGptqIsKnownByItsWeightFile) {
  add("a", reference::gptq(reference::draw(64, 32, 4, 32, false, false, 1), ZeroWriter::per_field));
  write(R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": false})", {{"auto_gptq_version", "0.7.1"}});
  const Description d = open().decode("a").description;
  EXPECT_EQ(d.producer, "auto_gptq");
  EXPECT_EQ(d.producer_version, "0.7.1");
}

TEST_F(CheckpointFolder, ChoicesSettleWhatTheFileLeavesOpen) {
  Integers layer = reference::draw(64, 32, 4, 32, false, false, 1);
  layer.zeros.assign(layer.zeros.size(), 3);
  add("a", reference::gptq(layer, ZeroWriter::as_is));
  write(R"({"bits": 4, "group_size": 32, "sym": false, "format": "gptq_v2", "checkpoint_format": "gptq"})");
  test::expect_error<ValueError>([&] { open().decode("a"); }, "a: is labelled gptq and gptq_v2, and its data do not tell");
  EXPECT_EQ(open({.layout = "gptq_v2"}).decode("a").zeros.data<float>()[0], 3);
  EXPECT_EQ(open({.layout = "gptq"}).decode("a").zeros.data<float>()[0], 4);
  EXPECT_EQ(open({.zeros = "z"}).decode("a").zeros.data<float>()[0], 3);
}

TEST_F(CheckpointFolder, ChoicesServeFilesOfMixedWidths) {
  const Integers three = reference::draw(64, 32, 3, 32, false, false, 1), four = reference::draw(64, 32, 4, 32, false, false, 2);
  const auto zeros = [](const Integers& layer) { return std::vector<float>(layer.zeros.begin(), layer.zeros.end()); };
  for (const auto& [writer, chosen, version] :
       {std::tuple(ZeroWriter::scrambled, "z-1 scrambled", "6.0.3"), std::tuple(ZeroWriter::per_field, "", "7.0.0")}) {
    tensors_.clear();
    add("a.three", reference::gptq(three, writer));
    add("a.four", reference::gptq(four, ZeroWriter::per_word));
    write(R"({"bits": 4, "group_size": 32, "sym": false, "format": "gptq", "meta": {"quantizer": ["gptqmodel"]},
             "dynamic": {"+:.*three": {"bits": 3}}})");
    test::expect_error<ValueError>([&] { open().decode("a.three"); },
                                   "set producer_version or zeros (of Choices, or of Description)");
    std::vector<Choices> all{{.producer_version = version}};
    if (*chosen) all.push_back({.zeros = chosen});
    for (const Choices& choices : all) {
      EXPECT_EQ(open(choices).decode("a.three").zeros.to_vector<float>(), zeros(three));
      EXPECT_EQ(open(choices).decode("a.four").zeros.to_vector<float>(), zeros(four));
    }
  }
  test::expect_error<ValueError>([&] { open({.zeros = "scrambled"}); },
                                 "zero points stored 'scrambled'; known are 'z', 'z-1 per field', ");
}

TEST_F(CheckpointFolder, PartsOfMarlinWithoutTheirWeightAreRefused) {
  for (const char* part : {"a.s", "a.workspace"}) {
    tensors_.clear();
    add(part, Tensor::ones({4}));
    write(gptq_config);
    test::expect_error<ValueError>([&] { open(); }, fmt::format("'{}' belongs to no packed weight", part));
    write("");
    EXPECT_NO_THROW(open()) << "a dense model may call its tensors so";
  }
}

// Resident bytes of the mappings of files below a folder.
std::int64_t mapped_bytes(const fs::path& folder) {
  std::ifstream maps("/proc/self/smaps");
  std::int64_t bytes = 0;
  bool ours = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find('-') < line.find(' ')) ours = line.find(folder.string()) != std::string::npos;
    if (ours && line.starts_with("Rss:")) bytes += std::stoll(line.substr(4)) * 1024;
  }
  return bytes;
}

TEST_F(CheckpointFolder, PagesOfWhatWasCopiedOrRepackedAreGivenBack) {
  const Integers integers = reference::draw(1024, 512, 8, 128, true, false, 1);
  const Stored stored = reference::gptq(integers, ZeroWriter::per_word);
  add("a", stored);
  add("embed.weight", Tensor::full({512, 512}, 3));
  write(R"({"bits": 8, "group_size": 128, "sym": true})");
  const Checkpoint checkpoint = open();
  const auto layer = std::dynamic_pointer_cast<QuantLinear>(checkpoint.linear("a", 1024, 512, DType::f32));
  const Tensor embedding = checkpoint.tensor("embed.weight", {512, 512}, DType::f32);
  EXPECT_LT(mapped_bytes(folder_), checkpoint.bytes() / 4);
  EXPECT_FALSE(embedding.storage()->read_only()) << "training and merging write";
  // What is needed again is read again.
  EXPECT_EQ(layer->qweight().to_vector<std::int32_t>(), stored.tensors.at("qweight").to_vector<std::int32_t>());
  EXPECT_GT(mapped_bytes(folder_), checkpoint.bytes() / 4);
  EXPECT_EQ(checkpoint.tensor("embed.weight", {512, 512}, DType::f32).to_vector<float>(), std::vector<float>(512 * 512, 3));
}

TEST_F(CheckpointFolder, RefusesWhatItCannotUnderstand) {
  test::expect_error<FileError>([&] { Checkpoint::open(folder_ / "no"); }, "no: is not a folder");
  test::expect_error<FileError>([&] { open(); }, "config.json: cannot be opened");
  const Stored stored = reference::gptq(reference::draw(64, 32, 4, 32, false, false, 1), ZeroWriter::as_is);
  add("a", stored);
  add("b.weight", Tensor::ones({4, 4}, DType::i8));
  add("c.weight", Tensor::ones({4, 4}));
  add("c.weight_scale_inv", Tensor::ones({4, 4}));
  write("");
  test::expect_error<ValueError>([&] { open().linear("a", 64, 32, DType::f32); },
                                 "has no quantization config that says what they are");
  write(gptq_config);
  test::expect_error<FileError>([&] { open().linear("z", 64, 32, DType::f32); }, "has no tensors of a module 'z'");
  test::expect_error<ValueError>([&] { open().linear("a", 128, 32, DType::f32); },
                                 "a: qweight has shape [8, 32]; 128 in and 32 out features");
  test::expect_error<TypeError>([&] { open().linear("b", 4, 4, DType::f32); },
                                "b: weight holds i8, which without scales is no weight");
  test::expect_error<ValueError>([&] { open().linear("c", 4, 4, DType::f32); },
                                 "c: has a tensor 'weight_scale_inv', which a dense layer does not use");
  test::expect_error<FileError>([&] { open().tensor("z", {1}, DType::f32); }, "has no tensor 'z'");
  test::expect_error<ValueError>([&] { open().tensor("c.weight", {4}, DType::f32); },
                                 "tensor 'c.weight' has shape [4, 4], not [4]");
  test::expect_error<ValueError>([&] { open().decode("c"); }, "c: holds no packed weights");
  add("a.weight", Tensor::ones({32, 64}));
  write(gptq_config);
  test::expect_error<ValueError>([&] { open().linear("a", 64, 32, DType::f32); },
                                 "a: has a tensor 'weight', which gptq in layout gptq_v2");
}

TEST_F(CheckpointFolder, RefusesADenseLayerOfAnotherSize) {
  add("c.weight", Tensor::ones({4, 8}));
  write("");
  test::expect_error<ValueError>([&] { open().linear("c", 4, 8, DType::f32); },
                                 "c: weight has shape [4, 8]; 4 in and 8 out features need [8, 4]");
}

TEST_F(CheckpointFolder, ScalesOfActivationsAreNeverIgnored) {
  add("mlp.act.scales", Tensor::ones({8}));
  write(R"({"quant_method": "awq", "bits": 4, "group_size": 32})");
  test::expect_error<NotImplementedError>([&] { open(); },
                                          "'mlp.act.scales' divides the activations of mlp.act, which is not supported");
  write(gptq_config);
  test::expect_error<ValueError>([&] { open(); }, "'mlp.act.scales' belongs to no packed weight");
}

// ---- EETQ ----

TEST_F(CheckpointFolder, EetqLayoutsAreFoundInTheData) {
  for (const char* layout : {"plain", "sm70", "sm80"}) {
    tensors_.clear();
    const Integers integers = reference::draw_eetq(128, 64, 1);
    add("a", reference::eetq(integers, layout));
    write(eetq_config);
    const auto layer = std::dynamic_pointer_cast<QuantLinear>(open().linear("a", 128, 64, DType::f32));
    EXPECT_EQ(layer->format().layout, layout);
    EXPECT_EQ(layer->dequantize(3, 4).data<float>()[9], integers.weight(9, 3));
  }
}

struct Slice {
  const char* name;
  std::int64_t out;
};
const std::vector<Slice> attention = {{"q_proj", 64}, {"k_proj", 16}, {"v_proj", 16}}, mlp = {{"gate_proj", 48}, {"up_proj", 48}};

TEST_F(CheckpointFolder, EetqSlicesOfOneFusedMatrixAreJoinedAgain) {
  const Integers integers = reference::draw_eetq(128, 96, 1);
  const Stored fused = reference::eetq(integers, "sm80");
  for (const auto& family : {attention, mlp}) {
    tensors_.clear();
    std::vector<std::string> names;
    std::int64_t at = 0;
    for (const auto& [name, out] : family) {
      names.push_back(name);
      add(fmt::format("l.{}.qweight", name), fused.tensors.at("weight").alias({128, out}, {96, 1}, at));
      add(fmt::format("l.{}.weight_scales", name), fused.tensors.at("weight_scales").alias({out}, {1}, at));
      at += out;
    }
    const std::string last = family.back().name;
    add(fmt::format("l.{}.bias", last), Tensor::full({family.back().out}, 2, DType::f16));
    write(R"({"quant_method": "eetq", "zero_point": false, "bits": 8})");
    for (const Choices& choices : {Choices{}, Choices{.layout = "sm80"}}) {
      std::int64_t begin = 0;
      for (const auto& [name, out] : family) {
        const auto layer =
            std::dynamic_pointer_cast<QuantLinear>(open(choices).linear(fmt::format("l.{}", name), 128, out, DType::f32));
        const auto rows = layer->dequantize(0, out).to_vector<float>();
        for (std::int64_t n = 0; n < out; ++n)
          for (std::int64_t k = 0; k < 128; ++k)
            ASSERT_EQ(rows[static_cast<std::size_t>(n * 128 + k)], integers.weight(k, begin + n)) << name;
        EXPECT_EQ(layer->qweight().shape(), (Shape{128, out}));
        EXPECT_NE(layer->format().reading.find(fmt::format("permuted as one matrix of {}", fmt::join(names, ", "))),
                  std::string::npos);
        EXPECT_EQ(layer->bias().defined(), name == last);
        begin += out;
      }
    }
  }
}

TEST_F(CheckpointFolder, AnEetqSliceWithoutItsSiblingsIsRefused) {
  const Stored fused = reference::eetq(reference::draw_eetq(128, 96, 1), "sm80");
  for (const auto& family : {attention, mlp})
    for (std::size_t missing = 0; missing < family.size(); ++missing) {
      tensors_.clear();
      std::int64_t at = 0;
      for (std::size_t i = 0; i < family.size(); ++i) {
        const auto& [name, out] = family[i];
        if (i != missing) {
          add(fmt::format("l.{}.qweight", name), fused.tensors.at("weight").alias({128, out}, {96, 1}, at));
          add(fmt::format("l.{}.weight_scales", name), fused.tensors.at("weight_scales").alias({out}, {1}, at));
        }
        at += out;
      }
      write(R"({"quant_method": "eetq", "zero_point": false, "bits": 8})");
      for (std::size_t i = 0; i < family.size(); ++i)
        if (i != missing)
          test::expect_error<ValueError>(
              [&] { open().decode(fmt::format("l.{}", family[i].name)); },
              fmt::format(
                  "l.{}: its bytes make sense in none of the layouts plain, sm70 and sm80, alone or joined with its siblings",
                  family[i].name));
    }
}

TEST_F(CheckpointFolder, EetqBytesThatMakeNoSenseAreRefusedUnlessTheLayoutIsChosen) {
  Integers integers = reference::draw_eetq(128, 64, 1);
  for (auto& code : integers.codes) code = static_cast<std::uint8_t>(std::clamp<int>(code, 28, 228));
  add("a", reference::eetq(integers, "sm80"));
  write(eetq_config);
  test::expect_error<ValueError>([&] { open().decode("a"); },
                                 "a: its bytes make sense in none of the layouts plain, sm70 and sm80");
  EXPECT_EQ(open({.layout = "sm80"}).decode("a").description.layout, "sm80");
}

TEST_F(CheckpointFolder, EetqBytesThatMakeSenseTwiceAreRefusedUnlessTheLayoutIsChosen) {
  Integers integers = reference::draw_eetq(64, 4, 1);
  for (std::size_t i = 0; i < integers.codes.size(); ++i) integers.codes[i] = i * i % 5 == 1 ? 255 : 128;  // extremes everywhere
  add("a", reference::eetq(integers, "sm80"));
  write(eetq_config);
  test::expect_error<ValueError>([&] { open().decode("a"); },
                                 "a: its bytes make sense in the layouts sm70 and sm80; set Choices::layout to the right one");
  EXPECT_EQ(open({.layout = "sm70"}).decode("a").description.layout, "sm70");
}

// ---- inspection ----

TEST_F(CheckpointFolder, InspectionTellsWhatWasUnderstoodAndWhatNot) {
  add("a.q", reference::gptq(reference::draw(64, 32, 4, 32, true, true, 1), ZeroWriter::as_is));
  Stored broken = reference::gptq(reference::draw(64, 32, 4, 32, false, false, 1), ZeroWriter::as_is);
  broken.tensors["scales"] = Tensor::ones({5, 32}, DType::f16);
  add("b", broken);
  add("norm.weight", Tensor::ones({8}));
  write(gptq_config);
  const Report report = inspect(folder_);
  EXPECT_EQ(report.method, "gptq");
  EXPECT_EQ(report.tensors, 9);
  EXPECT_EQ(report.bytes, open().bytes());
  EXPECT_EQ(report.others, std::vector<std::string>{"norm.weight"});
  ASSERT_EQ(report.modules.size(), 2u);
  EXPECT_EQ(report.modules[0].in, 64);
  EXPECT_EQ(report.modules[0].out, 32);
  EXPECT_FALSE(report.modules[0].groups_in_order);
  EXPECT_NEAR(report.modules[0].mean_distance, -0.5, 0.3);
  EXPECT_EQ(report.modules[1].error,
            "b: scales has shape [5, 32]; 64 in and 32 out features, 4 bits and groups of 32 need [2, 32]");
  const std::string text = to_string(report);
  EXPECT_NE(text.find("a.q: gptq gptq_v2, 64 -> 32, 4 bits, groups of 32, act-order; zero points are stored 'z'"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("b: refused: b: scales has shape"), std::string::npos) << text;
}

TEST_F(CheckpointFolder, InspectionPointsOutWhatIsDoubtful) {
  Integers layer = reference::draw(96, 32, 4, 32, false, false, 1);
  layer.zeros.assign(layer.zeros.size(), 8);
  for (std::size_t i = 0; i < layer.codes.size(); ++i) layer.codes[i] = static_cast<std::uint8_t>(7 + i % 3);
  Stored stored = reference::gptq(layer, ZeroWriter::as_is);
  add("a", stored);
  stored.tensors.erase("g_idx");
  add("b", stored);
  write(gptq_config);
  const Report right = inspect(folder_);
  EXPECT_FALSE(right.modules[0].in_guessed);
  EXPECT_TRUE(right.modules[1].in_guessed);
  const std::string guess = "; 96 inputs are a guess, as many as the words hold: there is no g_idx\n",
                    doubt = "may be misread by one";
  EXPECT_EQ(to_string(right).find(doubt), std::string::npos);
  EXPECT_TRUE(to_string(right).ends_with(guess)) << to_string(right);
  const std::string wrong = to_string(inspect(folder_, {.zeros = "z-1 per field"}));
  EXPECT_NE(wrong.find("mean of code - zero -1.000: zero points may be misread by one, see --zeros (Choices::zeros)\nb: "),
            std::string::npos)
      << wrong;
}

TEST(Inspect, TheModelsOfTheOriginals) {
  const fs::path models = fs::path(GRAFT_SOURCE_DIR) / "tests" / "golden" / "models";
  int seen = 0;
  for (const auto& folder : fs::directory_iterator(models)) {
    if (!folder.is_directory()) continue;
    const Report report = inspect(folder.path());
    for (const ModuleReport& module : report.modules) {
      EXPECT_EQ(module.error, "");
      EXPECT_LT(std::abs(module.mean_distance), 0.5) << module.name << ": " << module.description.reading;
      ++seen;
    }
  }
  EXPECT_GT(seen, 0);
}

}  // namespace
}  // namespace graft::quant
