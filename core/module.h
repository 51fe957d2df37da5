// Modules: one visit() per class names its parameters, buffers, random generators and children. Parameter lists, state files,
// moving between devices, freezing, printing and adapter injection all follow from it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/rng.h"
#include "graft/core/tensor.h"

namespace graft {

class Visitor;

class Module {
 public:
  virtual ~Module() = default;
  /// The class name as printed: "Linear", "lora.GPTQLoraLinear".
  virtual std::string type_name() const = 0;
  /// What print() puts in parentheses after the type name: "in_features=256, out_features=64".
  virtual std::string description() const { return {}; }
  virtual void visit(Visitor& visitor) = 0;
  /// Moves what visit() does not name, such as packed weights.
  virtual void move_to(Device /*device*/) {}

  bool training() const { return training_; }
  void set_training(bool training) { training_ = training; }

 private:
  bool training_ = false;
};

/// A replaceable child. Seen through this base, a replacement must be a module of the slot's own type.
class SlotBase {
 public:
  virtual ~SlotBase() = default;
  virtual std::shared_ptr<Module> module() const = 0;
  /// Puts another module here; TypeError if it is not of the slot's type (nothing changes then).
  virtual void replace(std::shared_ptr<Module> module) = 0;
};

template <class T>
class Slot final : public SlotBase {
 public:
  Slot() = default;
  Slot(std::shared_ptr<T> module) : module_(std::move(module)) {}
  std::shared_ptr<Module> module() const override { return module_; }
  void replace(std::shared_ptr<Module> module) override {
    auto typed = std::dynamic_pointer_cast<T>(module);
    check<TypeError>(typed != nullptr, "a module of type {} does not fit into this slot", module ? module->type_name() : "null");
    module_ = std::move(typed);
  }
  T* operator->() const { return module_.get(); }
  T& operator*() const { return *module_; }
  const std::shared_ptr<T>& pointer() const { return module_; }
  explicit operator bool() const { return module_ != nullptr; }

 private:
  std::shared_ptr<T> module_;
};

/// Receives what a module holds. Override what you need; everything else is ignored. Undefined tensors are not reported.
class Visitor {
 public:
  virtual ~Visitor() = default;
  virtual void parameter(std::string_view /*name*/, Tensor& /*tensor*/) {}
  virtual void buffer(std::string_view /*name*/, Tensor& /*tensor*/) {}
  /// Neither of the two, but moved with them: what the module computed, or puts in the place of another tensor at times.
  virtual void kept(const Tensor& /*tensor*/) {}
  virtual void generator(std::string_view /*name*/, Generator& /*generator*/) {}
  /// A name may have dots ("layers.3"). The default does not descend.
  virtual void child(std::string_view /*name*/, SlotBase& /*slot*/) {}
};

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

/// All parameters below `root`, in visiting order, with dotted names. Tied tensors appear once, under their first name.
std::vector<NamedTensor> named_parameters(Module& root);
std::vector<NamedTensor> named_buffers(Module& root);
/// Parameters with requires_grad().
std::vector<NamedTensor> trainable(Module& root);

/// Calls f(dotted name, slot) for every child below `root`, parents before children. A slot replaced by f is not descended into.
void for_each_slot(Module& root, const std::function<void(const std::string&, SlotBase&)>& f);
/// Calls f(dotted name, module) for `root` ("") and every module below it.
void for_each_module(Module& root, const std::function<void(const std::string&, Module&)>& f);

/// Sets the mode that dropout and its like look at, in `root` and everything below.
void set_training(Module& root, bool training);
/// requires_grad of every floating parameter.
void set_requires_grad(Module& root, bool requires_grad);
/// Moves all parameters with their gradients, buffers and packed weights, in place: every handle of a tensor moves with it, an optimizer's too
/// (whose moments stay where they are). Tied tensors stay tied. No other thread may use the model meanwhile. When memory runs out, no tensor has
/// moved, but packed weights may have; a second call moves them on or back.
void to(Module& root, Device device);
/// Seeds every generator below `root`: number i gets a key of its own, derived from `seed` and i.
void seed(Module& root, std::uint64_t seed);

/// The tree, one line a module, as PyTorch prints it.
std::string print(Module& root);

}  // namespace graft
