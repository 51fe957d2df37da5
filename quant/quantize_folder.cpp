#include "graft/quant/quantize_folder.h"

#include <map>
#include <optional>
#include <set>

#include "graft/autograd/linear.h"
#include "graft/autograd/tape.h"
#include "graft/quant/folder_writer.h"
#include "graft/quant/pack_checkpoint.h"
#include "graft/quant/quantize_config.h"
#include "graft/quant/round_to_nearest.h"

namespace graft::quant {
namespace {

// Stands in a layer's place and counts what it is given.
class InputTap final : public LinearBase {
 public:
  InputTap(std::shared_ptr<LinearBase> base, std::shared_ptr<InputMoments> moments)
      : base_(std::move(base)), moments_(std::move(moments)) {}
  std::string type_name() const override { return "InputTap"; }
  void visit(Visitor& visitor) override { base_->visit(visitor); }
  std::int64_t in_features() const override { return base_->in_features(); }
  std::int64_t out_features() const override { return base_->out_features(); }
  Tensor bias() const override { return base_->bias(); }
  Tensor weight() const override { return base_->weight(); }
  Tensor forward(const Tensor& x) const override {
    moments_->add(x);
    return base_->forward(x);
  }
  using LinearBase::forward;

 private:
  std::shared_ptr<LinearBase> base_;
  std::shared_ptr<InputMoments> moments_;
};

// A block of the model with its slots and parameters by name.
class Block {
 public:
  Block(std::shared_ptr<Module> module, std::string prefix) : module_(std::move(module)), prefix_(std::move(prefix)) {
    check(module_ != nullptr, "{}: the model loaded no block", prefix_);
    for_each_slot(*module_, [&](const std::string& name, SlotBase& slot) { slots_[name] = &slot; });
    for (NamedTensor& named : named_parameters(*module_)) parameters_[named.name] = named.tensor;
  }

  Module& module() const { return *module_; }

  std::shared_ptr<LinearBase> linear(const std::string& name) const {
    const auto found = slots_.find(name);
    check(found != slots_.end(), "{}: has no module '{}'", prefix_, name);
    auto linear = std::dynamic_pointer_cast<LinearBase>(found->second->module());
    check(linear != nullptr && linear->weight().defined(), "{}: '{}' is not a dense linear layer", prefix_, name);
    return linear;
  }

  void replace(const std::string& name, std::shared_ptr<LinearBase> linear) { slots_.at(name)->replace(std::move(linear)); }

  /// Undefined if there is none.
  Tensor parameter(const std::string& name) const {
    const auto found = parameters_.find(name);
    return found == parameters_.end() ? Tensor() : found->second;
  }

  /// From now on counts the common input of a step's modules.
  std::shared_ptr<InputMoments> tap(const QuantizeStep& step) {
    const auto base = linear(step.modules.at(0));
    auto moments = std::make_shared<InputMoments>(base->in_features());
    replace(step.modules.at(0), std::make_shared<InputTap>(base, moments));
    return moments;
  }

 private:
  std::shared_ptr<Module> module_;
  std::string prefix_;
  std::map<std::string, SlotBase*> slots_;
  std::map<std::string, Tensor> parameters_;
};

class FolderQuantizer {
 public:
  FolderQuantizer(FolderWriter& writer, QuantizableModel& model, std::string layout, const QuantizeOptions& options)
      : writer_(writer), model_(model), layout_(std::move(layout)), options_(options) {
    for (std::int64_t i = 0; i < model_.blocks(); ++i)
      for (const QuantizeStep& step : model_.steps(i)) {
        check(!step.modules.empty(), "{}: a step without modules", model_.prefix(i));
        count_ += static_cast<std::int64_t>(step.modules.size());
      }
    check(count_ > 0, "the model names no layers to quantize");
  }

  void run(const Grid& grid) {
    for (std::int64_t i = 0; i < model_.blocks(); ++i)
      for (const QuantizeStep& step : model_.steps(i))
        for (const std::string& name : step.modules) {
          const std::string module = full_name(i, name);
          put(module, round_to_nearest(writer_.source().tensor(module + ".weight"), grid), {});
        }
  }

