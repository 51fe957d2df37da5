// What PEFT refuses, and what this library makes of it: one line per row of errors.json.
//
//   same       the same class of error (Python's RuntimeError, AssertionError and UnboundLocalError have no C++ namesake: any error),
//              or no error where PEFT has none, with a warning where PEFT warns
//   refused    PEFT accepts, ignores a part of the request silently, or fails later with whatever Python happens to raise: a typed error here
//   supported  PEFT refuses and this library does it
//   python     about Python's packages, types or object model: nothing to show here
#include <gtest/gtest.h>

#include <unistd.h>

#include <functional>

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

// ---- the table ----

enum class Verdict { same, refused, supported, python };
using enum Verdict;

struct Line {
  std::string what;
  Verdict verdict;
  std::function<void()> provoke;      // none for python
  const char* how = "";               // a part of the row's "how", where several rows have one "what"
  const char* refused_as = "ValueError";
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
  const bool gptq = format == "gptq", eetq = format == "eetq";
  lines.insert(lines.end(), {
      {on + "DoRA", same, make({.r = 8, .use_dora = true})},
      {on + "r = 0", same, make({.r = 0})},
      {on + "r < 0", same, make({.r = -3})},
      {on + "unknown string for init_lora_weights", same, init("nonsense")},
      {on + "initialisation 'olora" + quantized, same, init("olora")},
      {on + "initialisation 'pissa" + quantized, same, init("pissa")},
      {on + "initialisation 'orthogonal" + quantized, supported, init("orthogonal")},  // it needs no weight
      {on + "initialisation 'loftq" + quantized, eetq ? python : same, init("loftq")},
      {on + "initialisation 'corda" + quantized, same, init("corda")},
      {type + ".merge", same, merge(false)},
      {type + ".merge, safe", same, merge(true)},
      {type + ".unmerge", same, [=] { lora_layer(format, {.r = 8})->unmerge(); }},
      {on + "mixed batch", supported, in_model([](Box& box) { forward_mixed(box, {"default", "default"}); })},
      {on + "lora_bias and a base without bias", same, make({.r = 8, .lora_bias = true})},
      {on + "half input, float32 adapter, input casting disabled", python, {}},  // there is no switch to disable it
      {on + "second adapter with DoRA, through the model", refused, in_model(add_dora)},
      {on + (gptq ? "use_qalora: supported" : "use_qalora: silently ignored"), gptq ? same : refused,
       make({.r = 8, .use_qalora = true, .qalora_group_size = 16})},
      // A model says how it is quantized by being it.
      {"merge_and_unload of a model that holds " + type, gptq ? python : same, in_model(unload)},
      {"merge_and_unload of a model that holds " + type + " and names its quantization method", same, in_model(unload)},
      {"merge_adapter of a model that holds " + type, same, in_model([](Box& box) { adapters::merge_adapter(box); })},
  });
}

