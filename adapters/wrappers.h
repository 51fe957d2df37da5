// The layers that PEFT has by name for each kind of base. They differ in what they declare (order of rounding, refused variants, words
// of refusal); what they do is AdapterLayer and the adapters.
#pragma once

#include "graft/adapters/adapter.h"
#include "graft/adapters/lora_variants.h"
#include "graft/quant/quant_linear.h"

namespace graft::lora {

/// What a LoRA layer declares.
struct Policy {
  const char* type_name;
  Rounding rounding;
  bool dora, qalora;  // which variants it takes
};
inline constexpr Policy dense{"lora.Linear", Rounding::once, true, false};
inline constexpr Policy gptq{"lora.GPTQLoraLinear", Rounding::per_adapter, false, true};
inline constexpr Policy awq{"lora.AwqLoraLinear", Rounding::before_scale, false, false};
inline constexpr Policy eetq{"lora.EetqLoraLinear", Rounding::before_scale, false, false};

/// A LoRA layer with a policy; the named classes below are this with theirs.
class LoraLayer : public AdapterLayer {
 public:
  LoraLayer(const Policy& policy, std::shared_ptr<LinearBase> base_layer);
  /// Makes a new adapter and adds it. ValueError for a variant that the policy refuses, NotImplementedError for two variants at once,
  /// and what LoraAdapter refuses; the layer is as before then.
  void update_layer(const std::string& adapter_name, const Options& options);
  const Policy& policy() const { return *policy_; }

 protected:
  /// With its first adapter. DoRA on a policy without it is a ValueError even beside QA-LoRA, as in PEFT's constructors.
  LoraLayer(const Policy& policy, std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name,
            const Options& options);

 private:
  const Policy* policy_;
};

/// On a dense layer; everything is added in the wider dtype and rounded once.
class Linear final : public LoraLayer {
 public:
  Linear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options = {})
      : LoraLayer(dense, std::move(base_layer), adapter_name, options) {}
};

/// On a GPTQ layer: the input is always cast to the adapter's dtype and the result back after every adapter, autocast or not.
/// Takes QA-LoRA. use_dora is a ValueError.
class GPTQLoraLinear final : public LoraLayer {
 public:
  GPTQLoraLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options = {})
      : LoraLayer(gptq, std::move(base_layer), adapter_name, options) {}
  static VariantMaker resolve_lora_variant(bool use_dora, bool use_qalora) {
    return lora::resolve_lora_variant(use_dora, use_qalora);
  }
};

/// On an AWQ layer: casts only outside autocast, and scales after the cast. use_dora and use_qalora are ValueErrors.
class AwqLoraLinear final : public LoraLayer {
 public:
  AwqLoraLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options = {})
      : LoraLayer(awq, std::move(base_layer), adapter_name, options) {}
};

/// On an EETQ layer: casts as on AWQ. use_dora and use_qalora are ValueErrors, merge() and unmerge() AttributeErrors.
class EetqLoraLinear final : public LoraLayer {
 public:
  EetqLoraLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options = {})
      : LoraLayer(eetq, std::move(base_layer), adapter_name, options) {}
  /// The int8 weight [in, out] as the checkpoint stores it.
  Tensor weight() const override { return qweight(); }
  [[noreturn]] void merge(bool safe_merge = false, std::optional<std::vector<std::string>> names = {}) override;
  [[noreturn]] void unmerge() override;
};

/// What else the dispatchers are told, beside the options of the layer.
struct Origin {
  /// The checkpoint's quantization config, for layers that no GPTQModel class but an AutoGPTQ class would own; the layer's own
  /// description where this is null.
  const quant::Description* gptq_quantization_config = nullptr;
  /// The version of AWQ's packer, where the file does not say; empty: unknown, which passes.
  std::string auto_awq_version = {};
};

/// A wrapper around `target` if its innermost base is a GPTQ layer, else null: layers that GPTQModel wrote first, then those that the
/// quantization config gives to an AutoGPTQ class.
std::shared_ptr<GPTQLoraLinear> dispatch_gptq(const std::shared_ptr<LinearBase>& target, const std::string& adapter_name,
                                              const Options& options, const Origin& origin = {});
/// The same for AWQ. ImportError if AutoAWQ before 0.2.0 packed the layer; a GPTQModel layer is never refused.
std::shared_ptr<AwqLoraLinear> dispatch_awq(const std::shared_ptr<LinearBase>& target, const std::string& adapter_name,
                                            const Options& options, const Origin& origin = {});
/// The same for EETQ.
std::shared_ptr<EetqLoraLinear> dispatch_eetq(const std::shared_ptr<LinearBase>& target, const std::string& adapter_name,
                                              const Options& options);

}  // namespace graft::lora

namespace graft::adapters {

/// The layer below all wrappers.
const LinearBase& innermost(const LinearBase& layer);
/// *target; ValueError where there is none.
const LinearBase& given(const std::shared_ptr<LinearBase>& target);
/// The quantized layer below all wrappers, if it has this method ("gptq", "awq", "eetq"); else null.
const quant::QuantLinear* quantized(const LinearBase& layer, std::string_view method);
/// The GPTQ layer below all wrappers: one that GPTQModel wrote (or nobody names), or else one of the class that the quantization config
/// gives to AutoGPTQ (quant/auto_gptq.h); a null `config` stands for the one that the layer was read by. Null if there is none.
const quant::QuantLinear* gptq_layer(const LinearBase& layer, const quant::Description* config);
/// ImportError if AutoAWQ before 0.2.0 packed the layer, by its own word or the caller's.
void check_awq_packer(const quant::QuantLinear& layer, const std::string& version);
/// Throws EETQ's AttributeErrors, in PEFT's words.
[[noreturn]] void refuse_eetq_merge();
[[noreturn]] void refuse_eetq_unmerge();

}  // namespace graft::adapters
