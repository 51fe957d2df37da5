#include "graft/autograd/hook.h"

#include "graft/autograd/tape.h"

namespace graft {

Tensor hook(const Tensor& x, std::function<Tensor(const Tensor& dy)> f) {
  return record("hook", x.detach()).wrt(x, [f = std::move(f)](const Tensor& dy) {
    const Tensor changed = f(dy);
    if (!changed.defined()) return dy;
    check(changed.shape() == dy.shape(), "hook: a gradient of shape {} came back as one of shape {}", dy.shape(),
          changed.shape());
    return changed;
  });
}

}  // namespace graft