  void run(const GptqSettings& settings) {
    embed();
    for (std::int64_t i = 0; i < model_.blocks(); ++i) {
      Block block(model_.load(i), model_.prefix(i));
      for (const QuantizeStep& step : model_.steps(i)) {
        const auto first = block.linear(step.modules[0]);
        const auto moments = block.tap(step);
        for (std::size_t b = 0; b < hidden_.size(); ++b) model_.forward(block.module(), hidden_[b], static_cast<std::int64_t>(b));
        block.replace(step.modules[0], first);
        const auto [solver, problem] = solver_for(*moments, settings);
        for (const std::string& name : step.modules) {
          const auto dense = block.linear(name);
          const GptqResult result =
              solver ? solver->solve(dense->weight()) : GptqResult{round_to_nearest(dense->weight(), settings.grid)};
          QuantizedModule done = problem;
          done.loss = result.loss;
          put(full_name(i, name), result.quantized, done);
          block.replace(name, std::make_shared<Linear>(dequantize(result.quantized).to(dense->weight().device()), dense->bias()));
        }
      }
      advance(block);
    }
  }

  void run(const AwqSettings& settings) {
    embed();
    for (std::int64_t i = 0; i < model_.blocks(); ++i) {
      const std::vector<QuantizeStep> steps = model_.steps(i);
      Block block(model_.load(i), model_.prefix(i));
      std::map<std::string, Tensor> weights;  // as they will be rounded
      for (const QuantizeStep& step : steps)
        for (const std::string& name : step.modules) weights[name] = block.linear(name)->weight();
      std::vector<std::shared_ptr<InputMoments>> inputs;
      for (const QuantizeStep& step : steps) inputs.push_back(block.tap(step));
      advance(block);

      // All searches see the weights as they were; only then are they changed.
      std::vector<AwqScales> scales;
      for (std::size_t s = 0; s < steps.size(); ++s) scales.push_back(search(block, steps[s], weights, *inputs[s], settings));
      scale_producers(block, i, steps, scales, weights);
      for (std::size_t s = 0; s < steps.size(); ++s)
        for (const std::string& name : steps[s].modules) {
          Tensor weight = scale_columns(weights.at(name), scales[s].channel_scale);
          if (inputs[s]->tokens() > 0 && !unclipped(name))
            weight = clamp_groups(weight, search_awq_clip(weight, *inputs[s], scales[s].channel_scale, settings), settings.grid);
          const double loss = scales[s].losses.empty() ? 0 : *std::min_element(scales[s].losses.begin(), scales[s].losses.end());
          put(full_name(i, name), round_to_nearest(weight, settings.grid),
              {.loss = loss, .uncalibrated = inputs[s]->tokens() == 0});
        }
    }
  }

  std::vector<QuantizedModule> take_report() { return std::move(report_); }

 private:
  std::string full_name(std::int64_t block, const std::string& name) const { return model_.prefix(block) + "." + name; }

  void embed() {
    check(model_.batches() > 0, "no calibration batches");
    for (std::int64_t b = 0; b < model_.batches(); ++b) hidden_.push_back(model_.embed(b));
  }

  // The block's outputs become the next one's inputs.
  void advance(Block& block) {
    for (std::size_t b = 0; b < hidden_.size(); ++b)
      hidden_[b] = model_.forward(block.module(), hidden_[b], static_cast<std::int64_t>(b));
  }

  void put(const std::string& module, const Quantized& quantized, QuantizedModule done) {
    writer_.put(module, to_stored(quantized, layout_));
    done.module = module;
    done.number = static_cast<std::int64_t>(report_.size()) + 1;
    done.count = count_;
    report_.push_back(std::move(done));
    if (options_.progress) options_.progress(report_.back());
  }

  // ---- GPTQ ----

  // None, and why, where the inputs leave nothing but plain rounding.
  static std::pair<std::optional<GptqSolver>, QuantizedModule> solver_for(const InputMoments& moments,
                                                                          const GptqSettings& settings) {
    if (moments.tokens() == 0) return {std::nullopt, {.uncalibrated = true}};
    try {
      return {GptqSolver(moments, settings), {}};
    } catch (const IndefiniteHessian&) {
      return {std::nullopt, {.indefinite = true}};
    }
  }

