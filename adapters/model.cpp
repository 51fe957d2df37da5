#include "graft/adapters/model.h"

#include <algorithm>
#include <map>

#include "graft/adapters/inject.h"
#include "graft/adapters/warning.h"
#include "graft/adapters/wrappers.h"

namespace graft::adapters {
namespace {

std::string join(const std::string& prefix, std::string_view name) {
  return prefix.empty() ? std::string(name) : fmt::format("{}.{}", prefix, name);
}

/// Descends through plain modules; an adapted layer is reported, and of its parts only the base is entered.
struct BaseWalker : Visitor {
  std::string prefix;
  bool in_layer = false;  // the tensors reported now are an adapter's

  void enter(Module& module) {
    const bool outer = in_layer;
    auto* layer = dynamic_cast<AdapterLayer*>(&module);
    in_layer = layer != nullptr;
    if (!layer || layer_found(*layer)) module.visit(*this);
    in_layer = outer;
  }
  void parameter(std::string_view name, Tensor& tensor) override {
    if (!in_layer) parameter_found(name, tensor);
  }
  void child(std::string_view name, SlotBase& slot) override {
    const auto module = slot.module();
    if (!module) return;
    const std::string outer = prefix;
    prefix = join(prefix, name);
    enter(*module);
    prefix = outer;
  }
  /// Whether to enter its base.
  virtual bool layer_found(AdapterLayer&) { return true; }
  virtual void parameter_found(std::string_view, Tensor&) {}
};

void check_known(Module& model, const std::vector<std::string>& names) {
  const auto known = adapter_names(model);
  for (const auto& name : names)
    check(std::find(known.begin(), known.end(), name) != known.end(), "there is no adapter '{}' in this model, only {}", name,
          fmt::join(known, ", "));
}

void check_mergeable(Module& model) {
  for_each_layer(model, [](const std::string& path, AdapterLayer& layer) {
    const auto* quantized = dynamic_cast<const quant::QuantLinear*>(&innermost(layer));
    if (!quantized) return;
    const auto& method = quantized->format().method;
    check(method != "gptq", "{}: adapters cannot be merged into a model that is quantized with GPTQ", path);
    if (method == "eetq") refuse_eetq_merge();
    fail<NotImplementedError>("{}: adapters cannot be merged into packed {} weights", path, method);
  });
}

/// What belongs in place of a parameter that some adapter has a trained copy of: the original, or the copy of an adapter in use.
struct Place {
  Tensor tensor;
  std::string adapter = {};
  bool trainable = false;
};
using Places = std::map<std::string, Place>;

/// ValueError if two adapters in use have a copy of the same parameter. In use are the active ones, or those that are `chosen` instead.
Places places(Module& model, const std::vector<std::string>* chosen = nullptr) {
  Places wanted;
  for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
    for (const auto& [name, adapter, record, in_use, trainable] : layer.adapters()) {
      if (!record) continue;
      for (const auto& saved : record->saved) {
        Place& place = wanted[saved.path];
        if (!place.tensor.defined()) place.tensor = saved.original;
        if (chosen ? std::find(chosen->begin(), chosen->end(), name) == chosen->end() : !in_use) continue;
        check(place.adapter.empty() || place.adapter == name,
              "{}: adapters '{}' and '{}' both have a trained copy of it; only one can be active", saved.path, place.adapter,
              name);
        place = {saved.copy, name, trainable};
      }
    }
  });
  return wanted;
}

void restore_base_layers(Module& model) {
  for_each_slot(model, [](const std::string&, SlotBase& slot) {
    auto module = slot.module();
    while (const auto layer = std::dynamic_pointer_cast<AdapterLayer>(module)) module = layer->base_layer();
    if (module != slot.module()) slot.replace(module);
  });
}

}  // namespace

void for_each_layer(Module& model, const std::function<void(const std::string&, AdapterLayer&)>& f) {
  struct Layers final : BaseWalker {
    const std::function<void(const std::string&, AdapterLayer&)>* f;
    bool layer_found(AdapterLayer& layer) override { return (*f)(prefix, layer), false; }
  } walker;
  walker.f = &f;
  walker.enter(model);
}

void for_each_base_parameter(Module& model, const std::function<void(const std::string&, Tensor&)>& f) {
  struct Parameters final : BaseWalker {
    const std::function<void(const std::string&, Tensor&)>* f;
    void parameter_found(std::string_view name, Tensor& tensor) override { (*f)(join(prefix, name), tensor); }
  } walker;
  walker.f = &f;
  walker.enter(model);
}

std::string plain_path(std::string path) {
  constexpr std::string_view wrapper = ".base_layer.";
  for (std::size_t at; (at = path.find(wrapper)) != std::string::npos;) path.erase(at, wrapper.size() - 1);
  return path;
}

