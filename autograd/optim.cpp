#include "graft/autograd/optim.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <set>

#include "graft/autograd/compute.h"
#include "graft/autograd/ops.h"
#include "graft/core/parallel.h"

namespace graft {
namespace {

// Elements that one thread updates at a time.
constexpr std::int64_t grain = 1 << 14;

void require_range(const char* what, const char* option, double value, double below = std::numeric_limits<double>::infinity()) {
  check(value >= 0 && value < below, "{}: {} is {}, which is not in [0, {})", what, option, value, below);
}

void validate(const AdamWOptions& o) {
  require_range("AdamW", "lr", o.lr);
  require_range("AdamW", "beta1", o.beta1, 1);
  require_range("AdamW", "beta2", o.beta2, 1);
  require_range("AdamW", "eps", o.eps);
  require_range("AdamW", "weight_decay", o.weight_decay);
}

void validate(const SGDOptions& o) {
  require_range("SGD", "lr", o.lr);
  require_range("SGD", "momentum", o.momentum);
  require_range("SGD", "weight_decay", o.weight_decay);
  check(!o.nesterov || o.momentum > 0, "SGD: nesterov needs a momentum above 0");
}

template <class Group>
void validate(const std::vector<Group>& groups, const char* what) {
  std::set<std::string> names;
  for (const Group& group : groups) {
    validate(group.options);
    for (const auto& [name, tensor] : group.parameters) {
      check(tensor.defined(), "{}: parameter {} is undefined", what, name);
      check<TypeError>(is_floating(tensor.dtype()), "{}: parameter {} has elements of type {}", what, name, tensor.dtype());
      check(!tensor.storage()->read_only(), "{}: parameter {} views memory that is only readable", what, name);
      check(names.insert(name).second, "{}: parameter {} is given twice", what, name);
    }
  }
}

template <class Group>
std::vector<NamedTensor> all_parameters(const std::vector<Group>& groups) {
  std::vector<NamedTensor> all;
  for (const Group& group : groups) all.insert(all.end(), group.parameters.begin(), group.parameters.end());
  return all;
}

Tensor state_for(const Tensor& p) { return Tensor::zeros(p.shape(), compute::wide(p.dtype()), p.device()); }

// Copies the entries of `given` into `own`, after checking that they are the same set of names, shapes and dtypes.
void restore(const std::vector<NamedTensor>& own, const std::vector<NamedTensor>& given, const char* what) {
  std::vector<const Tensor*> sources;
  const auto find = [](const std::vector<NamedTensor>& all, const std::string& name) {
    return std::find_if(all.begin(), all.end(), [&](const NamedTensor& entry) { return entry.name == name; });
  };
  for (const auto& [name, tensor] : own) {
    const auto found = find(given, name);
    check(found != given.end(), "{}: the state has no entry {}", what, name);
    check(found->tensor.shape() == tensor.shape() && found->tensor.dtype() == tensor.dtype(),
          "{}: state entry {} is {}{}, wanted {}{}", what, name, found->tensor.dtype(), found->tensor.shape(), tensor.dtype(),
          tensor.shape());
    sources.push_back(&found->tensor);
  }
  for (const auto& [name, tensor] : given)
    check(find(own, name) != own.end(), "{}: the state has an entry {} that belongs to no parameter", what, name);
  check(given.size() == own.size(), "{}: the state names an entry twice", what);
  for (std::size_t i = 0; i < own.size(); ++i) own[i].tensor.copy_(*sources[i]);
}

// One pass over a parameter on the CPU: update(p, g, i), in f32 or f64, gives the new value of element i.
template <class Update>
void sweep(const Tensor& p, const Tensor& grad, const Update& update) {
  dispatch(p.dtype(), FloatingTypes{}, "step", [&]<class T>() {
    using Wide = Accumulator<T>;
    T* values = p.data<T>();
    const T* gradients = grad.data<T>();
    parallel_ranges(p.count(), grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        values[i] = static_cast<T>(update(static_cast<Wide>(values[i]), static_cast<Wide>(gradients[i]), i));
    });
  });
  p.bump_version();
}

bool swept(const Tensor& p) { return p.device().is_cpu() && p.is_contiguous(); }

}  // namespace

void Optimizer::zero_grad() {
  for (const auto& [name, tensor] : parameters()) tensor.set_grad({});
}

// ---- AdamW ----

