#include "graft/core/call_context.h"

#include <utility>

namespace graft {
namespace {

std::shared_ptr<const CallContext>& current() {
  thread_local std::shared_ptr<const CallContext> context;
  return context;
}

}  // namespace

const std::shared_ptr<const CallContext>& call_context() { return current(); }

CallContextGuard::CallContextGuard(std::shared_ptr<const CallContext> context)
    : previous_(std::exchange(current(), std::move(context))) {}
CallContextGuard::~CallContextGuard() { current() = std::move(previous_); }

}  // namespace graft
