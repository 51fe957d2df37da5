#include "graft/adapters/routing.h"

#include "graft/adapters/adapter.h"

namespace graft::adapters {
namespace {

thread_local const Routing* innermost = nullptr;

Routing checked(Module& model, std::vector<std::string> names, bool by_row) {
  std::vector<bool> known;
  for (const auto& name : names) known.push_back(by_row && name == base_name);
  for_each_module(model, [&](const std::string&, Module& module) {
    const auto* layer = dynamic_cast<const AdapterLayer*>(&module);
    for (std::size_t i = 0; layer && i < names.size(); ++i) known[i] = known[i] || layer->has_adapter(names[i]);
  });
  for (std::size_t i = 0; i < names.size(); ++i) check(known[i], "no layer of the model has an adapter '{}'", names[i]);
  if (by_row) check(!model.training(), "adapters can be chosen per row for inference only, and the model is in training mode");
  return {std::move(names), by_row};
}

}  // namespace

const Routing* routing() { return innermost; }

RoutingGuard::RoutingGuard(Routing routing) : routing_(std::move(routing)), outer_(innermost) { innermost = &routing_; }
RoutingGuard::~RoutingGuard() { innermost = outer_; }

MixedBatch::MixedBatch(Module& model, std::vector<std::string> adapter_names)
    : guard_(checked(model, std::move(adapter_names), true)) {}
UseAdapters::UseAdapters(Module& model, std::vector<std::string> adapter_names)
    : guard_(checked(model, std::move(adapter_names), false)) {}

}  // namespace graft::adapters
