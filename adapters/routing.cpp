#include "graft/adapters/routing.h"

#include <map>
#include <set>

#include "graft/adapters/inject.h"

namespace graft::adapters {
namespace {

/// What the layers of a model say about one of their adapters.
struct Known {
  bool copies = false;  // it trains copies of the model's own parameters
  bool in_place = false;
};

Routing checked(Module& model, std::vector<std::string> names, bool by_row) {
  std::map<std::string, Known> adapters;
  for_each_module(model, [&](const std::string&, Module& module) {
    const auto* layer = dynamic_cast<const AdapterLayer*>(&module);
    if (!layer) return;
    for (const auto& [name, adapter, record, in_use, trainable] : layer->adapters()) {
      Known& known = adapters[name];
      known.copies = known.copies || (record && !record->saved.empty());
      known.in_place = known.in_place || in_use;
    }
  });
  const std::set<std::string> chosen(names.begin(), names.end());
  for (const auto& name : chosen) {
    if (by_row && name == base_name) continue;
    const auto found = adapters.find(name);
    check(found != adapters.end(), "no layer of the model has an adapter '{}'", name);
    check(
        !found->second.copies || found->second.in_place,
        "adapter '{}' has trained copies of the model's own parameters (modules_to_save, bias), which are not in place; activate "
        "it for all calls with set_adapter() instead",
        name);
  }
  for (const auto& [name, known] : adapters) {
    const bool by_all = by_row ? chosen.size() <= 1 && (chosen.empty() || chosen.count(name)) : chosen.count(name) != 0;
    check(
        !known.copies || !known.in_place || by_all,
        "trained copies of the model's own parameters (modules_to_save, bias) are in place for adapter '{}', which not every row "
        "chooses; deactivate it first",
        name);
  }
  if (by_row) check(!model.training(), "adapters can be chosen per row for inference only, and the model is in training mode");
  return {std::move(names), by_row};
}

}  // namespace

const Routing* routing() {
  for (const CallContext* context = call_context().get(); context; context = context->outer.get())
    if (const auto* found = dynamic_cast<const Routing*>(context)) return found;
  return nullptr;
}

RoutingGuard::RoutingGuard(Routing routing)
    : guard_([&] {
        auto inner = std::make_shared<Routing>(std::move(routing));
        inner->outer = call_context();
        return inner;
      }()) {}

MixedBatch::MixedBatch(Module& model, std::vector<std::string> adapter_names)
    : guard_(checked(model, std::move(adapter_names), true)) {}
UseAdapters::UseAdapters(Module& model, std::vector<std::string> adapter_names)
    : guard_(checked(model, std::move(adapter_names), false)) {}

}  // namespace graft::adapters
