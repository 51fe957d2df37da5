#include "graft/adapters/peft_io.h"

#include <gtest/gtest.h>

#include <fstream>

#include "graft/adapters/model.h"
#include "graft/autograd/ops.h"
#include "graft/core/safetensors.h"

#include "../support/errors.h"
#include "layers.h"

namespace graft::adapters::peft_io_test {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

using Tensors = std::vector<NamedTensor>;

const Tensor x = test::random({3, 64}, 5);
const LoraConfig with_bias_and_norm{
    .r = 4, .target_modules = {"q_proj"}, .bias = "lora_only", .init_lora_weights = false, .modules_to_save = {"norm"}};
constexpr const char* first_A = "base_model.model.model.layers.0.q_proj.lora_A.weight";

/// A saved adapter with biases and a norm of its own, and a way to write variations of it.
struct Folder {
  test::TemporaryFolder temporary;
  fs::path path = temporary.path();
  Tensors tensors;
  std::map<std::string, std::string> metadata;
  std::vector<float> y;

  Folder() {
    test::Model model("gptq", true);
    inject(model, with_bias_and_norm);
    for (const auto& [name, tensor] : trainable(model))
      tensor.copy_(tensor.detach() + test::random(tensor.shape(), 8, tensor.dtype(), 0.1));
    y = model.forward(x).to_vector<float>();
    save_pretrained(model, path);
    const auto file = safetensors::File::open(path / "adapter_model.safetensors");
    for (const auto& [name, entry] : file.entries()) tensors.push_back({name, file.tensor(name).clone()});
    metadata = file.metadata();
  }
  Tensor& at(const std::string& name) {
    for (auto& named : tensors)
      if (named.name == name) return named.tensor;
    fail("no tensor {}", name);
  }
  void write() const { safetensors::save(path / "adapter_model.safetensors", tensors, metadata); }
  void write_config(const std::string& text) const { std::ofstream(path / "adapter_config.json") << text; }
};

/// Everything that can be seen of a model: structure, parameters to the bit, and what is trainable.
std::string picture(Module& model) {
  std::string text = print(model);
  for (const auto& [name, tensor] : named_parameters(model))
    text += fmt::format("\n{} {} {}", name, tensor.requires_grad(), fmt::join(tensor.to_vector<float>(), " "));
  return text;
}

template <class E>
void refused(const Folder& folder, const std::string& words, const LoadOptions& options = {},
             const std::string& format = "gptq") {
  SCOPED_TRACE(words);
  test::Model model(format, true);
  const std::string before = picture(model);
  expect_error<E>([&] { load_pretrained(model, folder.path, options); }, words);
  EXPECT_TRUE(picture(model) == before) << "the model has changed";
}

TEST(PeftIo, WhatWasSavedComesBack) {
  const Folder folder;
  std::vector<std::string> names;
  for (const auto& [name, tensor] : folder.tensors) names.push_back(name);
  EXPECT_EQ(names,
            (std::vector<std::string>{
                "base_model.model.model.layers.0.q_proj.base_layer.bias", first_A,
                "base_model.model.model.layers.0.q_proj.lora_B.weight", "base_model.model.model.layers.1.q_proj.base_layer.bias",
                "base_model.model.model.layers.1.q_proj.lora_A.weight", "base_model.model.model.layers.1.q_proj.lora_B.weight",
                "base_model.model.model.norm.weight"}));
  for (const bool is_trainable : {false, true}) {
    test::Model model("gptq", true);
    const auto report = load_pretrained(model, folder.path, {.is_trainable = is_trainable});
    EXPECT_TRUE(report.unused.empty() && report.unfilled.empty() && report.warnings.empty());
    EXPECT_EQ(model.forward(x).to_vector<float>(), folder.y);
    EXPECT_EQ(trainable(model).size(), is_trainable ? 7u : 0u);
  }
}

TEST(PeftIo, TensorsInHalfPrecisionAreConverted) {
  Folder folder;
  for (auto& named : folder.tensors) named.tensor = to(named.tensor, DType::bf16);
  folder.write();
  test::Model model("gptq", true);
  load_pretrained(model, folder.path);
  for_each_layer(model, [&](const std::string& path, AdapterLayer& layer) {
    for (const auto& [name, tensor] : layer.adapter("default")->state("default")) {
      EXPECT_EQ(tensor.dtype(), DType::f32);
      EXPECT_EQ(test::distance(tensor, to(folder.at(saved_name(path, name, "default")), DType::f32)), 0);
    }
  });
}

TEST(PeftIo, RefusesTensorsThatBelongNowhere) {
  Folder folder;
  folder.tensors.push_back({"base_model.model.model.layers.7.q_proj.lora_A.weight", Tensor::zeros({4, 64})});
  folder.write();
  refused<ValueError>(folder,
                      "these tensors belong to nothing that the configuration and the model have: "
                      "base_model.model.model.layers.7.q_proj.lora_A.weight");
  test::Model model("gptq", true);
  const auto report = load_pretrained(model, folder.path, {.strict = false});
  EXPECT_EQ(report.unused, std::vector<std::string>{"base_model.model.model.layers.7.q_proj.lora_A.weight"});
  EXPECT_EQ(model.forward(x).to_vector<float>(), folder.y);
}

TEST(PeftIo, RefusesTargetsThatNothingFills) {
  Folder folder;
  std::erase_if(folder.tensors,
                [](const NamedTensor& named) { return named.name == first_A || named.name.ends_with("norm.weight"); });
  folder.write();
  refused<ValueError>(
      folder,
      fmt::format("the adapter's tensors are incomplete, these are missing: {}, base_model.model.model.norm.weight", first_A));
  test::Model model("gptq", true);
  EXPECT_EQ(load_pretrained(model, folder.path, {.strict = false}).unfilled,
            (std::vector<std::string>{first_A, "base_model.model.model.norm.weight"}));
}

TEST(PeftIo, RefusesShapesAndTypesThatDoNotFit) {
  for (const char* name :
       {first_A, "base_model.model.model.norm.weight", "base_model.model.model.layers.1.q_proj.base_layer.bias"}) {
    Folder folder;
    Tensor& tensor = folder.at(name);
    const Shape right = tensor.shape();
    tensor = Tensor::zeros({3, 5});
    folder.write();
    refused<ValueError>(folder, fmt::format("{}: has the shape [3, 5], and ", name));
    tensor = Tensor::zeros(right, DType::i32);
    folder.write();
    refused<TypeError>(folder, fmt::format("{}: has elements of type i32, not floating ones", name));
  }
}

TEST(PeftIo, RefusesAnotherBaseUnlessToldOtherwise) {
  Folder folder;
  refused<ValueError>(folder, "the adapter was saved over another base (fingerprint", {}, "awq");
  test::Model other("awq", true);
  const auto report = load_pretrained(other, folder.path, {.same_base = false});
  ASSERT_EQ(report.warnings.size(), 1u);
  EXPECT_NE(report.warnings[0].find("the adapter was saved over another base"), std::string::npos);

  // PEFT's own files do not say.
  folder.metadata = {{"format", "pt"}};
  folder.write();
  test::Model another("awq", true);
  EXPECT_TRUE(load_pretrained(another, folder.path).warnings.empty());
}

TEST(PeftIo, AModuleThatIsSavedWholeMayHaveOneOfAllTrainedBiases) {
  const test::TemporaryFolder folder;
  test::Model model("dense", true);
  inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}, .bias = "all", .modules_to_save = {"lm_head"}});
  for (const auto& [name, tensor] : trainable(model)) tensor.copy_(tensor.detach() + 0.25);
  save_pretrained(model, folder.path());
  test::Model other("dense", true);
  const auto report = load_pretrained(other, folder.path());
  EXPECT_TRUE(report.unused.empty() && report.unfilled.empty());
  EXPECT_EQ(other.forward(x).to_vector<float>(), model.forward(x).to_vector<float>());
}