namespace {

// The numbers of one step, in torch's order of operations.
struct AdamWStep {
  double decay, beta1, beta2, step_size, root, eps;
  AdamWStep(const AdamWOptions& o, double lr, std::int64_t t)
      : decay(1 - lr * o.weight_decay),
        beta1(o.beta1),
        beta2(o.beta2),
        step_size(lr / (1 - std::pow(o.beta1, static_cast<double>(t)))),
        root(std::sqrt(1 - std::pow(o.beta2, static_cast<double>(t)))),
        eps(o.eps) {}
};

template <class Wide>
void sweep_adamw(const AdamWStep& s, const Tensor& p, const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq) {
  Wide *m = exp_avg.data<Wide>(), *v = exp_avg_sq.data<Wide>();
  const auto decay = static_cast<Wide>(s.decay), keep1 = static_cast<Wide>(1 - s.beta1), beta2 = static_cast<Wide>(s.beta2),
             keep2 = static_cast<Wide>(1 - s.beta2), size = static_cast<Wide>(-s.step_size), root = static_cast<Wide>(s.root),
             eps = static_cast<Wide>(s.eps);
  sweep(p, grad, [=](Wide x, Wide g, std::int64_t i) {
    m[i] += keep1 * (g - m[i]);
    v[i] = v[i] * beta2 + keep2 * g * g;
    return x * decay + size * m[i] / (std::sqrt(v[i]) / root + eps);
  });
  exp_avg.bump_version();
  exp_avg_sq.bump_version();
}

// The same step in operations, for other devices and for parameters that are views.
void compose_adamw(const AdamWStep& s, const Tensor& p, const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq) {
  const Tensor x = to(p, exp_avg.dtype()), g = to(grad, exp_avg.dtype());
  exp_avg.copy_(exp_avg + (g - exp_avg) * (1 - s.beta1));
  exp_avg_sq.copy_(exp_avg_sq * s.beta2 + g * (1 - s.beta2) * g);
  p.copy_(x * s.decay + exp_avg * -s.step_size / (sqrt(exp_avg_sq) / s.root + s.eps));
}

}  // namespace

AdamW::AdamW(std::vector<NamedTensor> parameters, const AdamWOptions& options)
    : AdamW(std::vector<Group>{{std::move(parameters), options}}) {}

AdamW::AdamW(std::vector<Group> groups) : groups_(std::move(groups)) {
  validate(groups_, "AdamW");
  for (const Group& group : groups_) {
    auto& moments = moments_.emplace_back();
    for (const auto& [name, tensor] : group.parameters) moments.push_back({state_for(tensor), state_for(tensor), 0});
  }
}

void AdamW::step() {
  const NoGrad off;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    const auto& [parameters, options] = groups_[i];
    for (std::size_t j = 0; j < parameters.size(); ++j) {
      const Tensor& p = parameters[j].tensor;
      if (!p.grad().defined()) continue;
      auto& [exp_avg, exp_avg_sq, steps] = moments_[i][j];
      const AdamWStep step(options, options.lr * lr_scale_, ++steps);
      const Tensor grad = to(p.grad(), p.dtype());
      if (!swept(p)) compose_adamw(step, p, grad, exp_avg, exp_avg_sq);
      else if (p.dtype() == DType::f64) sweep_adamw<double>(step, p, contiguous(grad), exp_avg, exp_avg_sq);
      else sweep_adamw<float>(step, p, contiguous(grad), exp_avg, exp_avg_sq);
    }
  }
}

std::vector<NamedTensor> AdamW::state() const {
  std::vector<NamedTensor> state;
  for (std::size_t i = 0; i < groups_.size(); ++i)
    for (std::size_t j = 0; j < groups_[i].parameters.size(); ++j) {
      const std::string& name = groups_[i].parameters[j].name;
      const auto& [exp_avg, exp_avg_sq, steps] = moments_[i][j];
      state.push_back({name + ".exp_avg", exp_avg});
      state.push_back({name + ".exp_avg_sq", exp_avg_sq});
      state.push_back({name + ".step", Tensor::from(std::vector<std::int64_t>{steps}, {})});
    }
  return state;
}

void AdamW::load_state(const std::vector<NamedTensor>& given) {
  const std::vector<NamedTensor> own = state();
  restore(own, given, "AdamW");
  auto entry = own.begin();
  for (auto& moments : moments_)
    for (Moments& m : moments) {
      m.steps = entry[2].tensor.data<std::int64_t>()[0];  // state() made this tensor, restore() filled it
      entry += 3;
    }
}

std::vector<NamedTensor> AdamW::parameters() const { return all_parameters(groups_); }

// ---- SGD ----

namespace {

template <class Wide>
void sweep_sgd(const SGDOptions& o, double lr, const Tensor& p, const Tensor& grad, const Tensor& momentum) {
  Wide* buffer = momentum.defined() ? momentum.data<Wide>() : nullptr;
  const auto decay = static_cast<Wide>(o.weight_decay), keep = static_cast<Wide>(o.momentum), size = static_cast<Wide>(-lr);
  const bool nesterov = o.nesterov;
  sweep(p, grad, [=](Wide x, Wide g, std::int64_t i) {
    Wide d = g + decay * x;
    if (buffer) {
      buffer[i] = keep * buffer[i] + d;
      d = nesterov ? d + keep * buffer[i] : buffer[i];
    }
    return x + size * d;
  });
  if (buffer) momentum.bump_version();
}

void compose_sgd(const SGDOptions& o, double lr, const Tensor& p, const Tensor& grad, const Tensor& momentum) {
  const DType wide = compute::wide(p.dtype());
  const Tensor x = to(p, wide);
  Tensor d = to(grad, wide) + x * o.weight_decay;
  if (momentum.defined()) {
    momentum.copy_(momentum * o.momentum + d);
    d = o.nesterov ? d + momentum * o.momentum : momentum;
  }
  p.copy_(x + d * -lr);
}

}  // namespace

