// What code above this room keeps for the calls of one thread (which adapters they use, say): an immutable chain that guards lengthen.
// Whoever repeats a call later, as gradient checkpointing does, takes the chain of the first time along.
#pragma once

#include <memory>

namespace graft {

struct CallContext {
  std::shared_ptr<const CallContext> outer = nullptr;
  virtual ~CallContext() = default;
};

/// The innermost context of this thread; null outside of any.
const std::shared_ptr<const CallContext>& call_context();

/// Sets it for a scope, null included.
class CallContextGuard {
 public:
  explicit CallContextGuard(std::shared_ptr<const CallContext> context);
  ~CallContextGuard();
  CallContextGuard(const CallContextGuard&) = delete;
  CallContextGuard& operator=(const CallContextGuard&) = delete;

 private:
  std::shared_ptr<const CallContext> previous_;
};

}  // namespace graft
