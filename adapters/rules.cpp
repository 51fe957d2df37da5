#include "graft/adapters/rules.h"

#include "graft/adapters/adalora.h"
#include "graft/adapters/oft.h"
#include "graft/adapters/wrappers.h"

namespace graft {
namespace {

Verdict has_method(const LinearBase& layer, std::string_view method) {
  if (adapters::quantized(layer, method)) return Verdict::accept();
  const auto* other = dynamic_cast<const quant::QuantLinear*>(&layer);
  return Verdict::decline("a layer of type {}, not {}", other ? other->format().method : layer.type_name(), method);
}

Verdict has_dense_weight(const LinearBase& layer) {
  return dense_weight(layer).defined() ? Verdict::accept()
                                       : Verdict::decline("a layer of type {} has no dense weight", layer.type_name());
}

template <class Config>
auto has(const char* method) {
  return [=](const LinearBase& layer, const Config&) { return has_method(layer, method); };
}

template <class Config>
Verdict is_dense(const LinearBase& layer, const Config&) {
  return has_dense_weight(layer);
}

/// Makes a layer from the options that its method reads out of a configuration.
template <class Layer, class Config, class Options>
auto make(Options (*options)(const Config&, std::uint64_t)) {
  return [=](std::shared_ptr<LinearBase> base, const std::string& name, const Config& config, std::uint64_t seed) {
    return std::make_shared<Layer>(std::move(base), name, options(config, seed));
  };
}

template <class Layer>
auto make_lora() {
  return make<Layer, LoraConfig>(lora::options);
}
template <class Layer>
auto make_adalora() {
  return make<Layer, AdaLoraConfig>(adalora::options);
}
template <class Layer>
auto make_oft() {
  return make<Layer, OFTConfig>(oft::options);
}

/// The order of rounding of the wrapper that would stand there for plain LoRA.
Rounding rounding_of(const LinearBase& base) {
  return adapters::quantized(base, "gptq")  ? lora::gptq.rounding
         : adapters::quantized(base, "awq") ? lora::awq.rounding
                                            : lora::eetq.rounding;
}

/// A rule for one variant on quantized layers, whichever the wrappers refuse.
template <class Variant>
Registry::Rule<LoraConfig> quantized_variant(const char* name, const char* type_name, bool LoraConfig::*wanted) {
  return {.name = name,
          .accepts =
              [=](const LinearBase& layer, const LoraConfig& config) {
                if (!(config.*wanted)) return Verdict::decline("the configuration does not ask for it");
                if (config.use_dora && config.use_qalora) return Verdict::decline("it asks for DoRA and QA-LoRA at once");
                if (!dynamic_cast<const quant::QuantLinear*>(&layer))
                  return Verdict::decline("a layer of type {} is not quantized", layer.type_name());
                return Verdict::accept();
              },
          .make =
              [=](std::shared_ptr<LinearBase> base, const std::string& adapter, const LoraConfig& config, std::uint64_t seed) {
                const Rounding rounding = rounding_of(*base);
                auto layer = std::make_shared<AdapterLayer>(base, type_name);
                layer->add_adapter(adapter, std::make_shared<Variant>(*base, lora::options(config, seed), rounding));
                return layer;
              }};
}

}  // namespace

Registry Registry::builtin() {
  Registry registry;
  registry.append<LoraConfig>({"lora/eetq", has<LoraConfig>("eetq"), make_lora<lora::EetqLoraLinear>()});
  registry.append<LoraConfig>({"lora/awq", has<LoraConfig>("awq"), make_lora<lora::AwqLoraLinear>()});
  registry.append<LoraConfig>({"lora/gptq", has<LoraConfig>("gptq"), make_lora<lora::GPTQLoraLinear>()});
  registry.append<LoraConfig>({"lora/dense", is_dense<LoraConfig>, make_lora<lora::Linear>()});
  for (const char* method : {"eetq", "awq", "gptq"})
    registry.append<AdaLoraConfig>(
        {fmt::format("adalora/{}", method), has<AdaLoraConfig>(method), make_adalora<adalora::SVDQuantLinear>()});
  registry.append<AdaLoraConfig>({"adalora/dense", is_dense<AdaLoraConfig>, make_adalora<adalora::SVDLinear>()});
  registry.append<OFTConfig>({"oft/eetq", has<OFTConfig>("eetq"), make_oft<oft::EetqOFTLinear>()});
  registry.append<OFTConfig>({"oft/awq", has<OFTConfig>("awq"), make_oft<oft::AwqOFTLinear>()});
  registry.append<OFTConfig>({"oft/gptq", has<OFTConfig>("gptq"), make_oft<oft::GPTQOFTLinear>()});
  registry.append<OFTConfig>({"oft/dense", is_dense<OFTConfig>, make_oft<oft::Linear>()});
  return registry;
}

Registry::Rule<LoraConfig> rules::quantized_dora() {
  return quantized_variant<lora::DoraLinearVariant>("lora/quantized-dora", "lora.QuantizedDora", &LoraConfig::use_dora);
}
Registry::Rule<LoraConfig> rules::quantized_qalora() {
  return quantized_variant<lora::QALoraLinearVariant>("lora/quantized-qalora", "lora.QuantizedQALora", &LoraConfig::use_qalora);
}
Registry::Rule<OFTConfig> rules::oft_per_rotation() {
  return {.name = "oft/per-rotation",
          .accepts =
              [](const LinearBase& layer, const OFTConfig&) {
                return adapters::quantized(layer, "eetq") ? Verdict::accept() : has_method(layer, "gptq");
              },
          .make = [](std::shared_ptr<LinearBase> base, const std::string& name, const OFTConfig& config,
                     std::uint64_t seed) -> std::shared_ptr<AdapterLayer> {
            const oft::Options options = oft::options(config, seed);
            if (adapters::quantized(*base, "eetq"))
              return std::make_shared<oft::EetqOFTLinear>(base, name, options, oft::Casts::per_rotation);
            return std::make_shared<oft::GPTQOFTLinear>(base, name, options, oft::Casts::per_rotation);
          }};
}

}  // namespace graft
