// Warnings: what PEFT would print reaches a handler of the host program (silent by default) and the report of the call at hand.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "graft/core/error.h"

namespace graft::adapters {

/// Replaces the process-wide handler; an empty one is silent, as at the start.
void set_warning_handler(std::function<void(const std::string&)> handler);

/// Gathers what is warned about in this thread while it lives; scopes nest, and every one hears all.
class WarningScope {
 public:
  WarningScope();
  ~WarningScope();
  WarningScope(const WarningScope&) = delete;
  WarningScope& operator=(const WarningScope&) = delete;
  const std::vector<std::string>& messages() const { return messages_; }

 private:
  friend void warn_with(std::string message);
  std::vector<std::string> messages_;
  WarningScope* outer_;
};

void warn_with(std::string message);

template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  warn_with(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace graft::adapters