  // ---- AWQ ----

  // AutoAWQ clips all but what makes queries and keys: their product is too sensitive.
  static bool unclipped(const std::string& name) {
    for (const char* part : {"q_", "k_", "query", "key", "Wqkv"})
      if (name.find(part) != std::string::npos) return true;
    return false;
  }

  // Whether the factors of a step's input can be moved into what makes it.
  static bool movable(const Block& block, const QuantizeStep& step, std::int64_t in) {
    const Tensor weight = step.producer.empty() ? Tensor() : block.parameter(step.producer + ".weight");
    check(step.producer.empty() || weight.defined(), "the producer '{}' has no weight", step.producer);
    // Value heads that several queries share reach the next layer more than once.
    return weight.defined() && weight.dim(0) >= in;
  }

  static AwqScales search(const Block& block, const QuantizeStep& step, const std::map<std::string, Tensor>& weights,
                          const InputMoments& inputs, const AwqSettings& settings) {
    std::vector<Tensor> consumers;
    for (const std::string& name : step.modules) consumers.push_back(weights.at(name));
    const std::int64_t in = consumers[0].dim(1);
    if (inputs.tokens() == 0 || !movable(block, step, in)) return {Tensor::ones({in}), 0, {}};
    return search_awq_scales(consumers, inputs, settings);
  }

  // Rows [rows − scale.count(), rows) divided.
  static Tensor divided(const Tensor& tensor, const Tensor& scale) {
    const Tensor result = Tensor::empty(tensor.shape());
    result.copy_(tensor);
    const std::int64_t width = tensor.count() / tensor.dim(0), first = tensor.dim(0) - scale.count();
    for (std::int64_t n = 0; n < scale.count(); ++n)
      for (std::int64_t k = 0; k < width; ++k) result.data<float>()[(first + n) * width + k] /= scale.data<float>()[n];
    return result;
  }

  void scale_producers(const Block& block, std::int64_t i, const std::vector<QuantizeStep>& steps,
                       const std::vector<AwqScales>& scales, std::map<std::string, Tensor>& weights) {
    std::set<std::string> seen;
    for (std::size_t s = 0; s < steps.size(); ++s) {
      const std::string& producer = steps[s].producer;
      if (scales[s].losses.empty()) continue;  // nothing was searched
      check(seen.insert(producer).second, "{}: two steps have the producer '{}'; what it feeds must be one step",
            model_.prefix(i), producer);
      const Tensor& scale = scales[s].channel_scale;
      const auto found = weights.find(producer);
      if (found != weights.end()) found->second = divided(found->second, scale);
      else writer_.replace(full_name(i, producer) + ".weight", divided(block.parameter(producer + ".weight"), scale));
      if (const Tensor bias = block.parameter(producer + ".bias"); bias.defined())
        writer_.replace(full_name(i, producer) + ".bias", divided(bias, scale));
    }
  }

  FolderWriter& writer_;
  QuantizableModel& model_;
  std::string layout_;
  const QuantizeOptions& options_;
  std::int64_t count_ = 0;
  std::vector<Tensor> hidden_;
  std::vector<QuantizedModule> report_;
};

}  // namespace

std::vector<QuantizedModule> quantize_folder(const std::filesystem::path& source, const std::filesystem::path& target,
                                             QuantizableModel& model, const QuantizeMethod& method,
                                             const QuantizeOptions& options) {
  NoGrad no_grad;
  const Grid& grid = grid_of(method);
  validate(grid);
  const std::string layout = options.layout.empty() ? std::string(usual_layout(grid)) : options.layout;
  FolderWriter writer(source, target, options.shard_bytes);
  FolderQuantizer quantizer(writer, model, layout, options);
  std::visit([&](const auto& settings) { quantizer.run(settings); }, method);
  writer.finish(quantization_config(method, layout), grid.rule != GridRule::eetq);
  return quantizer.take_report();
}

}  // namespace graft::quant
