#include "graft/adapters/rank_allocator.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/autograd/ops.h"

namespace graft::adalora {

std::vector<std::pair<std::string, Tensor*>> RankAllocator::Layer::parameters() const {
  return {{"lora_A", &adapter->A}, {"lora_B", &adapter->B}, {"lora_E", &adapter->E}};
}

std::string RankAllocator::key(const Layer& layer, const std::string& parameter) const {
  return fmt::format("{}.{}.{}", layer.path, parameter, adapter_name_);
}

RankAllocator::RankAllocator(Module& model, std::string adapter_name) : adapter_name_(std::move(adapter_name)) {
  adapters::for_each_layer(model, [&](const std::string& path, AdapterLayer& layer) {
    if (!layer.has_adapter(adapter_name_)) return;
    auto adapter = std::dynamic_pointer_cast<AdaLoraAdapter>(layer.adapter(adapter_name_));
    const auto record = layer.record(adapter_name_);
    if (!adapter || !record) return;
    config_ = std::get<AdaLoraConfig>(record->config);
    initial_budget_ += adapter->A.dim(0);
    layers_.push_back({path, std::move(adapter)});
  });
  check(!layers_.empty(), "the model has no AdaLoRA adapter '{}' to allocate ranks to", adapter_name_);
}

std::int64_t RankAllocator::final_step() const {
  return config_.tfinal > 0 ? config_.total_step - config_.tfinal : config_.total_step - 1;
}

RankAllocator::Budget RankAllocator::schedule(std::int64_t step) const {
  const std::int64_t b0 = initial_budget_, bT = config_.target_r * static_cast<std::int64_t>(layers_.size());
  const std::int64_t end = config_.total_step - config_.tfinal;
  if (step <= config_.tinit) return {b0, false};
  if (step > end) return {bT, true};
  const double left = 1 - static_cast<double>(step - config_.tinit) / static_cast<double>(end - config_.tinit);
  const double ranks = static_cast<double>(b0 - bT) * (left * left * left) + static_cast<double>(bT);
  return {static_cast<std::int64_t>(ranks), step % config_.deltaT == 0};
}

double RankAllocator::update_and_allocate(std::int64_t step) {
  const NoGrad no_grad;
  constexpr double nothing = std::numeric_limits<double>::quiet_NaN();
  if (step < final_step()) {
    update_importance();
    const Budget budget = schedule(step);
    return budget.mask ? mask_to_budget(budget.ranks) : nothing;
  }
  if (step == final_step()) {
    if (config_.tfinal == 0) update_importance();  // this step is an ordinary one, too
    const double threshold = mask_to_budget(schedule(config_.total_step - config_.tfinal).ranks);
    importance_.clear();
    return threshold;
  }
  check(!layers_.front().adapter->kept().empty(), "step {} is beyond the final allocation at step {}, which never took place",
        step, final_step());
  apply_masks();
  return nothing;
}

void RankAllocator::update_importance() {
  for (const Layer& layer : layers_) {
    for (const auto& [parameter, tensor] : layer.parameters()) {
      if (tensor->count() == 0) continue;
      const Tensor gradient = tensor->grad();
      check<TypeError>(gradient.defined(),
                       "{}: has no gradient to tell its importance from; call backward() before update_and_allocate()",
                       key(layer, parameter));
      Importance& i = importance_[key(layer, parameter)];
      if (!i.ipt.defined()) {
        const Tensor zero = Tensor::zeros(tensor->shape(), tensor->dtype(), tensor->device());
        i = {zero, zero, zero};
      }
      i.ipt = abs(tensor->detach() * gradient);
      i.exp_avg_ipt = i.exp_avg_ipt * config_.beta1 + i.ipt * (1 - config_.beta1);
      i.exp_avg_unc = i.exp_avg_unc * config_.beta2 + abs(i.ipt - i.exp_avg_ipt) * (1 - config_.beta2);
    }
  }
}

Tensor RankAllocator::score(const Layer& layer, const std::string& parameter) const {
  const auto found = importance_.find(key(layer, parameter));
  check(found != importance_.end(),
        "{}: no importance is known to allocate ranks by; call update_and_allocate() for the steps before",
        key(layer, parameter));
  return found->second.exp_avg_ipt * found->second.exp_avg_unc;
}

double RankAllocator::mask_to_budget(std::int64_t budget) {
  constexpr int rows[] = {0}, columns[] = {1};
  std::vector<std::vector<double>> scores;
  std::vector<double> sorted;
  for (const Layer& layer : layers_) {
    if (layer.adapter->A.dim(0) == 0) {
      scores.emplace_back();
      continue;
    }
    const Tensor of_E = reshape(score(layer, "lora_E"), {-1});
    const Tensor of_A = mean(score(layer, "lora_A"), columns);
    const Tensor of_B = mean(score(layer, "lora_B"), rows);
    scores.push_back((of_E + (of_A + of_B)).to_vector<double>());
    sorted.insert(sorted.end(), scores.back().begin(), scores.back().end());
  }
  // The threshold is the m-th smallest score; m = 0 keeps everything.
  const std::int64_t m = initial_budget_ - budget;
  double threshold = -std::numeric_limits<double>::infinity();
  if (m > 0) {
    std::nth_element(sorted.begin(), sorted.begin() + (m - 1), sorted.end());
    threshold = sorted[static_cast<std::size_t>(m - 1)];
  }
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    std::vector<bool> kept;
    for (const double s : scores[i]) kept.push_back(s > threshold);
    layers_[i].adapter->set_kept_rows(kept);
  }
  apply_masks();
  return m > 0 ? threshold : std::numeric_limits<double>::quiet_NaN();
}

