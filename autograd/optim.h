// Optimizers (torch's AdamW and SGD, number for number), gradient clipping, and learning-rate schedules.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "graft/core/module.h"

namespace graft {

/// What can be set per group of parameters. Plain aggregates: {.lr = 2e-4}.
struct AdamWOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 1e-2;
};
struct SGDOptions {
  double lr = 1e-3;
  double momentum = 0;
  double weight_decay = 0;
  bool nesterov = false;
};

/// Common to both: groups of leaves, and a state that can be saved. State tensors are f32 (f64 for f64 parameters).
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// One update from the grad() of every parameter; those without one are left alone.
  virtual void step() = 0;
  void zero_grad();
  /// Multiplies every group's own learning rate; a schedule sets it before each step.
  void set_lr_scale(double scale) { lr_scale_ = scale; }
  double lr_scale() const { return lr_scale_; }
  /// Step counts and moments under names ("<parameter>.exp_avg", "<parameter>.step"), for a checkpoint; load_state refuses missing, surplus
  /// or misshapen entries with ValueError and changes nothing then.
  virtual std::vector<NamedTensor> state() const = 0;
  virtual void load_state(const std::vector<NamedTensor>& state) = 0;
  virtual std::vector<NamedTensor> parameters() const = 0;

 protected:
  double lr_scale_ = 1;
};

class AdamW final : public Optimizer {
 public:
  struct Group {
    std::vector<NamedTensor> parameters;
    AdamWOptions options;
  };
  explicit AdamW(std::vector<NamedTensor> parameters, const AdamWOptions& options = {});
  explicit AdamW(std::vector<Group> groups);
  void step() override;
  std::vector<NamedTensor> state() const override;
  void load_state(const std::vector<NamedTensor>& state) override;
  std::vector<NamedTensor> parameters() const override;

 private:
  struct Moments {
    Tensor exp_avg, exp_avg_sq;
    std::int64_t steps = 0;
  };
  std::vector<Group> groups_;
  std::vector<std::vector<Moments>> moments_;
};

class SGD final : public Optimizer {
 public:
  struct Group {
    std::vector<NamedTensor> parameters;
    SGDOptions options;
  };
  explicit SGD(std::vector<NamedTensor> parameters, const SGDOptions& options = {});
  explicit SGD(std::vector<Group> groups);
  void step() override;
  std::vector<NamedTensor> state() const override;
  void load_state(const std::vector<NamedTensor>& state) override;
  std::vector<NamedTensor> parameters() const override;

 private:
  std::vector<Group> groups_;
  std::vector<std::vector<Tensor>> momentum_;
};

/// √Σ‖grad‖² over all parameters, accumulated in f64. With `max_norm` > 0 the gradients are scaled by max_norm/(norm + 1e-6) when the norm exceeds it. ValueError below 0 or for NaN.
double clip_grad_norm(const std::vector<NamedTensor>& parameters, double max_norm);

/// Factors of the learning rate: from 0 up over `warmup` steps, then down to 0 at `total` in a line or in half a cosine.
double linear_schedule(std::int64_t step, std::int64_t warmup, std::int64_t total);
double cosine_schedule(std::int64_t step, std::int64_t warmup, std::int64_t total);

}  // namespace graft
