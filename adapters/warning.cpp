#include "graft/adapters/warning.h"

#include <memory>
#include <mutex>

namespace graft::adapters {
namespace {

std::mutex mutex;
std::shared_ptr<const std::function<void(const std::string&)>> handler;
thread_local WarningScope* latest = nullptr;

}  // namespace

void set_warning_handler(std::function<void(const std::string&)> replacement) {
  auto shared = replacement ? std::make_shared<const std::function<void(const std::string&)>>(std::move(replacement)) : nullptr;
  const std::lock_guard lock(mutex);
  handler = std::move(shared);
}

WarningScope::WarningScope() : outer_(latest) { latest = this; }
WarningScope::~WarningScope() { latest = outer_; }

void warn_with(std::string message) {
  for (WarningScope* scope = latest; scope; scope = scope->outer_) scope->messages_.push_back(message);
  std::shared_ptr<const std::function<void(const std::string&)>> current;
  {
    const std::lock_guard lock(mutex);
    current = handler;
  }
  if (current) (*current)(message);
}

}  // namespace graft::adapters