TEST(PeftIo, ATrainedEvaAdapterIsFilledLikeAnyOther) {
  Folder folder;
  LoraConfig config = std::get<LoraConfig>(read_config(folder.path));
  config.init_lora_weights = "EVA";
  folder.write_config(to_json(config));
  test::Model model("gptq", true);
  load_pretrained(model, folder.path);
  EXPECT_EQ(model.forward(x).to_vector<float>(), folder.y);
  const test::TemporaryFolder again;
  save_pretrained(model, again.path());
  EXPECT_EQ(std::get<LoraConfig>(read_config(again.path())).init_lora_weights, InitWeights("EVA"));
  test::Model fresh("gptq", true);
  expect_error<NotImplementedError>([&] { inject(fresh, config); }, "init_lora_weights 'eva' is made by a separate pass");
}

TEST(PeftIo, RefusesFilesThatLackTrainedBiases) {
  for (const char* bias : {"lora_only", "all"}) {
    SCOPED_TRACE(bias);
    const test::TemporaryFolder temporary;
    test::Model model("gptq", true);
    inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}, .bias = bias});
    save_pretrained(model, temporary.path());
    const fs::path path = fs::path(temporary.path()) / "adapter_model.safetensors";
    Tensors tensors;
    {
      const auto file = safetensors::File::open(path);
      for (const auto& [name, entry] : file.entries())
        if (name != "base_model.model.model.layers.1.q_proj.base_layer.bias")
          tensors.push_back({name, file.tensor(name).clone()});
      EXPECT_EQ(tensors.size() + 1, file.entries().size());
    }
    safetensors::save(path, tensors, {});
    test::Model other("gptq", true);
    expect_error<ValueError>([&] { load_pretrained(other, temporary.path()); },
                             "these are missing: base_model.model.model.layers.1.q_proj.bias");
  }
}

