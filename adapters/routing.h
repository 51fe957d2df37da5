// Choosing adapters per call: guards that hold for this thread and leave the layers as they are, so that threads which serve
// different users can share one model. Layers that are switched off (enable_adapters) stay their base all the same.
#pragma once

#include <string>
#include <vector>

#include "graft/core/call_context.h"
#include "graft/core/module.h"

namespace graft::adapters {

/// The name that stands for "no adapter" in a mixed batch.
inline constexpr const char* base_name = "__base__";

/// Which adapters this thread's forward calls use.
struct Routing final : CallContext {
  std::vector<std::string> names;
  bool by_row;            // names[i] is for x[i]; otherwise all names are applied to everything, in their order
  bool when_off = false;  // also in layers that are switched off, which otherwise are their base
  Routing(std::vector<std::string> names, bool by_row, bool when_off = false)
      : names(std::move(names)), by_row(by_row), when_off(when_off) {}
};

/// The innermost guard of this thread; null outside of any.
const Routing* routing();

class RoutingGuard {
 public:
  explicit RoutingGuard(Routing routing);

 private:
  CallContextGuard guard_;
};

/// A batch in which row i goes through the adapter adapter_names[i] (base_name: none), while the guard lives. Inference only:
/// ValueError for a name that no layer of the model has, when the model is in training mode, and for adapters with trained copies of the
/// model's own parameters (modules_to_save, bias) unless they are in place and all rows choose that one.
class MixedBatch {
 public:
  MixedBatch(Module& model, std::vector<std::string> adapter_names);

 private:
  RoutingGuard guard_;
};

/// Calls of this thread use these adapters instead of the active ones. ValueError for a name that no layer of the model has, for an
/// adapter with trained copies of the model's own parameters (modules_to_save, bias) that are not in place, and where those of another
/// adapter are.
class UseAdapters {
 public:
  UseAdapters(Module& model, std::vector<std::string> adapter_names);

 private:
  RoutingGuard guard_;
};

}  // namespace graft::adapters
