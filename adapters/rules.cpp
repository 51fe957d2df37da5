#include "graft/adapters/rules.h"

#include "graft/adapters/wrappers.h"

namespace graft {
namespace {

Verdict has_method(const LinearBase& layer, std::string_view method) {
  if (adapters::quantized(layer, method)) return Verdict::accept();
  const auto* other = dynamic_cast<const quant::QuantLinear*>(&layer);
  return Verdict::decline("a layer of type {}, not {}", other ? other->format().method : layer.type_name(), method);
}

Verdict has_dense_weight(const LinearBase& layer) {
  return dense_weight(layer).defined() ? Verdict::accept() : Verdict::decline("a layer of type {} has no dense weight", layer.type_name());
}

template <class Layer>
auto make_lora() {
  return [](std::shared_ptr<LinearBase> base, const std::string& name, const LoraConfig& config, std::uint64_t seed) {
    return std::make_shared<Layer>(std::move(base), name, lora::options(config, seed));
  };
}

void add_lora(Registry& registry) {
  registry.append<LoraConfig>({.name = "lora/eetq",
                               .accepts = [](const LinearBase& layer, const LoraConfig&) { return has_method(layer, "eetq"); },
                               .make = make_lora<lora::EetqLoraLinear>()});
  registry.append<LoraConfig>({.name = "lora/awq",
                               .accepts = [](const LinearBase& layer, const LoraConfig&) {
                                 const Verdict verdict = has_method(layer, "awq");
                                 if (verdict) adapters::check_awq_packer(*adapters::quantized(layer, "awq"), "");
                                 return verdict;
                               },
                               .make = make_lora<lora::AwqLoraLinear>()});
  registry.append<LoraConfig>({.name = "lora/gptq",
                               .accepts = [](const LinearBase& layer, const LoraConfig&) { return has_method(layer, "gptq"); },
                               .make = make_lora<lora::GPTQLoraLinear>()});
  registry.append<LoraConfig>({.name = "lora/dense",
                               .accepts = [](const LinearBase& layer, const LoraConfig&) { return has_dense_weight(layer); },
                               .make = make_lora<lora::Linear>()});
}

/// The order of rounding of the wrapper that would stand there for plain LoRA.
Rounding rounding_of(const LinearBase& base) {
  return adapters::quantized(base, "gptq") ? lora::gptq.rounding : adapters::quantized(base, "awq") ? lora::awq.rounding : lora::eetq.rounding;
}

/// A rule for one variant on quantized layers, whichever the wrappers refuse.
template <class Variant>
Registry::Rule<LoraConfig> quantized_variant(const char* name, const char* type_name, bool LoraConfig::* wanted) {
  return {.name = name,
          .accepts = [=](const LinearBase& layer, const LoraConfig& config) {
            if (!(config.*wanted)) return Verdict::decline("the configuration does not ask for it");
            if (config.use_dora && config.use_qalora) return Verdict::decline("it asks for DoRA and QA-LoRA at once");
            if (!dynamic_cast<const quant::QuantLinear*>(&layer)) return Verdict::decline("a layer of type {} is not quantized", layer.type_name());
            return Verdict::accept();
          },
          .make = [=](std::shared_ptr<LinearBase> base, const std::string& adapter, const LoraConfig& config, std::uint64_t seed) {
            const Rounding rounding = rounding_of(*base);
            auto layer = std::make_shared<AdapterLayer>(base, type_name);
            layer->add_adapter(adapter, std::make_shared<Variant>(*base, lora::options(config, seed), rounding));
            return layer;
          }};
}

}  // namespace

Registry Registry::builtin() {
  Registry registry;
  add_lora(registry);
  return registry;
}

Registry::Rule<LoraConfig> rules::quantized_dora() {
  return quantized_variant<lora::DoraLinearVariant>("lora/quantized-dora", "lora.QuantizedDora", &LoraConfig::use_dora);
}
Registry::Rule<LoraConfig> rules::quantized_qalora() {
  return quantized_variant<lora::QALoraLinearVariant>("lora/quantized-qalora", "lora.QuantizedQALora", &LoraConfig::use_qalora);
}

}  // namespace graft
