#include "graft/adapters/oft.h"
#include "graft/adapters/wrappers.h"

namespace graft::oft {
namespace {

std::shared_ptr<OFTAdapter> make(const AdapterLayer& layer, const Options& options, Casts casts) {
  return std::make_shared<OFTAdapter>(*layer.base_layer(), options, casts);
}

}  // namespace

Linear::Linear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options)
    : AdapterLayer(std::move(base_layer), "oft.Linear") {
  add_adapter(adapter_name, make(*this, options, Casts::wide));
}

GPTQOFTLinear::GPTQOFTLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options,
                             Casts casts)
    : AdapterLayer(std::move(base_layer), "oft.GPTQOFTLinear") {
  add_adapter(adapter_name, make(*this, options, casts));
}

AwqOFTLinear::AwqOFTLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options)
    : AdapterLayer(std::move(base_layer), "oft.AwqOFTLinear") {
  add_adapter(adapter_name, make(*this, options, Casts::per_rotation));
}

EetqOFTLinear::EetqOFTLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options,
                             Casts casts)
    : AdapterLayer(std::move(base_layer), "oft.EetqOFTLinear") {
  add_adapter(adapter_name, make(*this, options, casts));
}

void EetqOFTLinear::merge(bool, std::optional<std::vector<std::string>>) { adapters::refuse_eetq_merge(); }
void EetqOFTLinear::unmerge() { adapters::refuse_eetq_unmerge(); }

std::shared_ptr<GPTQOFTLinear> dispatch_gptq(const std::shared_ptr<LinearBase>& target, const std::string& adapter_name,
                                             const Options& options, const quant::Description* gptq_quantization_config) {
  const auto* base = adapters::gptq_layer(adapters::given(target), gptq_quantization_config);
  return base ? std::make_shared<GPTQOFTLinear>(target, adapter_name, options) : nullptr;
}

std::shared_ptr<AwqOFTLinear> dispatch_awq(const std::shared_ptr<LinearBase>& target, const std::string& adapter_name,
                                           const Options& options, const std::string& auto_awq_version) {
  const auto* base = adapters::quantized(adapters::given(target), "awq");
  if (!base) return nullptr;
  adapters::check_awq_packer(*base, auto_awq_version);
  return std::make_shared<AwqOFTLinear>(target, adapter_name, options);
}

std::shared_ptr<EetqOFTLinear> dispatch_eetq(const std::shared_ptr<LinearBase>& target, const std::string& adapter_name,
                                             const Options& options) {
  return adapters::quantized(adapters::given(target), "eetq") ? std::make_shared<EetqOFTLinear>(target, adapter_name, options)
                                                              : nullptr;
}

}  // namespace graft::oft