void add_oft_wrapper(std::vector<Line>& lines, const std::string& type, const std::string& format) {
  const auto make = [=](const oft::Options& o) { return [=] { oft_layer(format, o); }; };
  const auto on_layer = [=](auto f) { return [=] { f(*oft_layer(format, oft::Options{.r = 4})); }; };
  const std::string on = "OFT " + type + ": ";
  lines.insert(lines.end(), {
      {on + "r and block size", same, make({.r = 8, .oft_block_size = 16})},
      {on + "neither", same, make({.r = 0, .oft_block_size = 0})},
      {on + "defaults of the constructor", same, [=] { oft_layer(format); }},
      {on + "init_weights is no boolean", same, make({.r = 4, .init_weights = "nonsense"})},
      {on + "block size does not divide", same, make({.r = 0, .oft_block_size = 49})},
      {on + "r does not divide", same, make({.r = 7})},
      {on + "set_scale", same, on_layer([](AdapterLayer& layer) { layer.set_scale("default", 2); })},
      {on + "scale_layer", same, on_layer([](AdapterLayer& layer) { layer.scale_layer(2); })},
      {on + "unscale_layer", same, on_layer([](AdapterLayer& layer) { layer.unscale_layer(); })},
      {on + "no active adapter is known to the layer", format == "gptq" || format == "eetq" ? supported : same,
       on_layer([](AdapterLayer& layer) { layer.set_adapter({"another"}), layer.forward(some_input(layer)); })},
  });
  if (format == "dense") return;
  lines.insert(lines.end(), {
      {"OFT " + type + ".merge", same, on_layer([](AdapterLayer& layer) { layer.merge(); })},
      {"OFT " + type + ".unmerge", same, on_layer([](AdapterLayer& layer) { layer.unmerge(); })},
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
      {"GPTQLoraLinear: every construction over a gptqmodel layer warns (left out of the other rows)", python, {}},
      {"GPTQOFTLinear: every construction over a gptqmodel layer warns (left out of the other rows)", python, {}},
      {"GPTQLoraLinear: DoRA together with QA-LoRA", same, [] { lora_layer("gptq", {.r = 8, .use_dora = true, .use_qalora = true}); }},
      {"GPTQLoraLinear: second adapter with DoRA and QA-LoRA, at the layer", same,
       [=] { gptq_layer()->update_layer("second", {.r = 8, .use_dora = true, .use_qalora = true}); }},
      {"GPTQLoraLinear.resolve_lora_variant: both flags", same, [] { lora::GPTQLoraLinear::resolve_lora_variant(true, true); }},
      {"GPTQLoraLinear: second adapter with DoRA and QA-LoRA, through the model", refused,
       [=] { LoraConfig c = with(&LoraConfig::use_dora, true); c.use_qalora = true; add(*boxed(lora_config(), packed("gptq")), c); }},
      {"GPTQLoraLinear: second adapter with QA-LoRA, through the model: silently plain LoRA", supported,
       [=] {
         const auto box = boxed(lora_config(), packed("gptq"));
         add(*box, with(&LoraConfig::use_qalora, true));
         EXPECT_EQ(box->layer().adapter("second")->method(), "qalora");
       }},
      {"GPTQLoraLinear: QA-LoRA group does not divide in_features", same,
       [] { lora_layer("gptq", {.r = 8, .use_qalora = true, .qalora_group_size = 25}); }},
      {"QALoraLinearVariant.merge_safe", same, [=] { qalora()->merged(Tensor::zeros({64, 192}), true); }},
      {"QALoraLinearVariant.merge_unsafe", same, [=] { qalora()->merged(Tensor::zeros({64, 192}), false); }},
      {"QALoraLinearVariant.unmerge", same, [=] { qalora()->unmerged(Tensor::zeros({64, 192})); }},
      {"QALoraLinearVariant.get_delta_weight", same, [=] { qalora()->delta_weight(); }},
      {"QALoraLinearVariant.init without the group size", python, {}},
      {"LoRA dispatch_awq: packer too old", same, [] { lora::dispatch_awq(packed("awq"), "default", {.r = 8}, {.auto_awq_version = "0.1.8"}); }},
      {"LoRA dispatch_awq: packer too old, but the target is no AWQ layer", same,
       [] { EXPECT_EQ(lora::dispatch_awq(dense(), "default", {.r = 8}, {.auto_awq_version = "0.1.8"}), nullptr); }},
      {"AwqLoraLinear itself does not look at the version", same, [] { lora_layer("awq", {.r = 8}, packed_by("awq", "autoawq", "0.1.8")); }},
      {"OFT dispatch_awq: packer too old", same, [] { oft::dispatch_awq(packed_by("awq", "autoawq", "0.1.8"), "default", {.r = 4}); }},
      {"gptqmodel too old", python, {}},
      {"optimum too old", python, {}},
      {"optimum missing", python, {}},
      {"LoRA dispatch_eetq: the target is no EETQ layer", same, [] { EXPECT_EQ(lora::dispatch_eetq(dense(), "default", {.r = 8}), nullptr); }},
      {"dense LoRA: r = 0", same, [] { lora_layer("dense", {.r = 0}); }},
      {"dense LoRA: unknown init", same, dense_init("nonsense")},
      {"dense LoRA: unknown pissa form", same, dense_init("pissa_fast")},
      {"dense LoRA: orthogonal init with odd rank", same, dense_init("orthogonal", DType::f32, 7)},
      {"dense LoRA: olora init on a float64 base", supported, dense_init("olora", DType::f64)},
      {"dense LoRA: pissa init on a float64 base", supported, dense_init("pissa", DType::f64)},
      {"dense LoRA: corda init on a float64 base", refused, dense_init("corda", DType::f64), "", "NotImplementedError"},
      {"dense LoRA: merge of lora_bias without base bias", same, [] { lora_layer("dense", {.r = 8, .lora_bias = true})->merge(false); }, "safe_merge=False"},
      {"dense LoRA: merge of lora_bias without base bias", same, [] { lora_layer("dense", {.r = 8, .lora_bias = true})->merge(true); }, "safe_merge=True"},
      {"dense LoRA: safe merge of NaN", same, [] { merge_broken(lora_layer("dense", {.r = 8})); }},
      {"dense AdaLoRA: safe merge of NaN", same, [] { merge_broken(std::make_shared<adalora::SVDLinear>(dense(), "default", adalora::Options{.r = 4})); }},
      {"dense OFT: safe merge of NaN", same, [] { merge_broken(oft_layer("dense")); }},
      {"merge: adapter_names is a string", python, {}},
      {"merge: unknown name is skipped", refused, [] { lora_layer("dense", {.r = 8})->merge(false, std::vector<std::string>{"nobody"}); }},
      {"merge: already merged", same, [] { const auto layer = lora_layer("dense", {.r = 8}); layer->merge(), layer->merge(); }},
      {"unmerge: not merged", same, [] { lora_layer("dense", {.r = 8})->unmerge(); }},
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
      {"mixed batch: wrong number of names", same, mixed(nothing, {"default"})},
      {"mixed batch: merged adapter", same, mixed([](Box& box) { adapters::merge_adapter(box); }, {"default", "default"})},
      {"mixed batch: DoRA", supported, [=] { forward_mixed(*boxed(with(&LoraConfig::use_dora, true)), {"default", "__base__"}); }},
      {"mixed batch: training mode", same, mixed([](Box& box) { set_training(box, true); }, {"default", "default"})},
      {"mixed batch: unknown adapter", same, mixed(nothing, {"nobody", "default"})},
      {"set_adapter: unknown name", same, [] { adapters::set_adapter(*boxed(lora_config()), {"nobody"}); }},
      {"tuner set_adapter: unknown name", refused, [] { adapters::set_adapter(*boxed(lora_config()), {"nobody"}); }},
      {"delete_adapter: unknown name", same, [] { adapters::delete_adapter(*boxed(lora_config()), "nobody"); }},
      {"tuner delete_adapter: unknown name", same, [] { boxed(lora_config())->layer().delete_adapter("nobody"); }},
      {"add_adapter: name exists", refused, [] { add(*boxed(lora_config()), lora_config(), "default"); }},
      {"add_adapter: another method", supported, [] { add(*boxed(lora_config()), oft_config()); }},
      {"add_adapter: two adapters with bias", same,
       [=] { const LoraConfig c = with(&LoraConfig::bias, "all"); add(*boxed(c), c); }},
      {"nothing matched", same, inject(targets({"nothing"}))},
      {"nothing matched, regular expression", same, inject(targets(".*nothing"))},
      {"nothing matched, everything excluded", same, inject(with(&LoraConfig::exclude_modules, Targets{"lin"}))},
      {"no target modules and an unknown architecture", same, inject(LoraConfig{})},
      {"unsupported target", same, inject(targets({"norm"}))},
      {"unsupported target, OFT", same, inject(OFTConfig{.target_modules = {"norm"}})},
      {"unsupported target, AdaLoRA", same, inject(AdaLoraConfig{.total_step = 10, .target_modules = {"norm"}})},
      {"'all-linear' on a model whose only linear is a GPTQ layer", supported, [=] { boxed(targets("all-linear"), packed("gptq")); }},
      {"add_weighted_adapter: unknown adapter", same, [] { combine({"default", "nobody"}, {1, 1}, "linear"); }},
      {"add_weighted_adapter: unknown combination, one adapter: not looked at", refused, [] { combine({"default"}, {1}, "nonsense"); }},
      {"add_weighted_adapter: unknown combination", same, [] { combine({"default", "second"}, {1, 1}, "nonsense"); }},
      {"add_weighted_adapter: weights of another length", refused, [] { combine({"default", "second"}, {1}, "linear"); }},
      {"add_weighted_adapter: linear with two ranks", same, [] { combine({"default", "second"}, {1, 1}, "linear", 4); }},
      {"add_weighted_adapter: ties without density", refused, [] { combine({"default", "second"}, {1, 1}, "ties_svd"); }},
      {"add_weighted_adapter: svd_rank 0 means the largest rank", same, [] { combine({"default", "second"}, {1, 1}, "svd", 4); }},
      {"AdaLoRA add_weighted_adapter", same,
       [] { adapters::add_weighted_adapter(*boxed(adalora_config()), {"default"}, {1}, "mixed"); }},
      {"OFT merge_and_unload of a model that names its quantization method", same,
       [] { adapters::merge_and_unload(*boxed(oft_config(), packed("gptq"))); }, "'gptq'"},
      {"OFT merge_and_unload of a model that names its quantization method", same,
       [] { adapters::merge_and_unload(*boxed(oft_config(), packed("awq"))); }, "'awq'"},
      {"OFT merge_and_unload of a model that names its quantization method", same,
       [] { adapters::merge_and_unload(*boxed(oft_config(), packed("eetq"))); }, "'eetq'"},
      {"OFT Conv2d: dilation", python, {}},
      {"OFT: file with the old tensor oft_r", same,
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
  lines.insert(lines.end(), {
      {"unknown task type", same, lora([](auto& c) { c.task_type = "NONSENSE"; })},
      {"LoraConfig: regular expression and layers_to_transform", same, lora([](auto& c) { c.target_modules = ".*lin"; c.layers_to_transform = {1}; })},
      {"LoraConfig: regular expression and layers_pattern", same, lora([](auto& c) { c.target_modules = ".*lin"; c.layers_pattern = {"h"}; })},
      {"LoraConfig: layers_pattern alone", same, lora([](auto& c) { c.layers_pattern = {"h"}; })},
      {"LoraConfig: DoRA with Megatron", python, {}},
      {"LoraConfig: loftq without scipy", python, {}},
      {"LoraConfig: loftq without its config, scipy present", python, {}},
      {"AdaLoraConfig: loftq, scipy present", same, adalora([](auto& c) { c.init_lora_weights = "loftq"; })},
      {"LoraConfig: loftq_config without loftq", same, json(R"({"peft_type": "LORA", "loftq_config": {"loftq_bits": 4}})")},
      {"LoraConfig: lora_bias with a string init", same, lora([](auto& c) { c.lora_bias = true; c.init_lora_weights = "gaussian"; })},
      {"LoraConfig: lora_bias with DoRA", same, lora([](auto& c) { c.lora_bias = c.use_dora = true; })},
      {"LoraConfig: target_parameters as a string", python, {}},
      {"LoraConfig: nothing looks at r, dropout or group size", refused, lora([](auto& c) { c.r = 0; c.lora_dropout = 3; c.qalora_group_size = 0; })},
      {"OFTConfig: neither r nor block size", same, oft({.r = 0, .oft_block_size = 0})},
      {"OFTConfig: r and block size", same, oft({.r = 8, .oft_block_size = 32})},
      {"OFTConfig: r alone collides with the default block size", same, oft({.r = 8})},
      {"OFTConfig: layers_pattern alone", same, oft({.target_modules = {"lin"}, .layers_pattern = {"h"}})},
      {"OFTConfig: regular expression and layers_to_transform", refused, oft({.target_modules = ".*lin", .layers_to_transform = {1}})},
      {"OFTConfig: file without oft_block_size, with r", same, json(R"({"peft_type": "OFT", "r": 8})")},
      {"OFTConfig: file without oft_block_size and r", refused, json(R"({"peft_type": "OFT"})")},
      {"OFTConfig: file without oft_block_size, read by the class itself", same, json(R"({"peft_type": "OFT"})")},
      {"OFTConfig: series adapter from before 0.18", same, json(R"({"peft_type": "OFT", "oft_block_size": 32, "use_cayley_neumann": true})")},
      {"OFTConfig: series adapter from before 0.18, read by the class itself", same,
       json(R"({"peft_type": "OFT", "oft_block_size": 32, "use_cayley_neumann": true})")},
      {"any config: unknown key", same, json(R"({"peft_type": "LORA", "unheard_of": 1})")},
      {"any config: no peft_type", same, json(R"({"r": 8})")},
      {"AdaLoraConfig: no total_step", same, adalora([](auto& c) { c.total_step = AdaLoraConfig().total_step; })},
      {"AdaLoraConfig: total_step 0", same, adalora([](auto& c) { c.total_step = 0; })},
      {"AdaLoraConfig: nothing left between tinit and tfinal", same, adalora([](auto& c) { c.tinit = 6; c.tfinal = 4; })},
      {"AdaLoraConfig: DoRA", same, json(R"({"peft_type": "ADALORA", "total_step": 10, "use_dora": true})")},
      {"AdaLoraConfig: loftq without scipy", python, {}},
      {"AdaLoraConfig: r given", same, json(R"({"peft_type": "ADALORA", "total_step": 10, "r": 4})")},
      {"AdaLoraConfig: negative orth_reg_weight is accepted by the config of 0.18.1", refused, adalora([](auto& c) { c.orth_reg_weight = -1; })},
      {"AdaLoraConfig: regular expression and layers_to_transform", same, adalora([](auto& c) { c.target_modules = ".*lin"; c.layers_to_transform = {1}; })},
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
      {"AdaLoRA: r < 0", same, [] { adalora::SVDLinear(dense(), "default", {.r = -1}); }},
      {"AdaLoRA GPTQ: r < 0", same, [=] { quantized(-1); }},
      {"AdaLoRA: r = 0 is allowed", same, [] { const auto layer = dense(); adalora::SVDLinear(layer, "default").forward(some_input(*layer)); }},
      {"AdaLoRA: two trainable adapters", same, [] { add(*boxed(adalora_config()), adalora_config()); }},
      {"AdaLoRA GPTQ merge", same, [=] { quantized(4)->merge(); }},
      {"AdaLoRA GPTQ unmerge", same, [=] { quantized(4)->unmerge(); }},
      {"AdaLoRA on AWQ", supported, [] { forward(*boxed(adalora_config(), packed("awq"))); }},
      {"AdaLoRA on EETQ", supported, [] { forward(*boxed(adalora_config(), packed("eetq"))); }},
      {"AdaLoRA on GPTQ, but the model does not say that it is quantized", python, {}},
      {"AdaLoRA on GPTQ, model says gptq: accepted", same, [] { forward(*boxed(adalora_config(), packed("gptq"))); }},
      {"AdaLoRA: orth_reg_weight 0, at the first forward with a loss", supported, loss(with([](auto& c) { c.orth_reg_weight = 0; }))},
      {"AdaLoRA: orth_reg_weight negative, at the first forward with a loss", same, loss(with([](auto& c) { c.orth_reg_weight = -0.5; }))},
      {"AdaLoRA: inference adapter and a loss", supported, loss(with([](auto& c) { c.inference_mode = true; }))},
      {"AdaLoRA: beta1 out of range", same, [=] { boxed(with([](auto& c) { c.beta1 = 1; })); }},
      {"AdaLoRA: beta2 out of range", same, [=] { boxed(with([](auto& c) { c.beta2 = 0; })); }},
      {"AdaLoRA allocator: no gradient yet", same, [] { const auto box = boxed(adalora_config()); adalora::RankAllocator(*box).update_and_allocate(0); }},
      {"AdaLoRA allocator: nothing to remove", supported, allocate(with([](auto& c) { c.init_r = c.target_r = 8; }), 5)},
      {"AdaLoRA allocator: target above init", same, [=] { boxed(with([](auto& c) { c.init_r = 4; })); }},
      {"AdaLoRA allocator: after the last allocation without a pattern", refused, allocate(with([](auto& c) { c.tfinal = 4; }), 9)},
      {"AdaLoRA GPTQ: half adapter weights", supported,
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
    if (row.contains("warnings") && !row.at("warnings").empty()) EXPECT_TRUE(outcome.warned) << "PEFT warns here: " << row.at("warnings");
    return;
  }
  const std::string wanted = row.at("class");
  const bool namesake = wanted != "RuntimeError" && wanted != "AssertionError" && wanted != "UnboundLocalError";
  if (namesake) EXPECT_EQ(outcome.type, wanted) << outcome.message;
  else EXPECT_NE(outcome.type, "");
  EXPECT_GT(outcome.message.size(), 20u) << "a message says what was given and what was wanted";
  // The seeds quote these two.
  const std::string words = row.at("message");
  if (words == "Merging LoRA layers is not supported for Eetq layers." || words == "Unmerging LoRA layers is not supported for Eetq layers.")
    EXPECT_EQ(outcome.message, words);
}

}  // namespace

void check_errors_case(const Case& golden_case) {
  static const std::vector<Line> lines = table();
  const Json& row = golden_case.row;
  const std::string what = row.at("what"), how = row.at("how");
  const auto line = std::find_if(lines.begin(), lines.end(), [&](const Line& l) { return l.what == what && how.find(l.how) != std::string::npos; });
  ASSERT_NE(line, lines.end()) << "no line of the table is about: " << what << "; " << how;
  if (line->verdict == Verdict::python) GTEST_SKIP() << "no meaning without Python";
  const Outcome outcome = provoke(*line);
  if (line->verdict == Verdict::same) return expect_same(row, outcome);
  if (line->verdict == Verdict::supported) EXPECT_EQ(outcome.type, "") << outcome.message;
  if (line->verdict == Verdict::refused) EXPECT_EQ(outcome.type, line->refused_as) << outcome.message;
}

}  // namespace golden
