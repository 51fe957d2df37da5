// The tape: each operation records, beside its forward computation, one rule per input that somebody differentiates.
//
//   Tensor y = …;
//   return record("matmul", y)
//       .wrt(a, [b = saved(b)](const Tensor& dy) { return matmul(dy, b().t()); })
//       .wrt(b, [a = saved(a)](const Tensor& dy) { return matmul(a().t(), dy); });
//
// A rule whose input nobody differentiates is dropped at once, with all that it captured: that is why a frozen layer keeps no
// activations. Edges lead to nodes, never to tensors. Rules are written in public operations, so second derivatives come free.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "graft/core/tensor.h"

namespace graft {

// ---- modes, per thread ----

/// Whether operations are recorded.
bool grad_enabled();

/// Switches recording on or off for a scope.
class GradMode {
 public:
  explicit GradMode(bool enabled);
  ~GradMode();
  GradMode(const GradMode&) = delete;
  GradMode& operator=(const GradMode&) = delete;

 private:
  bool previous_;
};

struct NoGrad : GradMode {
  NoGrad() : GradMode(false) {}
};

// ---- capturing ----

/// A tensor captured by a rule. Reading it after it was changed in place is a ValueError.
class Saved {
 public:
  explicit Saved(Tensor tensor) : tensor_(std::move(tensor)), version_(tensor_.defined() ? tensor_.version() : 0) {}
  const Tensor& operator()() const;

 private:
  Tensor tensor_;
  std::uint64_t version_;
};

/// Every tensor that a rule captures must go through this.
inline Saved saved(Tensor tensor) { return Saved(std::move(tensor)); }

// ---- recording ----

/// Gradients for several inputs at once, in their order; an undefined tensor means zero.
using Gradients = std::vector<Tensor>;
/// (gradient of the result, the result) → gradients of the inputs of this rule.
using Rule = std::function<Gradients(const Tensor& dy, const Tensor& y)>;

class Recorder {
 public:
  Recorder(const char* operation, Tensor y) : operation_(operation), y_(std::move(y)) {}

  /// `rule(dy)` or `rule(dy, y)` gives the gradient for x. It may have a shape that x was broadcast to, or another floating dtype:
  /// the engine sums and casts. A rule that takes y sees the result as computed, attached to the tape only under create_graph.
  template <class F>
  Recorder& wrt(const Tensor& x, F rule) {
    if (!wanted(x)) return *this;
    constexpr bool takes_output = std::is_invocable_v<F&, const Tensor&, const Tensor&>;
    if constexpr (takes_output)
      add(
          {&x, 1}, [rule = std::move(rule)](const Tensor& dy, const Tensor& y) { return Gradients{rule(dy, y)}; }, true);
    else
      add(
          {&x, 1}, [rule = std::move(rule)](const Tensor& dy, const Tensor&) { return Gradients{rule(dy)}; }, false);
    return *this;
  }

  /// One rule for several inputs that share work: `rule(dy)` or `rule(dy, y)` returns Gradients, one per input.
  template <class F>
  Recorder& wrt(std::span<const Tensor> xs, F rule) {
    bool any = false;
    for (const Tensor& x : xs) any = wanted(x) || any;
    if (!any) return *this;
    constexpr bool takes_output = std::is_invocable_v<F&, const Tensor&, const Tensor&>;
    if constexpr (takes_output) add(xs, std::move(rule), true);
    else
      add(
          xs, [rule = std::move(rule)](const Tensor& dy, const Tensor&) { return rule(dy); }, false);
    return *this;
  }
  template <class F>
  Recorder& wrt(std::initializer_list<Tensor> xs, F rule) {
    return wrt(std::span<const Tensor>(xs.begin(), xs.size()), std::move(rule));
  }

  operator Tensor() const { return y_; }

 private:
  static bool wanted(const Tensor& x);
  void add(std::span<const Tensor> xs, Rule rule, bool keeps_output);
  const char* operation_;
  Tensor y_;
};

/// Starts recording the operation that computed `y`, a tensor that nothing else refers to yet.
inline Recorder record(const char* operation, Tensor y) { return Recorder(operation, std::move(y)); }

// ---- differentiating ----

struct BackwardOptions {
  bool retain_graph = false;  // keep the rules, so that backward can run again
  bool create_graph = false;  // record the rules themselves, for second derivatives; implies retain_graph
};

/// The leaves with requires_grad that y depends on.
std::vector<Tensor> leaves(const Tensor& y);

/// Gradients of Σ ⟨outputs, dys⟩ with respect to `inputs` (leaves or not), without touching any grad(). An input that no output
/// depends on gets an undefined tensor. An undefined dy means one, for outputs of one element.
std::vector<Tensor> grad(std::span<const Tensor> outputs, std::span<const Tensor> inputs, std::span<const Tensor> dys = {},
                         const BackwardOptions& options = {});

}  // namespace graft