TEST(PeftIo, WeightsOfTheBaseThatAFileCarriesAreThoseOfTheModel) {
  for (const char* wrapper : {"", "base_layer."}) {
    const std::string name = fmt::format("base_model.model.lm_head.{}weight", wrapper);
    const test::TemporaryFolder temporary;
    const fs::path path = fs::path(temporary.path()) / "adapter_model.safetensors";
    test::Model model;
    inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj", "lm_head"}, .init_lora_weights = false});
    save_pretrained(model, temporary.path());
    Tensors tensors;
    {
      const auto file = safetensors::File::open(path);
      for (const auto& [key, entry] : file.entries()) tensors.push_back({key, file.tensor(key).clone()});
    }
    const Tensor weight = model.lm_head->weight();
    for (const Tensor& same : {weight.clone(), to(weight, DType::bf16)}) {
      tensors.push_back({name, same});
      safetensors::save(path, tensors, {});
      tensors.pop_back();
      test::Model other;
      EXPECT_TRUE(load_pretrained(other, temporary.path()).unused.empty());
      EXPECT_EQ(other.forward(x).to_vector<float>(), model.forward(x).to_vector<float>());
    }
    for (const Tensor& another : {weight + 1e-3, Tensor::zeros({33, 64})}) {
      tensors.push_back({name, another});
      safetensors::save(path, tensors, {});
      tensors.pop_back();
      const std::string words =
          fmt::format("{}: the file carries weights of its base, and those of the model are others: {}", path.string(), name);
      test::Model other;
      expect_error<ValueError>([&] { load_pretrained(other, temporary.path()); }, words);
      const auto report = load_pretrained(other, temporary.path(), {.strict = false});
      EXPECT_EQ(report.unused, std::vector<std::string>{name});
      EXPECT_EQ(report.warnings, std::vector<std::string>{words});
    }
  }
}

