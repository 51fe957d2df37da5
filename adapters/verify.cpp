#include "graft/adapters/verify.h"

#include <algorithm>

#include "graft/adapters/inject.h"
#include "graft/adapters/lora.h"
#include "graft/adapters/model.h"
#include "graft/adapters/routing.h"
#include "graft/adapters/wrappers.h"
#include "graft/autograd/ops.h"

namespace graft::adapters {
namespace {

/// FNV-1a.
struct Hash {
  std::uint64_t value = 0xcbf29ce484222325u;
  void add(const void* data, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) value = (value ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
  }
  void add(const std::string& text) { add(text.data(), text.size()); }
};

/// The first elements of a tensor; of a floating one as bf16.
void add_sample(Hash& hash, const Tensor& tensor) {
  constexpr std::int64_t most = 1024;
  const NoGrad no_grad;
  Tensor sample = tensor.detach();
  while (sample.rank() > 1) sample = squeeze(slice(sample, 0, 0, 1), 0);
  if (sample.dim(0) > most) sample = slice(sample, 0, 0, most);
  sample = to(sample, Device::cpu());
  sample = is_floating(sample.dtype()) ? to(sample, DType::bf16) : sample;
  sample = sample.clone();
  hash.add(sample.view().data, static_cast<std::size_t>(sample.count() * size_of(sample.dtype())));
}

/// Takes a layer out of training mode for a scope. One that is not in it is not written: other threads may be reading.
struct Inference {
  Module& module;
  const bool training = module.training();
  explicit Inference(Module& module) : module(module) {
    if (training) module.set_training(false);
  }
  ~Inference() {
    if (training) module.set_training(true);
  }
};

std::vector<AdapterRecord::Saved> saved_of(const AdapterLayer& layer, const std::string& name) {
  const auto record = layer.record(name);
  return record ? record->saved : std::vector<AdapterRecord::Saved>();
}

}  // namespace

std::string fingerprint(Module& model) {
  Hash hash;
  const auto before = originals(model);  // of weights that some adapter has a trained copy of
  std::string inside;
  for_each_slot(model, [&](const std::string& path, SlotBase& slot) {
    if (!inside.empty() && path.starts_with(inside)) return;
    const auto layer = std::dynamic_pointer_cast<LinearBase>(slot.module());
    if (!layer) return;
    inside = path + ".";
    const LinearBase& base = innermost(*layer);
    hash.add(fmt::format("{} {} {}", path, base.in_features(), base.out_features()));
    const auto original = before.find(path + ".weight");
    const Tensor weight = original == before.end() ? dense_weight(base) : original->second;
    if (weight.defined() && weight.count() > 0) add_sample(hash, weight);
    if (const auto* quantized = dynamic_cast<const quant::QuantLinear*>(&base)) {
      hash.add(quantized->format().method);
      add_sample(hash, quantized->dequantize(0, 1));
    }
  });
  return fmt::format("{:016x}", hash.value);
}

std::vector<LayerChange> verify(Module& model, const std::string& adapter_name) {
  const auto known = adapter_names(model);
  check(std::find(known.begin(), known.end(), adapter_name) != known.end(), "there is no adapter '{}' in this model",
        adapter_name);
  const NoGrad no_grad;
  std::vector<LayerChange> changes;
  for_each_layer(model, [&](const std::string& path, AdapterLayer& layer) {
    if (!layer.has_adapter(adapter_name)) return;
    Generator generator{0, 0};
    const LinearBase& base = innermost(layer);
    const auto [device, dtype] = lora::placement(*layer.base_layer(), /*autocast_adapter_dtype=*/false);
    const Tensor x = to(normal({16, layer.in_features()}, 0, 1, generator, dtype), device);
    const Inference inference(layer);
    const RoutingGuard only(Routing({adapter_name}, /*by_row=*/false, /*when_off=*/true));
    Tensor y = to(layer.forward(x), DType::f32), y0 = to(base.forward(x), DType::f32);
    // Whichever copy of a trained bias is in place: this adapter's belongs to y, the original to y0.
    for (const auto& saved : saved_of(layer, adapter_name)) {
      if (saved.path != path + ".bias") continue;
      y = y + to(saved.copy - base.bias(), DType::f32);
      y0 = y0 + to(saved.original - base.bias(), DType::f32);
    }
    const double size = norm(y0).item();
    changes.push_back({path, norm(y - y0).item() / (size > 0 ? size : 1)});
  });
  return changes;
}

}  // namespace graft::adapters
