#include "graft/core/module.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

namespace graft {
namespace {

// Two tensors are tied when they are the same view of the same storage.
using Identity = std::tuple<const void*, std::int64_t, std::size_t>;
Identity identity(const Tensor& t) {
  std::size_t layout = 0;
  for (auto extent : t.shape()) layout = layout * 1000003 + static_cast<std::size_t>(extent);
  for (auto stride : t.strides()) layout = layout * 1000003 + static_cast<std::size_t>(stride);
  return {t.storage().get(), t.offset(), layout};
}

std::string join(const std::string& prefix, std::string_view name) {
  return prefix.empty() ? std::string(name) : fmt::format("{}.{}", prefix, name);
}

// Visits the whole tree with dotted names; subclasses override what they collect.
class Walker : public Visitor {
 public:
  void walk(Module& module) {
    entered(prefix_, module);
    module.visit(*this);
    left();
  }
  void parameter(std::string_view name, Tensor& tensor) override { tensor_found(name, tensor, true); }
  void buffer(std::string_view name, Tensor& tensor) override { tensor_found(name, tensor, false); }
  void child(std::string_view name, SlotBase& slot) override {
    const std::string outer = prefix_;
    prefix_ = join(outer, name);
    if (slot_found(prefix_, slot))
      if (auto module = slot.module()) walk(*module);
    prefix_ = outer;
  }

 protected:
  virtual void entered(const std::string& /*name*/, Module& /*module*/) {}
  virtual void left() {}
  virtual void tensor_found(std::string_view /*name*/, Tensor& /*tensor*/, bool /*is_parameter*/) {}
  /// Whether to descend.
  virtual bool slot_found(const std::string& /*name*/, SlotBase& /*slot*/) { return true; }
  /// The dotted name of something in the module that is being visited.
  std::string path(std::string_view name) const { return join(prefix_, name); }

 private:
  std::string prefix_;
};

std::vector<NamedTensor> collect(Module& root, bool parameters) {
  struct Collector final : Walker {
    bool parameters;
    std::vector<NamedTensor> found;
    std::set<Identity> seen;
    void tensor_found(std::string_view name, Tensor& tensor, bool is_parameter) override {
      if (is_parameter == parameters && seen.insert(identity(tensor)).second) found.push_back({path(name), tensor});
    }
  } collector;
  collector.parameters = parameters;
  collector.walk(root);
  return std::move(collector.found);
}

}  // namespace

std::vector<NamedTensor> named_parameters(Module& root) { return collect(root, true); }
std::vector<NamedTensor> named_buffers(Module& root) { return collect(root, false); }

std::vector<NamedTensor> trainable(Module& root) {
  std::vector<NamedTensor> all = named_parameters(root);
  std::erase_if(all, [](const NamedTensor& p) { return !p.tensor.requires_grad(); });
  return all;
}

void for_each_slot(Module& root, const std::function<void(const std::string&, SlotBase&)>& f) {
  struct Slots final : Walker {
    const std::function<void(const std::string&, SlotBase&)>* f;
    bool slot_found(const std::string& name, SlotBase& slot) override {
      const auto before = slot.module();
      (*f)(name, slot);
      return slot.module() == before;
    }
  } slots;
  slots.f = &f;
  slots.walk(root);
}

void for_each_module(Module& root, const std::function<void(const std::string&, Module&)>& f) {
  struct Modules final : Walker {
    const std::function<void(const std::string&, Module&)>* f;
    void entered(const std::string& name, Module& module) override { (*f)(name, module); }
  } modules;
  modules.f = &f;
  modules.walk(root);
}

void set_training(Module& root, bool training) {
  for_each_module(root, [&](const std::string&, Module& module) { module.set_training(training); });
}

void set_requires_grad(Module& root, bool requires_grad) {
  for (NamedTensor& p : named_parameters(root))
    if (is_floating(p.tensor.dtype())) p.tensor.set_requires_grad(requires_grad);
}

void to(Module& root, Device device) {
  struct Mover final : Walker {
    struct Move {
      Tensor tensor, there, grad;
    };
    Device device;
    std::map<Identity, Tensor> copies;
    std::vector<Move> moves;
    Tensor copied(const Tensor& tensor) const {
      if (!tensor.defined()) return {};
      const Tensor there = Tensor::empty(tensor.shape(), tensor.dtype(), device);
      there.copy_(tensor);
      return there;
    }
    void entered(const std::string&, Module& module) override { module.move_to(device); }
    void tensor_found(std::string_view, Tensor& tensor, bool) override { kept(tensor); }
    void kept(const Tensor& tensor) override {
      if (!tensor.defined() || tensor.device() == device) return;
      Tensor& there = copies[identity(tensor)];
      if (!there.defined()) there = copied(tensor);
      moves.push_back({tensor, there, copied(tensor.grad())});
    }
  } mover;
  mover.device = device;
  mover.walk(root);
  for (const auto& [tensor, there, grad] : mover.moves) {
    tensor.set_data(there);
    tensor.set_grad(grad);
  }
}

void seed(Module& root, std::uint64_t seed) {
  struct Seeder final : Walker {
    std::uint64_t seed, count = 0;
    void generator(std::string_view, Generator& generator) override {
      // A key per generator, drawn from Philox itself so that neighbours share nothing.
      const auto words = random_block(seed, ~std::uint64_t{0}, count++);
      generator = {(std::uint64_t{words[1]} << 32) | words[0], 0};
    }
  } seeder;
  seeder.seed = seed;
  seeder.walk(root);
}

std::string print(Module& root) {
  struct Printer final : Visitor {
    std::string text;
    int depth = 0;
    void print(Module& module) {
      text += fmt::format("{}({})", module.type_name(), module.description());
      const std::size_t before = text.size();
      ++depth;
      module.visit(*this);
      --depth;
      if (text.size() != before) text += fmt::format("\n{:{}})", "", 2 * depth), text.insert(before, " (");
    }
    void child(std::string_view name, SlotBase& slot) override {
      text += fmt::format("\n{:{}}({}): ", "", 2 * depth, name);
      if (auto module = slot.module()) print(*module);
      else text += "none";
    }
  } printer;
  printer.print(root);
  return printer.text;
}

}  // namespace graft
