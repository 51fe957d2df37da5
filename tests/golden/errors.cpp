// What PEFT refuses, and what this library makes of it. docs/errors.md has a line for every row of errors.json and says what must
// happen; here is how each is provoked.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cctype>
#include <fstream>
#include <functional>
#include <map>

#include "graft/adapters/combine.h"
#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/peft_io.h"
#include "graft/adapters/rank_allocator.h"
#include "graft/adapters/routing.h"
#include "graft/adapters/warning.h"
#include "graft/adapters/wrappers.h"
#include "graft/autograd/ops.h"
#include "graft/quant/format.h"

#include "layer_case.h"

namespace golden {
// One line for each thing that is asked for.
// clang-format off
namespace {

using namespace graft;

// ---- what the rows speak of: a layer of each kind, and a model of one layer ----

std::shared_ptr<LinearBase> packed(const std::string& format) { return base_layer(Tensors(root() / "layers" / (format + "_lora_f32.safetensors"))); }

std::shared_ptr<LinearBase> dense(bool bias = false, std::int64_t in = 64, DType dtype = DType::f32) {
  Generator generator{1, 0};
  return std::make_shared<graft::Linear>(normal({32, in}, 0, 0.1, generator, dtype), bias ? Tensor::zeros({32}, dtype) : Tensor());
}

std::shared_ptr<LinearBase> base(const std::string& format) { return format == "dense" ? dense() : packed(format); }

/// The layer under other words about who packed it.
std::shared_ptr<LinearBase> packed_by(const std::string& format, const std::string& producer, const std::string& version) {
  const auto layer = std::dynamic_pointer_cast<quant::QuantLinear>(packed(format));
  quant::Stored stored{.module = format, .description = layer->format(), .in = layer->in_features(), .out = layer->out_features(), .tensors = {}};
  stored.description.producer = producer;
  stored.description.producer_version = version;
  for (const auto& [name, tensor] : layer->original()) stored.tensors[name] = tensor;
  return quant::make_layer(stored);
}

struct Norm final : Module {
  std::string type_name() const override { return "LayerNorm"; }
  void visit(Visitor&) override {}
};

struct Box final : Module {
  Slot<LinearBase> lin;
  Slot<Norm> norm{std::make_shared<Norm>()};
  explicit Box(std::shared_ptr<LinearBase> layer = dense()) : lin(std::move(layer)) {}
  std::string type_name() const override { return "Box"; }
  void visit(Visitor& visitor) override {
    visitor.child("lin", lin);
    visitor.child("norm", norm);
  }
  AdapterLayer& layer() { return dynamic_cast<AdapterLayer&>(*lin); }
};

LoraConfig lora_config() { return {.target_modules = {"lin"}}; }
AdaLoraConfig adalora_config() { return {.total_step = 10, .target_modules = {"lin"}}; }
OFTConfig oft_config() { return {.oft_block_size = 16, .target_modules = {"lin"}}; }

std::unique_ptr<Box> boxed(const AdapterConfig& config, std::shared_ptr<LinearBase> layer = dense()) {
  auto box = std::make_unique<Box>(std::move(layer));
  adapters::inject(*box, config);
  return box;
}

void add(Box& box, const AdapterConfig& config, const std::string& name = "second") { adapters::inject(box, config, {.adapter_name = name}); }

Tensor some_input(const LinearBase& layer, std::int64_t rows = 2) {
  Generator generator{2, 0};
  return normal({rows, layer.in_features()}, 0, 1, generator);
}

void forward(Box& box) { box.lin->forward(some_input(*box.lin)); }

void forward_mixed(Box& box, std::vector<std::string> names) {
  const adapters::MixedBatch batch(box, std::move(names));
  forward(box);
}

std::shared_ptr<AdapterLayer> lora_layer(const std::string& format, const lora::Options& options, std::shared_ptr<LinearBase> layer = nullptr) {
  if (!layer) layer = base(format);
  if (format == "gptq") return std::make_shared<lora::GPTQLoraLinear>(layer, "default", options);
  if (format == "awq") return std::make_shared<lora::AwqLoraLinear>(layer, "default", options);
  if (format == "eetq") return std::make_shared<lora::EetqLoraLinear>(layer, "default", options);
  return std::make_shared<lora::Linear>(layer, "default", options);
}

/// With the constructor's own defaults where no options are given.
std::shared_ptr<AdapterLayer> oft_layer(const std::string& format, std::optional<oft::Options> o = {}) {
  const auto layer = base(format);
  const std::string name = "default";
  if (format == "gptq") return o ? std::make_shared<oft::GPTQOFTLinear>(layer, name, *o) : std::make_shared<oft::GPTQOFTLinear>(layer, name);
  if (format == "awq") return o ? std::make_shared<oft::AwqOFTLinear>(layer, name, *o) : std::make_shared<oft::AwqOFTLinear>(layer, name);
  if (format == "eetq") return o ? std::make_shared<oft::EetqOFTLinear>(layer, name, *o) : std::make_shared<oft::EetqOFTLinear>(layer, name);
  return o ? std::make_shared<oft::Linear>(layer, name, *o) : std::make_shared<oft::Linear>(layer, name);
}

/// Two plain adapters, "default" and "second", of these ranks.
std::unique_ptr<Box> two_adapters(std::int64_t r = 8) {
  auto box = boxed(lora_config());
  LoraConfig second = lora_config();
  second.r = r;
  add(*box, second);
  return box;
}

void combine(std::vector<std::string> names, std::vector<double> weights, const std::string& type, std::int64_t r = 8) {
  const auto box = two_adapters(r);
  adapters::add_weighted_adapter(*box, names, weights, "mixed", {.combination_type = type});
}

/// An AdaLoRA model after one backward pass.
std::unique_ptr<Box> differentiated(const AdaLoraConfig& config) {
  auto box = boxed(config);
  sum(box->lin->forward(some_input(*box->lin))).backward();
  return box;
}

template <class Layer>
void merge_broken(Layer layer) {
  struct Breaker final : Visitor {
    void parameter(std::string_view, Tensor& tensor) override { tensor.fill_(std::nan("")); }
  } breaker;
  layer->adapter("default")->visit(breaker, "default");
  layer->merge(true);
}

void read(const char* json) { config_from_json(json); }

// ---- how each row is provoked ----

struct Line {
  std::string what;
  std::function<void()> provoke;
  const char* how = "";  // a part of the row's "how", where several rows have one "what"
};

/// What holds for the LoRA wrapper of every format.
void add_lora_wrapper(std::vector<Line>& lines, const std::string& type, const std::string& format) {
  const auto make = [=](const lora::Options& o) { return [=] { lora_layer(format, o); }; };
  const auto init = [=](const char* scheme) { return make({.r = 8, .init_lora_weights = scheme}); };
  const auto merge = [=](bool safe) { return [=] { lora_layer(format, {.r = 8})->merge(safe); }; };
  const auto in_model = [=](auto f) { return [=] { f(*boxed(lora_config(), packed(format))); }; };
  const auto add_dora = [](Box& box) { LoraConfig c = lora_config(); c.use_dora = true; add(box, c); };
  const auto unload = [](Box& box) { adapters::merge_and_unload(box); };
  const std::string on = type + ": ", quantized = "' on a quantized base";
  lines.insert(lines.end(), {
      {on + "DoRA", make({.r = 8, .use_dora = true})},
      {on + "r = 0", make({.r = 0})},
      {on + "r < 0", make({.r = -3})},
      {on + "unknown string for init_lora_weights", init("nonsense")},
      {on + "initialisation 'olora" + quantized, init("olora")},
      {on + "initialisation 'pissa" + quantized, init("pissa")},
      {on + "initialisation 'orthogonal" + quantized, init("orthogonal")},
      {on + "initialisation 'loftq" + quantized, init("loftq")},
      {on + "initialisation 'corda" + quantized, init("corda")},
      {type + ".merge", merge(false)},
      {type + ".merge, safe", merge(true)},
      {type + ".unmerge", [=] { lora_layer(format, {.r = 8})->unmerge(); }},
      {on + "mixed batch", in_model([](Box& box) { forward_mixed(box, {"default", "default"}); })},
      {on + "lora_bias and a base without bias", make({.r = 8, .lora_bias = true})},
      {on + "second adapter with DoRA, through the model", in_model(add_dora)},
      {on + (format == "gptq" ? "use_qalora: supported" : "use_qalora: silently ignored"),
       make({.r = 8, .use_qalora = true, .qalora_group_size = 16})},
      {"merge_and_unload of a model that holds " + type, in_model(unload)},
      {"merge_and_unload of a model that holds " + type + " and names its quantization method", in_model(unload)},
      {"merge_adapter of a model that holds " + type, in_model([](Box& box) { adapters::merge_adapter(box); })},
  });
}

void add_oft_wrapper(std::vector<Line>& lines, const std::string& type, const std::string& format) {
  const auto make = [=](const oft::Options& o) { return [=] { oft_layer(format, o); }; };
  const auto on_layer = [=](auto f) { return [=] { f(*oft_layer(format, oft::Options{.r = 4})); }; };
  const std::string on = "OFT " + type + ": ";
  lines.insert(lines.end(), {
      {on + "r and block size", make({.r = 8, .oft_block_size = 16})},
      {on + "neither", make({.r = 0, .oft_block_size = 0})},
      {on + "defaults of the constructor", [=] { oft_layer(format); }},
      {on + "init_weights is no boolean", make({.r = 4, .init_weights = "nonsense"})},
      {on + "block size does not divide", make({.r = 0, .oft_block_size = 49})},
      {on + "r does not divide", make({.r = 7})},
      {on + "set_scale", on_layer([](AdapterLayer& layer) { layer.set_scale("default", 2); })},
      {on + "scale_layer", on_layer([](AdapterLayer& layer) { layer.scale_layer(2); })},
      {on + "unscale_layer", on_layer([](AdapterLayer& layer) { layer.unscale_layer(); })},
      {on + "no active adapter is known to the layer",
       on_layer([](AdapterLayer& layer) { layer.set_adapter({"another"}), layer.forward(some_input(layer)); })},
  });
  if (format == "dense") return;
  lines.insert(lines.end(), {
      {"OFT " + type + ".merge", on_layer([](AdapterLayer& layer) { layer.merge(); })},
      {"OFT " + type + ".unmerge", on_layer([](AdapterLayer& layer) { layer.unmerge(); })},
  });
}

void add_layers(std::vector<Line>& lines) {
  using lora::Options;
  const auto gptq_layer = [] { return std::dynamic_pointer_cast<lora::GPTQLoraLinear>(lora_layer("gptq", {.r = 8})); };
  const auto qalora = [] {
    return std::dynamic_pointer_cast<lora::QALoraLinearVariant>(lora_layer("gptq", {.r = 8, .use_qalora = true})->adapter("default"));
  };
  const auto with = [](auto member, auto value) { LoraConfig c = lora_config(); c.*member = value; return c; };
  const auto dense_init = [](const char* scheme, DType dtype = DType::f32, std::int64_t r = 8) {
    return [=] { lora_layer("dense", {.r = r, .init_lora_weights = scheme}, dense(false, 64, dtype)); };
  };
  lines.insert(lines.end(), {
      {"GPTQLoraLinear: DoRA together with QA-LoRA", [] { lora_layer("gptq", {.r = 8, .use_dora = true, .use_qalora = true}); }},
      {"GPTQLoraLinear: second adapter with DoRA and QA-LoRA, at the layer",
       [=] { gptq_layer()->update_layer("second", {.r = 8, .use_dora = true, .use_qalora = true}); }},
      {"GPTQLoraLinear.resolve_lora_variant: both flags", [] { lora::GPTQLoraLinear::resolve_lora_variant(true, true); }},
      {"GPTQLoraLinear: second adapter with DoRA and QA-LoRA, through the model",
       [=] { LoraConfig c = with(&LoraConfig::use_dora, true); c.use_qalora = true; add(*boxed(lora_config(), packed("gptq")), c); }},
      {"GPTQLoraLinear: second adapter with QA-LoRA, through the model: silently plain LoRA",
       [=] {
         const auto box = boxed(lora_config(), packed("gptq"));
         add(*box, with(&LoraConfig::use_qalora, true));
         EXPECT_EQ(box->layer().adapter("second")->method(), "qalora");
       }},
      {"GPTQLoraLinear: QA-LoRA group does not divide in_features",
       [] { lora_layer("gptq", {.r = 8, .use_qalora = true, .qalora_group_size = 25}); }},
      {"QALoraLinearVariant.merge_safe", [=] { qalora()->merged(Tensor::zeros({64, 192}), true); }},
      {"QALoraLinearVariant.merge_unsafe", [=] { qalora()->merged(Tensor::zeros({64, 192}), false); }},
      {"QALoraLinearVariant.unmerge", [=] { qalora()->unmerged(Tensor::zeros({64, 192})); }},
      {"QALoraLinearVariant.get_delta_weight", [=] { qalora()->delta_weight(); }},
      {"LoRA dispatch_awq: packer too old", [] { lora::dispatch_awq(packed("awq"), "default", {.r = 8}, {.auto_awq_version = "0.1.8"}); }},
      {"LoRA dispatch_awq: packer too old, but the target is no AWQ layer",
       [] { EXPECT_EQ(lora::dispatch_awq(dense(), "default", {.r = 8}, {.auto_awq_version = "0.1.8"}), nullptr); }},
      {"AwqLoraLinear itself does not look at the version", [] { lora_layer("awq", {.r = 8}, packed_by("awq", "autoawq", "0.1.8")); }},
      {"OFT dispatch_awq: packer too old", [] { oft::dispatch_awq(packed_by("awq", "autoawq", "0.1.8"), "default", {.r = 4}); }},
      {"LoRA dispatch_eetq: the target is no EETQ layer", [] { EXPECT_EQ(lora::dispatch_eetq(dense(), "default", {.r = 8}), nullptr); }},
      {"dense LoRA: r = 0", [] { lora_layer("dense", {.r = 0}); }},
      {"dense LoRA: unknown init", dense_init("nonsense")},
      {"dense LoRA: unknown pissa form", dense_init("pissa_fast")},
      {"dense LoRA: orthogonal init with odd rank", dense_init("orthogonal", DType::f32, 7)},
      {"dense LoRA: olora init on a float64 base", dense_init("olora", DType::f64)},
      {"dense LoRA: pissa init on a float64 base", dense_init("pissa", DType::f64)},
      {"dense LoRA: corda init on a float64 base", dense_init("corda", DType::f64)},
      {"dense LoRA: merge of lora_bias without base bias", [] { lora_layer("dense", {.r = 8, .lora_bias = true})->merge(false); }, "safe_merge=False"},
      {"dense LoRA: merge of lora_bias without base bias", [] { lora_layer("dense", {.r = 8, .lora_bias = true})->merge(true); }, "safe_merge=True"},
      {"dense LoRA: safe merge of NaN", [] { merge_broken(lora_layer("dense", {.r = 8})); }},
      {"dense AdaLoRA: safe merge of NaN", [] { merge_broken(std::make_shared<adalora::SVDLinear>(dense(), "default", adalora::Options{.r = 4})); }},
      {"dense OFT: safe merge of NaN", [] { merge_broken(oft_layer("dense")); }},
      {"merge: unknown name is skipped", [] { lora_layer("dense", {.r = 8})->merge(false, std::vector<std::string>{"nobody"}); }},
      {"merge: already merged", [] { const auto layer = lora_layer("dense", {.r = 8}); layer->merge(), layer->merge(); }},
      {"unmerge: not merged", [] { lora_layer("dense", {.r = 8})->unmerge(); }},
  });
}

void add_models(std::vector<Line>& lines) {
  const auto with = [](auto member, auto value) { LoraConfig c = lora_config(); c.*member = value; return c; };
  const auto inject = [](const AdapterConfig& config) { return [=] { boxed(config); }; };
  const auto targets = [=](Targets t) { return with(&LoraConfig::target_modules, t); };
  const auto mixed = [](auto prepare, std::vector<std::string> names) {
    return [=] { const auto box = boxed(lora_config()); prepare(*box); forward_mixed(*box, names); };
  };
  const auto nothing = [](Box&) {};
  lines.insert(lines.end(), {
      {"mixed batch: wrong number of names", mixed(nothing, {"default"})},
      {"mixed batch: merged adapter", mixed([](Box& box) { adapters::merge_adapter(box); }, {"default", "default"})},
      {"mixed batch: DoRA", [=] { forward_mixed(*boxed(with(&LoraConfig::use_dora, true)), {"default", "__base__"}); }},
      {"mixed batch: training mode", mixed([](Box& box) { set_training(box, true); }, {"default", "default"})},
      {"mixed batch: unknown adapter", mixed(nothing, {"nobody", "default"})},
      {"set_adapter: unknown name", [] { adapters::set_adapter(*boxed(lora_config()), {"nobody"}); }},
      {"tuner set_adapter: unknown name", [] { adapters::set_adapter(*boxed(lora_config()), {"nobody"}); }},
      {"delete_adapter: unknown name", [] { adapters::delete_adapter(*boxed(lora_config()), "nobody"); }},
      {"tuner delete_adapter: unknown name", [] { boxed(lora_config())->layer().delete_adapter("nobody"); }},
      {"add_adapter: name exists", [] { add(*boxed(lora_config()), lora_config(), "default"); }},
      {"add_adapter: another method", [] { add(*boxed(lora_config()), oft_config()); }},
      {"add_adapter: two adapters with bias",
       [=] { const LoraConfig c = with(&LoraConfig::bias, "all"); add(*boxed(c, dense(true)), c); }},
      {"nothing matched", inject(targets({"nothing"}))},
      {"nothing matched, regular expression", inject(targets(".*nothing"))},
      {"nothing matched, everything excluded", inject(with(&LoraConfig::exclude_modules, Targets{"lin"}))},
      {"no target modules and an unknown architecture", inject(LoraConfig{})},
      {"unsupported target", inject(targets({"norm"}))},
      {"unsupported target, OFT", inject(OFTConfig{.target_modules = {"norm"}})},
      {"unsupported target, AdaLoRA", inject(AdaLoraConfig{.total_step = 10, .target_modules = {"norm"}})},
      {"'all-linear' on a model whose only linear is a GPTQ layer", [=] { boxed(targets("all-linear"), packed("gptq")); }},
      {"add_weighted_adapter: unknown adapter", [] { combine({"default", "nobody"}, {1, 1}, "linear"); }},
      {"add_weighted_adapter: unknown combination, one adapter: not looked at", [] { combine({"default"}, {1}, "nonsense"); }},
      {"add_weighted_adapter: unknown combination", [] { combine({"default", "second"}, {1, 1}, "nonsense"); }},
      {"add_weighted_adapter: weights of another length", [] { combine({"default", "second"}, {1}, "linear"); }},
      {"add_weighted_adapter: linear with two ranks", [] { combine({"default", "second"}, {1, 1}, "linear", 4); }},
      {"add_weighted_adapter: ties without density", [] { combine({"default", "second"}, {1, 1}, "ties_svd"); }},
      {"add_weighted_adapter: svd_rank 0 means the largest rank", [] { combine({"default", "second"}, {1, 1}, "svd", 4); }},
      {"AdaLoRA add_weighted_adapter",
       [] { adapters::add_weighted_adapter(*boxed(adalora_config()), {"default"}, {1}, "mixed"); }},
      {"OFT merge_and_unload of a model that names its quantization method",
       [] { adapters::merge_and_unload(*boxed(oft_config(), packed("gptq"))); }, "'gptq'"},
      {"OFT merge_and_unload of a model that names its quantization method",
       [] { adapters::merge_and_unload(*boxed(oft_config(), packed("awq"))); }, "'awq'"},
      {"OFT merge_and_unload of a model that names its quantization method",
       [] { adapters::merge_and_unload(*boxed(oft_config(), packed("eetq"))); }, "'eetq'"},
      {"OFT Conv2d: dilation",
       [] {
         struct Conv2d final : Module {
           std::string type_name() const override { return "Conv2d"; }
           void visit(Visitor&) override {}
         };
         struct Model final : Module {
           Slot<Conv2d> conv{std::make_shared<Conv2d>()};
           std::string type_name() const override { return "Model"; }
           void visit(Visitor& visitor) override { visitor.child("conv", conv); }
         } model;
         adapters::inject(model, OFTConfig{.target_modules = {"conv"}});
       }},
      {"OFT: file with the old tensor oft_r",
       [] {
         const auto folder = std::filesystem::temp_directory_path() / fmt::format("graft_old_oft_{}", ::getpid());
         adapters::save_pretrained(*boxed(oft_config()), folder);
         safetensors::save(folder / "adapter_model.safetensors", {{"base_model.model.lin.oft_r", Tensor::zeros({2, 2})}});
         const std::shared_ptr<void> cleanup(nullptr, [=](void*) { std::filesystem::remove_all(folder); });
         Box box;
         adapters::load_pretrained(box, folder);
       }},
  });
}

void add_configs(std::vector<Line>& lines) {
  const auto lora = [](auto change) { return [=] { LoraConfig c = lora_config(); change(c); validate(c); }; };
  const auto adalora = [](auto change) { return [=] { AdaLoraConfig c = adalora_config(); change(c); validate(c); }; };
  const auto oft = [](const OFTConfig& c) { return [=] { validate(c); }; };
  const auto json = [](const char* text) { return [=] { read(text); }; };
  const auto loftq = [] { LoraConfig c = lora_config(); c.init_lora_weights = "loftq"; boxed(c); };
  lines.insert(lines.end(), {
      {"unknown task type", lora([](auto& c) { c.task_type = "NONSENSE"; })},
      {"LoraConfig: regular expression and layers_to_transform", lora([](auto& c) { c.target_modules = ".*lin"; c.layers_to_transform = {1}; })},
      {"LoraConfig: regular expression and layers_pattern", lora([](auto& c) { c.target_modules = ".*lin"; c.layers_pattern = {"h"}; })},
      {"LoraConfig: layers_pattern alone", lora([](auto& c) { c.layers_pattern = {"h"}; })},
      {"LoraConfig: DoRA with Megatron", json(R"({"peft_type": "LORA", "use_dora": true, "megatron_config": {"a": 1}})")},
      {"LoraConfig: loftq without scipy", loftq},
      {"LoraConfig: loftq without its config, scipy present", loftq},
      {"LoraConfig: target_parameters as a string", json(R"({"peft_type": "LORA", "target_parameters": "lin.weight"})")},
      {"AdaLoraConfig: loftq without scipy", adalora([](auto& c) { c.init_lora_weights = "loftq"; })},
      {"AdaLoraConfig: loftq, scipy present", adalora([](auto& c) { c.init_lora_weights = "loftq"; })},
      {"LoraConfig: loftq_config without loftq", json(R"({"peft_type": "LORA", "loftq_config": {"loftq_bits": 4}})")},
      {"LoraConfig: lora_bias with a string init", lora([](auto& c) { c.lora_bias = true; c.init_lora_weights = "gaussian"; })},
      {"LoraConfig: lora_bias with DoRA", lora([](auto& c) { c.lora_bias = c.use_dora = true; })},
      {"LoraConfig: nothing looks at r, dropout or group size", lora([](auto& c) { c.r = 0; c.lora_dropout = 3; c.qalora_group_size = 0; })},
      {"OFTConfig: neither r nor block size", oft({.r = 0, .oft_block_size = 0})},
      {"OFTConfig: r and block size", oft({.r = 8, .oft_block_size = 32})},
      {"OFTConfig: r alone collides with the default block size", oft({.r = 8})},
      {"OFTConfig: layers_pattern alone", oft({.target_modules = {"lin"}, .layers_pattern = {"h"}})},
      {"OFTConfig: regular expression and layers_to_transform", oft({.target_modules = ".*lin", .layers_to_transform = {1}})},
      {"OFTConfig: file without oft_block_size, with r", json(R"({"peft_type": "OFT", "r": 8})")},
      {"OFTConfig: file without oft_block_size and r", json(R"({"peft_type": "OFT"})")},
      {"OFTConfig: file without oft_block_size, read by the class itself", json(R"({"peft_type": "OFT"})")},
      {"OFTConfig: series adapter from before 0.18", json(R"({"peft_type": "OFT", "oft_block_size": 32, "use_cayley_neumann": true})")},
      {"OFTConfig: series adapter from before 0.18, read by the class itself",
       json(R"({"peft_type": "OFT", "oft_block_size": 32, "use_cayley_neumann": true})")},
      {"any config: unknown key", json(R"({"peft_type": "LORA", "unheard_of": 1})")},
      {"any config: no peft_type", json(R"({"r": 8})")},
      {"AdaLoraConfig: no total_step", adalora([](auto& c) { c.total_step = AdaLoraConfig().total_step; })},
      {"AdaLoraConfig: total_step 0", adalora([](auto& c) { c.total_step = 0; })},
      {"AdaLoraConfig: nothing left between tinit and tfinal", adalora([](auto& c) { c.tinit = 6; c.tfinal = 4; })},
      {"AdaLoraConfig: DoRA", json(R"({"peft_type": "ADALORA", "total_step": 10, "use_dora": true})")},
      {"AdaLoraConfig: r given", json(R"({"peft_type": "ADALORA", "total_step": 10, "r": 4})")},
      {"AdaLoraConfig: negative orth_reg_weight is accepted by the config of 0.18.1", adalora([](auto& c) { c.orth_reg_weight = -1; })},
      {"AdaLoraConfig: regular expression and layers_to_transform", adalora([](auto& c) { c.target_modules = ".*lin"; c.layers_to_transform = {1}; })},
  });
}

void add_adalora(std::vector<Line>& lines) {
  const auto quantized = [](std::int64_t r) { return std::make_shared<adalora::SVDQuantLinear>(packed("gptq"), "default", adalora::Options{.r = r}); };
  const auto with = [](auto change) { AdaLoraConfig c = adalora_config(); change(c); return c; };
  const auto allocate = [=](const AdaLoraConfig& c, std::int64_t step) {
    return [=] { const auto box = differentiated(c); adalora::RankAllocator(*box).update_and_allocate(step); };
  };
  const auto loss = [](const AdaLoraConfig& c) { return [=] { const auto box = boxed(c); adalora::orthogonal_regulariser(*box); }; };
  lines.insert(lines.end(), {
      {"AdaLoRA: r < 0", [] { adalora::SVDLinear(dense(), "default", {.r = -1}); }},
      {"AdaLoRA GPTQ: r < 0", [=] { quantized(-1); }},
      {"AdaLoRA: r = 0 is allowed", [] { const auto layer = dense(); adalora::SVDLinear(layer, "default").forward(some_input(*layer)); }},
      {"AdaLoRA: two trainable adapters", [] { add(*boxed(adalora_config()), adalora_config()); }},
      {"AdaLoRA GPTQ merge", [=] { quantized(4)->merge(); }},
      {"AdaLoRA GPTQ unmerge", [=] { quantized(4)->unmerge(); }},
      {"AdaLoRA on AWQ", [] { forward(*boxed(adalora_config(), packed("awq"))); }},
      {"AdaLoRA on EETQ", [] { forward(*boxed(adalora_config(), packed("eetq"))); }},
      {"AdaLoRA on GPTQ, model says gptq: accepted", [] { forward(*boxed(adalora_config(), packed("gptq"))); }},
      {"AdaLoRA: orth_reg_weight 0, at the first forward with a loss", loss(with([](auto& c) { c.orth_reg_weight = 0; }))},
      {"AdaLoRA: orth_reg_weight negative, at the first forward with a loss", loss(with([](auto& c) { c.orth_reg_weight = -0.5; }))},
      {"AdaLoRA: inference adapter and a loss", loss(with([](auto& c) { c.inference_mode = true; }))},
      {"AdaLoRA: beta1 out of range", [=] { boxed(with([](auto& c) { c.beta1 = 1; })); }},
      {"AdaLoRA: beta2 out of range", [=] { boxed(with([](auto& c) { c.beta2 = 0; })); }},
      {"AdaLoRA allocator: no gradient yet", [] { const auto box = boxed(adalora_config()); adalora::RankAllocator(*box).update_and_allocate(0); }},
      {"AdaLoRA allocator: nothing to remove", allocate(with([](auto& c) { c.init_r = c.target_r = 8; }), 5)},
      {"AdaLoRA allocator: target above init", [=] { boxed(with([](auto& c) { c.init_r = 4; })); }},
      {"AdaLoRA allocator: after the last allocation without a pattern", allocate(with([](auto& c) { c.tfinal = 4; }), 9)},
      {"AdaLoRA GPTQ: half adapter weights",
       [=] {
         const auto layer = quantized(4);
         for (auto& [name, tensor] : parameters(*layer)) *tensor = to(tensor->detach(), DType::f16);
         layer->forward(to(some_input(*layer), DType::f16));
       }},
  });
}

std::vector<Line> table() {
  std::vector<Line> lines;
  add_lora_wrapper(lines, "GPTQLoraLinear", "gptq");
  add_lora_wrapper(lines, "AwqLoraLinear", "awq");
  add_lora_wrapper(lines, "EetqLoraLinear", "eetq");
  add_layers(lines);
  add_models(lines);
  add_configs(lines);
  add_adalora(lines);
  add_oft_wrapper(lines, "GPTQOFTLinear", "gptq");
  add_oft_wrapper(lines, "AwqOFTLinear", "awq");
  add_oft_wrapper(lines, "EetqOFTLinear", "eetq");
  add_oft_wrapper(lines, "Linear", "dense");
  return lines;
}

std::string class_of(const std::exception& error) {
  if (dynamic_cast<const ValueError*>(&error)) return "ValueError";
  if (dynamic_cast<const TypeError*>(&error)) return "TypeError";
  if (dynamic_cast<const NotImplementedError*>(&error)) return "NotImplementedError";
  if (dynamic_cast<const AttributeError*>(&error)) return "AttributeError";
  if (dynamic_cast<const ImportError*>(&error)) return "ImportError";
  if (dynamic_cast<const Error*>(&error)) return "Error";
  return "an exception of no class of this library";
}

struct Outcome {
  std::string type, message;  // empty: nothing was thrown
  bool warned;
};

Outcome provoke(const Line& line) {
  const adapters::WarningScope warnings;
  try {
    line.provoke();
  } catch (const std::exception& error) {
    return {class_of(error), error.what(), false};
  }
  return {"", "", !warnings.messages().empty()};
}

void expect_same(const Json& row, const Outcome& outcome) {
  if (row.at("class").is_null()) {
    EXPECT_EQ(outcome.type, "") << outcome.message;
    if (row.contains("warnings") && !row.at("warnings").empty()) {
      EXPECT_TRUE(outcome.warned) << "PEFT warns here: " << row.at("warnings");
    }
    return;
  }
  const std::string wanted = row.at("class");
  const bool namesake = wanted != "RuntimeError" && wanted != "AssertionError" && wanted != "UnboundLocalError";
  if (namesake) {
    EXPECT_EQ(outcome.type, wanted) << outcome.message;
  } else {
    EXPECT_NE(outcome.type, "");
  }
  EXPECT_GT(outcome.message.size(), 20u) << "a message says what was given and what was wanted";
  // The seeds quote these two.
  const std::string words = row.at("message");
  if (words == "Merging LoRA layers is not supported for Eetq layers." || words == "Unmerging LoRA layers is not supported for Eetq layers.") {
    EXPECT_EQ(outcome.message, words);
  }
}

/// A line of docs/errors.md.
struct Verdict {
  std::string what, peft, graft, why;
};

std::map<std::string, Verdict> read_table() {
  const auto path = std::filesystem::path(GRAFT_SOURCE_DIR) / "docs" / "errors.md";
  std::ifstream file(path);
  check<FileError>(file.is_open(), "{}: cannot be opened", path.string());
  std::map<std::string, Verdict> table;
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("| ") || line.size() < 3 || !std::isdigit(static_cast<unsigned char>(line[2]))) continue;
    std::vector<std::string> cells;
    for (std::size_t at = 2, bar; (bar = line.find(" |", at)) != std::string::npos; at = std::min(bar + 3, line.size()))
      cells.push_back(line.substr(at, bar - at));
    check(cells.size() == 5, "{}: a line of {} cells, not 5: {}", path.string(), cells.size(), line);
    check(cells[0] == std::to_string(table.size()), "{}: row {} where {} is due", path.string(), cells[0], table.size());
    table.emplace(cells[0], Verdict{cells[1], cells[2], cells[3], cells[4]});
  }
  return table;
}

