#include "graft/examples/llama/trainer.h"

#include <algorithm>
#include <cmath>

#include "graft/autograd/ops.h"

namespace graft::llama {
namespace {

const TrainingOptions& checked(const TrainingOptions& options) {
  check(options.steps > 0, "steps = {}, and at least 1 is wanted", options.steps);
  check(options.batch > 0, "batch = {}, and at least 1 is wanted", options.batch);
  check(options.accumulate > 0, "accumulate = {}, and at least 1 is wanted", options.accumulate);
  check(options.lr > 0 && std::isfinite(options.lr), "lr = {}, and a number above 0 is wanted", options.lr);
  check(options.weight_decay >= 0 && std::isfinite(options.weight_decay), "weight_decay = {}, and a number from 0 is wanted",
        options.weight_decay);
  check(options.warmup >= 0 && options.warmup <= options.steps, "warmup = {}, and a count from 0 to the {} steps is wanted",
        options.warmup, options.steps);
  check(options.clip >= 0 && std::isfinite(options.clip), "clip = {}, and a number from 0 is wanted", options.clip);
  return options;
}

std::vector<NamedTensor> trained(CausalLM& model) {
  auto parameters = trainable(model);
  check(!parameters.empty(), "nothing in the model is trainable: inject an adapter first");
  return parameters;
}

// Half-precision logits are widened before the loss, as everywhere where many numbers are added.
Tensor loss_of(const CausalLM& model, const Batch& batch) {
  const Tensor logits = model.forward(batch.inputs);
  return cross_entropy(is_half(logits.dtype()) ? logits.to(DType::f32) : logits, to(batch.labels, logits.device()));
}

}  // namespace

double constant_schedule(std::int64_t step, std::int64_t warmup, std::int64_t /*total*/) {
  return step < warmup ? static_cast<double>(step) / static_cast<double>(warmup) : 1;
}

const Schedule& find_schedule(std::string_view name) {
  std::string names;
  for (const Schedule& schedule : schedules) {
    if (schedule.name == name) return schedule;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", schedule.name);
  }
  fail("schedule = \"{}\" is not one of {}", name, names);
}

Trainer::Trainer(CausalLM& model, const TextData& data, const TrainingOptions& options, std::unique_ptr<MethodSteps> method)
    : model_(model),
      data_(data),
      options_(checked(options)),
      method_(std::move(method)),
      optimizer_(trained(model), {.lr = options.lr, .weight_decay = options.weight_decay}) {}

StepReport Trainer::step() {
  set_training(model_, true);
  optimizer_.zero_grad();
  StepReport report{.step = state_.step + 1};
  const std::int64_t rows = options_.batch, passes = options_.accumulate;
  for (std::int64_t pass = 0; pass < passes; ++pass) {
    Tensor loss = loss_of(model_, data_.shuffled(options_.seed, state_.position + pass * rows, rows));
    if (const Tensor more = method_->loss(); more.defined()) loss = loss + more;
    report.loss += loss.item() / static_cast<double>(passes);
    check(std::isfinite(report.loss), "the loss is {} at step {}: a lower learning rate may help", report.loss, report.step);
    (loss / static_cast<double>(passes)).backward();
  }
  report.tokens = passes * rows * data_.length();
  report.grad_norm = clip_grad_norm(optimizer_.parameters(), options_.clip);
  check(std::isfinite(report.grad_norm), "the norm of the gradient is {} at step {}: a lower learning rate may help",
        report.grad_norm, report.step);
  optimizer_.set_lr_scale(options_.schedule.factor(state_.step, options_.warmup, options_.steps));
  optimizer_.step();
  method_->after_step(state_.step);
  optimizer_.zero_grad();
  ++state_.step;
  state_.position += passes * rows;
  return report;
}

void Trainer::save(const std::filesystem::path& path, const Settings& settings) const {
  TrainingState state = state_;
  state.method = method_->state();
  save_training_state(path, model_, optimizer_, state, settings);
}

void Trainer::resume(const std::filesystem::path& path, const Settings& settings) {
  TrainingState state = load_training_state(path, model_, optimizer_, settings);
  method_->load_state(state.method);
  state_ = {state.step, state.position, {}};
}

double evaluate(CausalLM& model, const TextData& data, std::int64_t batch, const std::function<void()>& before_batch) {
  struct Mode {
    explicit Mode(CausalLM& model) : model(model), training(model.training()) { set_training(model, false); }
    ~Mode() { set_training(model, training); }
    CausalLM& model;
    const bool training;
  } const evaluating(model);
  NoGrad no_grad;
  double sum = 0;
  for (std::int64_t first = 0; first < data.windows(); first += batch) {
    if (before_batch) before_batch();
    const Batch rows = data.in_order(first, batch);
    sum += loss_of(model, rows).item() * static_cast<double>(rows.inputs.dim(0));
  }
  return sum / static_cast<double>(data.windows());
}

}  // namespace graft::llama
