#include "layer_case.h"

#include "graft/adapters/adalora.h"
#include "graft/adapters/wrappers.h"
#include "graft/quant/format.h"
#include "graft/tests/support/tested.h"

namespace golden {

using graft::Tensor;

graft::DType dtype_of(const Json& name) { return graft::dtype_from_name(name.get<std::string>()); }

std::shared_ptr<graft::LinearBase> base_layer(const Tensors& tensors) {
  const Json& base = tensors.info().at("base");
  const std::string format = base.at("format");
  if (format == "dense")
    return std::make_shared<graft::Linear>(tensors.copy("base.weight"),
                                           tensors.has("base.bias") ? tensors.copy("base.bias") : Tensor());
  graft::quant::Stored stored;
  stored.module = format;
  stored.in = base.at("in");
  stored.out = base.at("out");
  auto& d = stored.description;
  d.method = format;
  d.layout = format == "gptq" ? base.at("checkpoint_format").get<std::string>() : format == "awq" ? "gemm" : "plain";
  d.bits = base.at("bits");
  if (base.contains("group_size")) d.group_size = base.at("group_size");
  if (base.contains("sym")) d.sym = base.at("sym");
  if (base.contains("desc_act")) d.desc_act = base.at("desc_act");
  for (const auto& [name, entry] : tensors.file().entries()) {
    const std::string prefix = "base.";
    if (name.starts_with(prefix) && name != "base.dequantized") stored.tensors[name.substr(prefix.size())] = tensors[name];
  }
  const auto layer = graft::quant::make_layer(stored, dtype_of(tensors.info().at("x_dtype")));
  graft::to(*layer, graft::test::tested_device());
  return layer;
}

namespace {

graft::lora::Options lora_options(const Json& a) {
  graft::lora::Options o{.r = a.at("r"), .lora_alpha = a.at("lora_alpha")};
  const Json& init = a.at("init_lora_weights");
  if (init.is_boolean()) o.init_lora_weights = init.get<bool>();
  else o.init_lora_weights = init.get<std::string>();
  o.use_rslora = a.at("use_rslora");
  o.use_dora = a.at("use_dora");
  o.use_qalora = a.at("use_qalora");
  o.lora_bias = a.at("lora_bias");
  o.qalora_group_size = a.at("qalora_group_size");
  return o;
}

graft::adalora::Options adalora_options(const Json& a) { return {.r = a.at("init_r"), .lora_alpha = a.at("lora_alpha")}; }

graft::oft::Options oft_options(const Json& a) {
  return {.r = a.at("r"),
          .oft_block_size = a.at("oft_block_size"),
          .coft = a.at("coft"),
          .eps = a.at("eps"),
          .block_share = a.at("block_share"),
          .use_cayley_neumann = a.at("use_cayley_neumann"),
          .num_cayley_neumann_terms = a.at("num_cayley_neumann_terms")};
}

using Layer = std::shared_ptr<graft::AdapterLayer>;

Layer first_layer(const Tensors& tensors, const std::string& method, const std::string& name, const Json& a, bool today) {
  namespace lora = graft::lora;
  namespace oft = graft::oft;
  const auto base = base_layer(tensors);
  const std::string wrapper = tensors.info().at("wrapper"), format = tensors.info().at("base").at("format");
  const auto casts = today ? oft::Casts::per_rotation : oft::Casts::wide;
  if (method == "lora" && format == "dense") return std::make_shared<lora::Linear>(base, name, lora_options(a));
  if (method == "oft" && format == "dense") return std::make_shared<oft::Linear>(base, name, oft_options(a));
  if (wrapper == "GPTQLoraLinear") return std::make_shared<lora::GPTQLoraLinear>(base, name, lora_options(a));
  if (wrapper == "AwqLoraLinear") return std::make_shared<lora::AwqLoraLinear>(base, name, lora_options(a));
  if (wrapper == "EetqLoraLinear") return std::make_shared<lora::EetqLoraLinear>(base, name, lora_options(a));
  if (wrapper == "SVDLinear") return std::make_shared<graft::adalora::SVDLinear>(base, name, adalora_options(a));
  if (wrapper == "SVDQuantLinear") return std::make_shared<graft::adalora::SVDQuantLinear>(base, name, adalora_options(a));
  if (wrapper == "GPTQOFTLinear") return std::make_shared<oft::GPTQOFTLinear>(base, name, oft_options(a), casts);
  if (wrapper == "AwqOFTLinear") return std::make_shared<oft::AwqOFTLinear>(base, name, oft_options(a));
  if (wrapper == "EetqOFTLinear") return std::make_shared<oft::EetqOFTLinear>(base, name, oft_options(a), casts);
  graft::fail("no layer here is called {}", wrapper);
}

/// A further adapter, of the first one's method and casts.
void add_layer(graft::AdapterLayer& layer, const Tensors& tensors, const std::string& method, const std::string& name,
               const Json& a, bool today) {
  if (method == "lora") return dynamic_cast<graft::lora::LoraLayer&>(layer).update_layer(name, lora_options(a));
  layer.add_adapter(name, first_layer(tensors, method, name, a, today)->adapter(name));
}

}  // namespace

std::map<std::string, Tensor*> parameters(graft::AdapterLayer& layer) {
  struct Collector final : graft::Visitor {
    std::map<std::string, Tensor*> found;
    void parameter(std::string_view name, Tensor& tensor) override { found.emplace(name, &tensor); }
  } collector;
  for (const auto& name : layer.adapter_names()) layer.adapter(name)->visit(collector, name);
  return std::move(collector.found);
}

Layer wrapped_layer(const Tensors& tensors, bool today) {
  const Json& info = tensors.info();
  const std::string method = info.at("method");
  Layer layer;
  for (const Json& a : info.at("adapters")) {
    const std::string name = a.at("name");
    if (!layer) layer = first_layer(tensors, method, name, a, today);
    else add_layer(*layer, tensors, method, name, a, today);
  }
  for (auto& [name, tensor] : parameters(*layer)) {
    graft::check(tensors.has("adapter." + name), "the layer has a parameter {} and the file does not", name);
    const Tensor given = tensors.copy("adapter." + name);
    graft::check(given.shape() == tensor->shape(), "{} is {} here and {} in the file", name, tensor->shape(), given.shape());
    graft::check(given.device() == tensor->device(), "{} is on {}, and its layer on {}", name, tensor->device(), given.device());
    *tensor = given;
  }
  layer->set_training(false);
  layer->set_adapter(info.at("active").get<std::vector<std::string>>());
  if (info.value("disabled", false)) layer->enable_adapters(false);
  return layer;
}

}  // namespace golden
