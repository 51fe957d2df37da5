#include "graft/autograd/checkpoint.h"

#include <algorithm>

#include "graft/autograd/tape.h"
#include "graft/core/autocast.h"
#include "graft/core/call_context.h"
#include "graft/core/tf32.h"

namespace graft {
namespace {

using Function = std::function<Tensor(std::span<const Tensor>)>;

// What f sees beside its inputs.
struct Surroundings {
  std::optional<DType> cpu = autocast::dtype(Device::Type::cpu), cuda = autocast::dtype(Device::Type::cuda);
  bool tf32 = tf32::allowed();
  std::shared_ptr<const CallContext> context = call_context();
  std::vector<Generator*> generators;
  std::vector<Generator> states;

  explicit Surroundings(std::span<Generator* const> used) : generators(used.begin(), used.end()) {
    for (const Generator* generator : generators) states.push_back(*generator);
  }
};

// Puts the surroundings back for a scope.
class Replay {
 public:
  explicit Replay(const Surroundings& then)
      : cpu_(Device::Type::cpu, then.cpu),
        cuda_(Device::Type::cuda, then.cuda),
        tf32_(then.tf32),
        context_(then.context),
        generators_(then.generators),
        states_(then.states) {
    swap();
  }
  ~Replay() { swap(); }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

 private:
  void swap() {
    // What f draws now is not to be drawn by others: they go on from where they were.
    for (std::size_t i = 0; i < generators_.size(); ++i) std::swap(*generators_[i], states_[i]);
  }
  autocast::Guard cpu_, cuda_;
  tf32::Guard tf32_;
  CallContextGuard context_;
  std::vector<Generator*> generators_;
  std::vector<Generator> states_;
};

// Leaves with the data of `inputs`, so that the tape of f ends at them.
std::vector<Tensor> cut(std::span<const Tensor> inputs) {
  std::vector<Tensor> fresh;
  for (const Tensor& x : inputs) {
    if (!x.defined() || !x.requires_grad()) {
      fresh.push_back(x);
      continue;
    }
    fresh.push_back(x.detach());
    fresh.back().set_requires_grad();
  }
  return fresh;
}

}  // namespace

std::vector<Generator*> generators(Module& root) {
  struct Collector final : Visitor {
    std::vector<Generator*> found;
    void generator(std::string_view, Generator& generator) override { found.push_back(&generator); }
  } collector;
  for_each_module(root, [&](const std::string&, Module& module) { module.visit(collector); });
  return std::move(collector.found);
}

Tensor checkpoint(const Function& f, std::span<const Tensor> inputs, std::span<Generator* const> generators) {
  if (!grad_enabled()) return f(inputs);
  const Surroundings then(generators);

  // One recorded run tells which leaves f reads; its tape is dropped at once.
  std::vector<Tensor> sources(inputs.begin(), inputs.end());
  Tensor y;
  {
    const std::vector<Tensor> fresh = cut(inputs);
    y = f(fresh);
    for (const Tensor& leaf : leaves(y))
      if (std::none_of(fresh.begin(), fresh.end(), [&](const Tensor& x) { return x.same(leaf); })) sources.push_back(leaf);
    y = y.detach();
  }
  std::vector<Saved> kept;
  for (const Tensor& x : sources) kept.push_back(saved(x));
  return record("checkpoint", y).wrt(std::span<const Tensor>(sources), [f, then, kept, count = inputs.size()](const Tensor& dy) {
    check<NotImplementedError>(!grad_enabled(), "checkpoint: derivatives of derivatives are not recorded through recomputation");
    std::vector<Tensor> now;
    for (const Saved& x : kept) now.push_back(x());
    std::vector<Tensor> fresh = cut(std::span<const Tensor>(now).first(count));
    Tensor again;
    {
      const GradMode on(true);
      const Replay replay(then);
      again = f(fresh);
    }
    std::copy(fresh.begin(), fresh.end(), now.begin());
    // Retained, since f may have read results of operations that were recorded outside.
    std::vector<Tensor> wanted;
    for (const Tensor& x : now)
      if (x.defined() && x.requires_grad()) wanted.push_back(x);
    const std::vector<Tensor> found = grad({&again, 1}, wanted, {&dy, 1}, {.retain_graph = true});
    Gradients gradients(now.size());
    std::size_t next = 0;
    for (std::size_t i = 0; i < now.size(); ++i)
      if (now[i].defined() && now[i].requires_grad()) gradients[i] = found[next++];
    return gradients;
  });
}

}  // namespace graft