SGD::SGD(std::vector<NamedTensor> parameters, const SGDOptions& options)
    : SGD(std::vector<Group>{{std::move(parameters), options}}) {}

SGD::SGD(std::vector<Group> groups) : groups_(std::move(groups)) {
  validate(groups_, "SGD");
  for (const Group& group : groups_) {
    auto& momentum = momentum_.emplace_back();
    for (const auto& [name, tensor] : group.parameters)
      momentum.push_back(group.options.momentum > 0 ? state_for(tensor) : Tensor());
  }
}

void SGD::step() {
  const NoGrad off;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    const auto& [parameters, options] = groups_[i];
    const double lr = options.lr * lr_scale_;
    for (std::size_t j = 0; j < parameters.size(); ++j) {
      const Tensor &p = parameters[j].tensor, &momentum = momentum_[i][j];
      if (!p.grad().defined()) continue;
      const Tensor grad = to(p.grad(), p.dtype());
      if (!swept(p)) compose_sgd(options, lr, p, grad, momentum);
      else if (p.dtype() == DType::f64) sweep_sgd<double>(options, lr, p, contiguous(grad), momentum);
      else sweep_sgd<float>(options, lr, p, contiguous(grad), momentum);
    }
  }
}

std::vector<NamedTensor> SGD::state() const {
  std::vector<NamedTensor> state;
  for (std::size_t i = 0; i < groups_.size(); ++i)
    for (std::size_t j = 0; j < groups_[i].parameters.size(); ++j)
      if (momentum_[i][j].defined()) state.push_back({groups_[i].parameters[j].name + ".momentum", momentum_[i][j]});
  return state;
}

void SGD::load_state(const std::vector<NamedTensor>& given) { restore(state(), given, "SGD"); }

std::vector<NamedTensor> SGD::parameters() const { return all_parameters(groups_); }

// ---- gradients and schedules ----

namespace {

// Σ x² in f64, chunk by chunk in their order.
double squared_sum(const Tensor& x) {
  if (!x.device().is_cpu()) {
    const Tensor wide = to(x, DType::f64);
    return sum(mul(wide, wide)).item();
  }
  const Tensor dense = contiguous(x);
  std::vector<double> parts(static_cast<std::size_t>((x.count() + grain - 1) / grain));
  dispatch(x.dtype(), FloatingTypes{}, "clip_grad_norm", [&]<class T>() {
    const T* values = dense.data<T>();
    parallel_ranges(x.count(), grain, [&](std::int64_t begin, std::int64_t end) {
      double part = 0;
      for (std::int64_t i = begin; i < end; ++i) {
        const auto value = static_cast<double>(values[i]);
        part += value * value;
      }
      parts[static_cast<std::size_t>(begin / grain)] = part;
    });
  });
  double total = 0;
  for (double part : parts) total += part;
  return total;
}

// Up over `warmup` steps, then `down` of the part of the rest that is over.
template <class Down>
double scheduled(std::int64_t step, std::int64_t warmup, std::int64_t total, Down down) {
  auto ratio = [](std::int64_t a, std::int64_t b) { return static_cast<double>(a) / static_cast<double>(b); };
  if (step < warmup) return ratio(step, warmup);
  return down(step >= total ? 1 : ratio(step - warmup, total - warmup));
}

}  // namespace

double clip_grad_norm(const std::vector<NamedTensor>& parameters, double max_norm) {
  check(max_norm >= 0, "clip_grad_norm: max_norm = {}, and a number from 0 is wanted", max_norm);
  const NoGrad off;
  double squares = 0;
  for (const auto& [name, p] : parameters)
    if (p.grad().defined()) squares += squared_sum(p.grad());
  const double norm = std::sqrt(squares);
  const double scale = max_norm / (norm + 1e-6);
  if (max_norm > 0 && scale < 1)
    for (const auto& [name, p] : parameters)
      // A new tensor: gradients may share their storage with each other.
      if (p.grad().defined()) p.set_grad(p.grad() * scale);
  return norm;
}

double linear_schedule(std::int64_t step, std::int64_t warmup, std::int64_t total) {
  return scheduled(step, warmup, total, [](double over) { return 1 - over; });
}

double cosine_schedule(std::int64_t step, std::int64_t warmup, std::int64_t total) {
  return scheduled(step, warmup, total, [](double over) { return 0.5 * (1 + std::cos(std::numbers::pi * over)); });
}

}  // namespace graft
