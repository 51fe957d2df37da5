// AdaLoRA's allocator: decides during training which directions of which layer the budget of ranks is spent on.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "graft/adapters/adalora.h"

namespace graft::adalora {

class RankAllocator {
 public:
  /// For the adapter that was injected into `model` under this name. ValueError if no layer has an AdaLoRA adapter of that name.
  explicit RankAllocator(Module& model, std::string adapter_name = "default");

  struct Budget {
    std::int64_t ranks;  // how many directions may stay, over all layers
    bool mask;           // whether the step masks
  };
  /// b0 up to step tinit; then falling with the cube of the time left, masking every deltaT steps; target_r per layer from
  /// total_step − tfinal on.
  Budget schedule(std::int64_t step) const;

  /// Call after the optimizer's step, while the gradients are there: averages sensitivity |p ∂p| and its uncertainty, and at masking
  /// steps sets the entries of E that score lowest to zero. At step total_step − tfinal the masking is forced and final, and later steps
  /// only apply it again (with tfinal = 0, whose step would never come, it is the last one, total_step − 1).
  /// Returns the threshold of the scores; NaN when nothing was masked. TypeError for a parameter without gradient, ValueError for the
  /// final step when none went before, and for a step beyond it when it was never taken.
  double update_and_allocate(std::int64_t step);

  /// Non-zero entries of every layer's E.
  std::map<std::string, std::int64_t> ranks() const;

  struct Importance {
    Tensor ipt, exp_avg_ipt, exp_avg_unc;  // of a parameter's shape
  };
  /// By parameter, "model.layers.0.self_attn.q_proj.lora_A.default"; empty before the first update and after the final masking.
  const std::map<std::string, Importance>& importance() const { return importance_; }

  /// For a training checkpoint: averages and masks. load_state() refuses missing, surplus or misshapen entries with ValueError, and then
  /// changes nothing.
  std::vector<NamedTensor> state() const;
  void load_state(const std::vector<NamedTensor>& state);

 private:
  struct Layer {
    std::string path;
    std::shared_ptr<AdaLoraAdapter> adapter;
    std::vector<std::pair<std::string, Tensor*>> parameters() const;
  };
  std::string key(const Layer& layer, const std::string& parameter) const;
  void update_importance();
  double mask_to_budget(std::int64_t budget);
  void apply_masks() const;
  std::int64_t final_step() const;
  Tensor score(const Layer& layer, const std::string& parameter) const;

  AdaLoraConfig config_;
  std::string adapter_name_;
  std::vector<Layer> layers_;
  std::map<std::string, Importance> importance_;
  std::int64_t initial_budget_ = 0;
};

}  // namespace graft::adalora