// clang-format on
}  // namespace

void check_errors_case(const Case& golden_case) {
  static const std::vector<Line> lines = table();
  static const std::map<std::string, Verdict> verdicts = read_table();
  EXPECT_EQ(verdicts.size(), read_json(golden_case.path).at("errors").size());
  const Json& row = golden_case.row;
  const std::string what = row.at("what"), how = row.at("how");
  const auto verdict = verdicts.find(std::to_string(std::stoul(golden_case.name)));
  ASSERT_NE(verdict, verdicts.end()) << "docs/errors.md has no such row: " << what;
  const auto& [told, peft, graft, why] = verdict->second;
  EXPECT_EQ(told, what);
  EXPECT_EQ(peft, row.at("class").is_null() ? row.contains("warnings") && !row.at("warnings").empty() ? "warns" : "accepts"
                                            : row.at("class").get<std::string>());
  const auto line = std::find_if(lines.begin(), lines.end(),
                                 [&](const Line& l) { return l.what == what && how.find(l.how) != std::string::npos; });
  EXPECT_TRUE(graft == "same" || why.size() > 10) << "a difference has a reason";
  if (graft == "python") {
    EXPECT_TRUE(line == lines.end()) << "this can be provoked";
    GTEST_SKIP() << "no meaning without Python: " << why;
  }
  ASSERT_TRUE(line != lines.end()) << "nothing here provokes: " << what << "; " << how;
  const Outcome outcome = provoke(*line);
  const std::string refused = "refused as ";
  if (graft == "same") return expect_same(row, outcome);
  ASSERT_TRUE(graft == "supported" || graft.starts_with(refused)) << "docs/errors.md: no such verdict: " << graft;
  EXPECT_EQ(outcome.type, graft == "supported" ? "" : graft.substr(refused.size())) << outcome.message;
}

}  // namespace golden