TEST(PeftIo, RefusesFoldersThatAreNotWhole) {
  Folder folder;
  folder.write_config("{\"peft_type\": \"LORA\", \"r\": ");
  refused<ValueError>(folder, "adapter_config.json");
  folder.write_config("{\"peft_type\": \"LORA\", \"r\": \"four\", \"target_modules\": [\"q_proj\"]}");
  refused<ValueError>(folder, "r");
  folder.write_config("{\"peft_type\": \"LORA\", \"r\": 8, \"target_modules\": [\"q_proj\"]}");
  refused<ValueError>(folder, fmt::format("{}: has the shape [4, 64], and the configuration says [8, 64]", first_A));
  fs::remove(folder.path / "adapter_config.json");
  refused<FileError>(folder, "adapter_config.json: cannot be opened; an adapter folder needs one");

  Folder other;
  std::ofstream(other.path / "adapter_model.safetensors") << "not a header";
  refused<FileError>(other, "adapter_model.safetensors");
  fs::remove(other.path / "adapter_model.safetensors");
  refused<FileError>(other, "adapter_model.safetensors: there is no such file");
  std::ofstream(other.path / "adapter_model.bin") << "pickle";
  refused<FileError>(other, "adapter_model.bin is a pickle, which is not read: save it as safetensors");
}

TEST(PeftIo, ASecondAdapterThatIsRefusedLeavesTheFirst) {
  Folder folder;
  folder.at(first_A) = Tensor::zeros({2, 2});
  folder.write();
  test::Model model("gptq", true);
  inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj", "v_proj"}});
  const std::string before = picture(model);
  expect_error<ValueError>([&] { load_pretrained(model, folder.path, {.adapter_name = "second"}); }, "has the shape [2, 2]");
  expect_error<ValueError>([&] { load_pretrained(model, folder.path); }, "there is an adapter 'default' already");
  EXPECT_TRUE(picture(model) == before) << "the model has changed";
}

TEST(PeftIo, EveryAdapterHasAFolder) {
  test::Model model("gptq");
  inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}});
  inject(model, LoraConfig{.r = 4, .target_modules = {"v_proj"}, .init_lora_weights = false}, {.adapter_name = "second"});
  const test::TemporaryFolder folder;
  save_pretrained(model, folder.path(), {.base_model_name_or_path = "models/tiny"});
  EXPECT_EQ(std::get<LoraConfig>(read_config(folder.path())).r, 2);
  const auto second = std::get<LoraConfig>(read_config(fs::path(folder.path()) / "second"));
  EXPECT_EQ(second.r, 4);
  EXPECT_EQ(second.base_model_name_or_path, "models/tiny");
  set_adapter(model, {"second"});
  test::Model other("gptq");
  load_pretrained(other, fs::path(folder.path()) / "second", {.adapter_name = "anything"});
  EXPECT_EQ(other.forward(x).to_vector<float>(), model.forward(x).to_vector<float>());
}

TEST(PeftIo, RefusesToSaveWhatIsNotThere) {
  test::Model model;
  const test::TemporaryFolder folder;
  expect_error<ValueError>([&] { save_pretrained(model, folder.path()); }, "the model has no adapter to save");
  inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}});
  expect_error<ValueError>([&] { save_pretrained(model, folder.path(), {.adapter_names = {"other"}}); },
                           "there is no adapter 'other' to save, only default");
  EXPECT_TRUE(fs::is_empty(folder.path()));
  std::ofstream(folder.path() + "/file") << "in the way";
  expect_error<FileError>([&] { save_pretrained(model, folder.path() + "/file"); }, "/file: cannot be made");

  for_each_layer(model, [](const std::string&, AdapterLayer& layer) { layer.add_adapter("by hand", layer.adapter("default")); });
  expect_error<ValueError>([&] { save_pretrained(model, folder.path(), {.adapter_names = {"by hand"}}); },
                           "adapter 'by hand' was added by hand and has no configuration");
}

TEST(PeftIo, NamesInFilesAreWithoutTheAdapters) {
  EXPECT_EQ(saved_name("model.q", "lora_A.default.weight", "default"), "base_model.model.model.q.lora_A.weight");
  EXPECT_EQ(saved_name("model.q", "lora_E.mine", "mine"), "base_model.model.model.q.lora_E");
  EXPECT_EQ(saved_name("model.q", "lora_B.x.bias", "x"), "base_model.model.model.q.lora_B.bias");
  EXPECT_EQ(saved_name("model.q", "lora_magnitude_vector.x.weight", "x"), "base_model.model.model.q.lora_magnitude_vector");
}

}  // namespace
}  // namespace graft::adapters::peft_io_test
