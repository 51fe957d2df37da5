// Fine-tuning: next-token cross entropy, AdamW, accumulated gradients, a learning-rate schedule; stopped and resumed to the bit.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "graft/autograd/optim.h"
#include "graft/examples/llama/model.h"
#include "graft/examples/llama/text_data.h"
#include "graft/examples/llama/training_state.h"

namespace graft::llama {

/// The learning rate's factor after `step` of `total` steps.
struct Schedule {
  const char* name;
  double (*factor)(std::int64_t step, std::int64_t warmup, std::int64_t total);
};
double constant_schedule(std::int64_t step, std::int64_t warmup, std::int64_t total);
inline constexpr std::array schedules{Schedule{"constant", constant_schedule}, Schedule{"linear", linear_schedule},
                                      Schedule{"cosine", cosine_schedule}};
/// ValueError listing the names if there is no such schedule.
const Schedule& find_schedule(std::string_view name);

struct TrainingOptions {
  std::int64_t steps = 200;
  std::int64_t batch = 8;       // rows per forward pass
  std::int64_t accumulate = 1;  // forward passes per step
  double lr = 2e-4;
  double weight_decay = 0.01;
  std::int64_t warmup = 0;
  Schedule schedule = schedules[1];
  double clip = 1;  // largest norm of the gradient; 0: unlimited
  std::uint64_t seed = 0;
};

/// What one step did. The gradient norm is that before clipping.
struct StepReport {
  std::int64_t step = 0;
  double loss = 0, grad_norm = 0;
  std::int64_t tokens = 0;
};

/// What an adapter method does in training beside following the gradient; by default nothing.
class MethodSteps {
 public:
  virtual ~MethodSteps() = default;
  /// A scalar to add to the loss; undefined for none.
  virtual Tensor loss() const { return {}; }
  /// Called after the optimizer's step number `step`, counted from 0, while the gradients are there.
  virtual void after_step(std::int64_t /*step*/) {}
  /// What it keeps between steps.
  virtual std::vector<NamedTensor> state() const { return {}; }
  virtual void load_state(const std::vector<NamedTensor>& /*state*/) {}
};

class Trainer {
 public:
  /// Trains what is trainable in `model` on `data`; both must outlive this. ValueError for options that make no sense, or when
  /// nothing is trainable.
  Trainer(CausalLM& model, const TextData& data, const TrainingOptions& options,
          std::unique_ptr<MethodSteps> method = std::make_unique<MethodSteps>());

  std::int64_t steps_done() const { return state_.step; }
  bool done() const { return state_.step >= options_.steps; }
  /// ValueError, and the parameters are as before, if the loss or the gradient's norm is not finite.
  StepReport step();

  void save(const std::filesystem::path& path, const Settings& settings) const;
  void resume(const std::filesystem::path& path, const Settings& settings);

 private:
  CausalLM& model_;
  const TextData& data_;
  TrainingOptions options_;
  std::unique_ptr<MethodSteps> method_;
  AdamW optimizer_;
  TrainingState state_;
};

/// Mean loss over all windows, `batch` at a time, in evaluation mode. `before_batch`, if any, is called before each and may
/// throw, which ends the evaluation.
double evaluate(CausalLM& model, const TextData& data, std::int64_t batch, const std::function<void()>& before_batch = {});

}  // namespace graft::llama