std::map<std::string, Tensor> originals(Module& model) {
  std::map<std::string, Tensor> found;
  for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
    for (const auto& named : layer.adapters())
      if (named.record)
        for (const auto& saved : named.record->saved) found.emplace(saved.path, saved.original);
  });
  return found;
}

std::vector<std::string> adapter_names(Module& model) {
  std::vector<std::string> names;
  for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
    for (auto& name : layer.adapter_names())
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
  });
  return names;
}

void set_adapter(Module& model, const std::vector<std::string>& names, std::optional<bool> inference_mode) {
  check_known(model, names);
  static_cast<void>(places(model, &names));  // refuses before anything is changed
  for_each_layer(model, [&](const std::string& path, AdapterLayer& layer) {
    if (!layer.merged_adapters().empty()) {
      warn("{}: merged adapters are taken out before others become active", path);
      layer.unmerge();
    }
    layer.set_adapter(names, inference_mode);
  });
  place_saved_parameters(model);
}

void enable_adapters(Module& model, bool enabled) {
  for_each_layer(model, [&](const std::string&, AdapterLayer& layer) { layer.enable_adapters(enabled); });
  place_saved_parameters(model);
}

void delete_adapter(Module& model, const std::string& name) {
  check_known(model, {name});
  for_each_layer(model, [&](const std::string& path, AdapterLayer& layer) {
    const auto merged = layer.merged_adapters();
    check(std::find(merged.begin(), merged.end(), name) == merged.end(),
          "{}: adapter '{}' is merged; unmerge it before deleting it", path, name);
  });
  const auto before = originals(model);
  // The name goes out of every layer's active ones, whether the layer has such an adapter or not; where none is left, all of these layers
  // turn to the same.
  std::vector<AdapterLayer*> emptied;
  for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
    if (layer.replace_active(name, {})) emptied.push_back(&layer);
    if (layer.has_adapter(name)) layer.delete_adapter(name);
  });
  if (const auto left = emptied.empty() ? std::vector<std::string>() : adapter_names(model); !left.empty()) {
    const std::string& successor = *std::min_element(left.begin(), left.end());
    for (AdapterLayer* layer : emptied) layer->set_adapter({successor});
    warn("adapter '{}' was active and is gone; '{}' is active now", name, successor);
  }
  if (before.empty()) return;
  for_each_base_parameter(model, [&](const std::string& path, Tensor& tensor) {
    if (const auto found = before.find(plain_path(path)); found != before.end()) tensor = found->second;
  });
  place_saved_parameters(model);
}

void rename_adapter(Module& model, const std::string& from, const std::string& to) {
  check_known(model, {from});
  const auto known = adapter_names(model);
  check(from == to || std::find(known.begin(), known.end(), to) == known.end(), "there is an adapter '{}' already", to);
  std::vector<AdapterLayer*> others;
  for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
    if (layer.has_adapter(from)) layer.rename_adapter(from, to);
    else others.push_back(&layer);
  });
  for (AdapterLayer* layer : others) layer->replace_active(from, to);
}

void merge_adapter(Module& model, bool safe_merge, const std::optional<std::vector<std::string>>& names) {
  check_mergeable(model);
  if (names) check_known(model, *names);
  std::vector<std::pair<AdapterLayer*, std::vector<std::string>>> done;  // with what was merged before
  try {
    for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
      std::vector<std::string> here;
      for (const auto& name : names ? *names : layer.active_adapters())
        if (layer.has_adapter(name)) here.push_back(name);
      if (here.empty()) return;
      auto before = layer.merged_adapters();
      layer.merge(safe_merge, here);
      if (layer.merged_adapters() != before) done.emplace_back(&layer, std::move(before));
    });
  } catch (...) {
    for (const auto& [layer, before] : done) {
      layer->unmerge();
      if (!before.empty()) layer->merge(false, before);
    }
    throw;
  }
}

void unmerge_adapter(Module& model) {
  for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
    if (!layer.merged_adapters().empty()) layer.unmerge();
  });
}

void merge_and_unload(Module& model, bool safe_merge, const std::optional<std::vector<std::string>>& names) {
  merge_adapter(model, safe_merge, names);
  restore_base_layers(model);
}

void unload(Module& model) {
  unmerge_adapter(model);
  enable_adapters(model, false);
  restore_base_layers(model);
}

void place_saved_parameters(Module& model) {
  const Places wanted = places(model);
  if (wanted.empty()) return;
  for_each_base_parameter(model, [&](const std::string& path, Tensor& tensor) {
    const auto found = wanted.find(plain_path(path));
    if (found == wanted.end()) return;
    tensor = found->second.tensor;
    if (!found->second.adapter.empty()) tensor.set_requires_grad(found->second.trainable);
  });
}

}  // namespace graft::adapters
