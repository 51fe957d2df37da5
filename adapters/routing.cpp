#include "graft/adapters/routing.h"

#include <algorithm>

#include "graft/adapters/adapter.h"

namespace graft::adapters {
namespace {

thread_local const Routing* innermost = nullptr;

Routing checked(Module& model, std::vector<std::string> names, bool by_row) {
  std::vector<std::string> known;
  for_each_module(model, [&](const std::string&, Module& module) {
    if (auto* layer = dynamic_cast<AdapterLayer*>(&module))
      for (auto& name : layer->adapter_names()) known.push_back(std::move(name));
  });
  for (const auto& name : names) {
    if (by_row && name == base_name) continue;
    check(std::find(known.begin(), known.end(), name) != known.end(), "no layer of the model has an adapter '{}'", name);
  }
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
