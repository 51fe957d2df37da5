#include "graft/core/tf32.h"

#include <utility>

namespace graft::tf32 {
namespace {

bool& current() {
  thread_local bool allow = false;
  return allow;
}

}  // namespace

bool allowed() { return current(); }

Guard::Guard(bool allow) : previous_(std::exchange(current(), allow)) {}
Guard::~Guard() { current() = previous_; }

}  // namespace graft::tf32