void RankAllocator::apply_masks() const {
  for (const Layer& layer : layers_) {
    const auto kept = layer.adapter->kept_rows();
    const Tensor& E = layer.adapter->E;
    if (kept.empty()) continue;
    const std::vector<std::uint8_t> bytes(kept.begin(), kept.end());
    const Tensor mask = to(to(Tensor::from(bytes, E.shape()), DType::boolean), E.device());
    E.copy_(where(mask, E.detach(), Tensor::zeros(E.shape(), E.dtype(), E.device())));
  }
}

std::map<std::string, std::int64_t> RankAllocator::ranks() const {
  std::map<std::string, std::int64_t> counts;
  for (const Layer& layer : layers_) {
    const auto values = layer.adapter->E.to_vector<double>();
    counts[layer.path] = std::count_if(values.begin(), values.end(), [](double v) { return v != 0; });
  }
  return counts;
}

std::vector<NamedTensor> RankAllocator::state() const {
  std::vector<NamedTensor> tensors;
  for (const auto& [name, i] : importance_) {
    tensors.push_back({name + ".ipt", i.ipt});
    tensors.push_back({name + ".exp_avg_ipt", i.exp_avg_ipt});
    tensors.push_back({name + ".exp_avg_unc", i.exp_avg_unc});
  }
  for (const Layer& layer : layers_) {
    const auto& kept = layer.adapter->kept();
    if (kept.empty()) continue;
    const std::vector<std::uint8_t> bytes(kept.begin(), kept.end());
    tensors.push_back({key(layer, "kept"), Tensor::from(bytes, {static_cast<std::int64_t>(bytes.size())})});
  }
  return tensors;
}

void RankAllocator::load_state(const std::vector<NamedTensor>& state) {
  std::map<std::string, Tensor> given;
  for (const auto& [name, tensor] : state) check(given.emplace(name, tensor).second, "allocator state: {} is there twice", name);
  const auto take = [&](const std::string& name) {
    const auto found = given.find(name);
    if (found == given.end()) return Tensor();
    const Tensor tensor = found->second;
    given.erase(found);
    return tensor;
  };
  std::map<std::string, Importance> importance;
  std::vector<std::vector<bool>> masks;
  for (const Layer& layer : layers_) {
    for (const auto& [parameter, tensor] : layer.parameters()) {
      const std::string name = key(layer, parameter);
      const Importance i{take(name + ".ipt"), take(name + ".exp_avg_ipt"), take(name + ".exp_avg_unc")};
      const int there = i.ipt.defined() + i.exp_avg_ipt.defined() + i.exp_avg_unc.defined();
      if (there == 0) continue;
      check(there == 3, "allocator state: {} has {} of its three averages", name, there);
      for (const Tensor& average : {i.ipt, i.exp_avg_ipt, i.exp_avg_unc})
        check(average.shape() == tensor->shape() && average.dtype() == tensor->dtype(), "allocator state: {} is {}{}, not {}{}",
              name, average.dtype(), average.shape(), tensor->dtype(), tensor->shape());
      importance.emplace(name, Importance{to(i.ipt, tensor->device()), to(i.exp_avg_ipt, tensor->device()),
                                          to(i.exp_avg_unc, tensor->device())});
    }
    const Tensor kept = take(key(layer, "kept"));
    masks.emplace_back();
    if (!kept.defined()) continue;
    check(kept.dtype() == DType::u8 && kept.rank() == 1 && kept.count() == layer.adapter->ranknum.item(),
          "allocator state: {} is {}{}, not one byte per initial direction", key(layer, "kept"), kept.dtype(), kept.shape());
    for (const int byte : kept.to_vector<int>()) masks.back().push_back(byte != 0);
    check(layer.adapter->can_keep(masks.back()), "allocator state: {} keeps a direction that was switched off for good",
          key(layer, "kept"));
  }
  check(given.empty(), "allocator state: {} belongs to nothing here", given.empty() ? "" : given.begin()->first);
  importance_ = std::move(importance);
  for (std::size_t i = 0; i < layers_.size(); ++i) layers_[i].adapter->set_kept(std::move(masks[i]));
}

}  // namespace graft::adalora
