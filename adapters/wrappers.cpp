#include "graft/adapters/wrappers.h"

#include <cstdio>

#include "graft/quant/auto_gptq.h"

namespace graft::adapters {

const LinearBase& innermost(const LinearBase& layer) {
  const LinearBase* base = &layer;
  while (const auto* wrapper = dynamic_cast<const AdapterLayer*>(base)) base = wrapper->base_layer().get();
  return *base;
}

const LinearBase& given(const std::shared_ptr<LinearBase>& target) {
  check(target != nullptr, "there is no layer to put an adapter around");
  return *target;
}

const quant::QuantLinear* quantized(const LinearBase& layer, std::string_view method) {
  const auto* base = dynamic_cast<const quant::QuantLinear*>(&innermost(layer));
  return base && base->format().method == method ? base : nullptr;
}

const quant::QuantLinear* gptq_layer(const LinearBase& layer, const quant::Description* config) {
  const quant::QuantLinear* base = quantized(layer, "gptq");
  if (!base || base->format().producer != "auto_gptq" || !config) return base;
  // AutoGPTQ made the layer of the class that the layer's own settings ask for; the config's class owns no other.
  quant::Description own = base->format();
  own.exllama = config->exllama;
  const std::string_view owner = quant::auto_gptq_class(*config);
  return !owner.empty() && owner == quant::auto_gptq_class(own) ? base : nullptr;
}

void check_awq_packer(const quant::QuantLinear& layer, const std::string& version) {
  const quant::Description& format = layer.format();
  if (format.producer == "gptqmodel") return;
  const std::string& packed_by = version.empty() && format.producer == "autoawq" ? format.producer_version : version;
  int major = 0, minor = 0;
  if (packed_by.empty()) return;
  check(std::sscanf(packed_by.c_str(), "%d.%d", &major, &minor) == 2, "'{}' is no version of AutoAWQ", packed_by);
  check<ImportError>(major > 0 || minor >= 2, "this layer was packed by AutoAWQ {}; 0.2.0 is the first version that is supported",
                     packed_by);
}

void refuse_eetq_merge() { fail<AttributeError>("Merging LoRA layers is not supported for Eetq layers."); }
void refuse_eetq_unmerge() { fail<AttributeError>("Unmerging LoRA layers is not supported for Eetq layers."); }

}  // namespace graft::adapters

namespace graft::lora {

LoraLayer::LoraLayer(const Policy& policy, std::shared_ptr<LinearBase> base_layer)
    : AdapterLayer(std::move(base_layer), policy.type_name), policy_(&policy) {}

LoraLayer::LoraLayer(const Policy& policy, std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name,
                     const Options& options)
    : LoraLayer(policy, std::move(base_layer)) {
  check(policy.dora || !options.use_dora, "{} does not support DoRA: set use_dora to false", policy.type_name);
  update_layer(adapter_name, options);
}

void LoraLayer::update_layer(const std::string& adapter_name, const Options& options) {
  const VariantMaker variant = resolve_lora_variant(options.use_dora, options.use_qalora);
  check(policy_->dora || !options.use_dora, "{} does not support DoRA: set use_dora to false", policy_->type_name);
  check(policy_->qalora || !options.use_qalora, "{} does not support QA-LoRA: set use_qalora to false", policy_->type_name);
  LinearBase& base = *base_layer();
  add_adapter(adapter_name, variant ? variant(base, options, policy_->rounding)
                                    : std::make_shared<LoraAdapter>(base, options, policy_->rounding));
}

void EetqLoraLinear::merge(bool, std::optional<std::vector<std::string>>) { adapters::refuse_eetq_merge(); }
void EetqLoraLinear::unmerge() { adapters::refuse_eetq_unmerge(); }

std::shared_ptr<GPTQLoraLinear> dispatch_gptq(const std::shared_ptr<LinearBase>& target, const std::string& adapter_name,
                                              const Options& options, const Origin& origin) {
  if (!adapters::gptq_layer(adapters::given(target), origin.gptq_quantization_config)) return nullptr;
  return std::make_shared<GPTQLoraLinear>(target, adapter_name, options);
}

std::shared_ptr<AwqLoraLinear> dispatch_awq(const std::shared_ptr<LinearBase>& target, const std::string& adapter_name,
                                            const Options& options, const Origin& origin) {
  const auto* base = adapters::quantized(adapters::given(target), "awq");
  if (!base) return nullptr;
  adapters::check_awq_packer(*base, origin.auto_awq_version);
  return std::make_shared<AwqLoraLinear>(target, adapter_name, options);
}

std::shared_ptr<EetqLoraLinear> dispatch_eetq(const std::shared_ptr<LinearBase>& target, const std::string& adapter_name,
                                              const Options& options) {
  if (!adapters::quantized(adapters::given(target), "eetq")) return nullptr;
  return std::make_shared<EetqLoraLinear>(target, adapter_name, options);
}

}  // namespace graft::lora
