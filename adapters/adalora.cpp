#include "graft/adapters/adalora.h"

#include <algorithm>
#include <cmath>

#include "graft/adapters/inject.h"
#include "graft/adapters/lora.h"
#include "graft/adapters/model.h"
#include "graft/autograd/ops.h"

namespace graft::adalora {
namespace {

/// Indices (i64) of the true entries.
Tensor indices(const std::vector<bool>& mask, Device device) {
  std::vector<std::int64_t> found;
  for (std::size_t i = 0; i < mask.size(); ++i)
    if (mask[i]) found.push_back(static_cast<std::int64_t>(i));
  return to(Tensor::from(found, {static_cast<std::int64_t>(found.size())}), device);
}

/// ‖m mᵀ − I‖ for the rows of m.
Tensor distance_from_orthogonal(const Tensor& m) { return norm(matmul(m, m.t()) - Tensor::eye(m.dim(0), m.dtype(), m.device())); }

}  // namespace

Options options(const AdaLoraConfig& c, std::uint64_t seed) {
  check(c.rank_pattern.size() <= 1, "rank_pattern has {} entries for one layer", c.rank_pattern.size());
  return {.r = c.init_r,
          .lora_alpha = c.lora_alpha,
          .lora_dropout = c.lora_dropout,
          .init_lora_weights = c.init_lora_weights,
          .seed = seed,
          .kept = c.rank_pattern.empty() ? std::vector<bool>() : c.rank_pattern.front().second};
}

AdaLoraAdapter::AdaLoraAdapter(LinearBase& base, const Options& o, Rounding rounding)
    : rounding_(rounding),
      dropout_(o.lora_dropout),
      present_(o.kept.empty() ? std::vector<bool>(static_cast<std::size_t>(std::max<std::int64_t>(o.r, 0)), true) : o.kept),
      kept_(o.kept),
      generator_{o.seed, 0} {
  check(o.r >= 0, "r is {}, and the rank must be a positive integer or 0", o.r);
  check(kept_.empty() || static_cast<std::int64_t>(kept_.size()) == o.r, "rank_pattern has {} entries for an initial rank of {}",
        kept_.size(), o.r);
  check(o.lora_dropout >= 0 && o.lora_dropout < 1, "lora_dropout is {}, not a probability in [0, 1)", o.lora_dropout);
  check(std::holds_alternative<bool>(o.init_lora_weights), "AdaLoRA's init_lora_weights is true or false; there are no schemes");
  check(std::isfinite(o.lora_alpha), "lora_alpha is {}, not a finite number", o.lora_alpha);
  initial_scaling_ = scaling_ = o.lora_alpha > 0 ? o.lora_alpha : static_cast<double>(o.r);
  const auto [device, dtype] = lora::placement(base, o.autocast_adapter_dtype);
  const bool start_as_base = std::get<bool>(o.init_lora_weights);
  const double deviation = start_as_base ? 0.02 : 1;
  const std::int64_t rank = std::count(present_.begin(), present_.end(), true);
  A = normal({rank, base.in_features()}, 0, deviation, generator_, dtype, device);
  E = start_as_base ? Tensor::zeros({rank, 1}, dtype, device) : normal({rank, 1}, 0, 1, generator_, dtype, device);
  B = normal({base.out_features(), rank}, 0, deviation, generator_, dtype, device);
  ranknum = Tensor::full({1}, static_cast<double>(o.r), dtype, device);
}

std::string AdaLoraAdapter::description() const {
  return fmt::format("r={}, ranknum={:g}, scaling={:g}, dropout={:g}", A.dim(0), ranknum.item(), scaling_, dropout_);
}

void AdaLoraAdapter::visit(Visitor& visitor, const std::string& name) {
  visitor.parameter(fmt::format("lora_A.{}", name), A);
  visitor.parameter(fmt::format("lora_E.{}", name), E);
  visitor.parameter(fmt::format("lora_B.{}", name), B);
  visitor.buffer(fmt::format("ranknum.{}", name), ranknum);
  visitor.generator(fmt::format("lora_dropout.{}", name), generator_);
}

double AdaLoraAdapter::divisor() const { return ranknum.item() + 1e-5; }

std::optional<LowRankTerm> AdaLoraAdapter::term(const Tensor& x, const AdapterCall& call) const {
  if (A.dim(0) == 0) return {};
  const Tensor own = call.training && dropout_ > 0 ? dropout(to(x, A.dtype()), dropout_, generator_) : Tensor();
  return LowRankTerm{.x = own, .A = A * E, .B = B, .bias = {}, .scale = scaling_ / divisor(), .rounding = rounding_, .rows = {}};
}

std::vector<NamedTensor> AdaLoraAdapter::state(const std::string& name) {
  std::vector<NamedTensor> tensors = Adapter::state(name);
  if (kept_ == present_ || kept_.empty()) return tensors;
  const NoGrad no_grad;
  const Tensor index = indices(kept_rows(), A.device());
  for (auto& [parameter, tensor] : tensors) tensor = index_select(tensor, parameter.starts_with("lora_B") ? 1 : 0, index);
  return tensors;
}

void AdaLoraAdapter::set_kept(std::vector<bool> kept) {
  check(can_keep(kept),
        "adalora: a mask of {} directions, of which {} stay, does not fit an initial rank of {}, of which there are {}",
        kept.size(), std::count(kept.begin(), kept.end(), true), present_.size(), A.dim(0));
  kept_ = std::move(kept);
}

bool AdaLoraAdapter::can_keep(const std::vector<bool>& kept) const {
  bool there = kept.empty() || kept.size() == present_.size();
  for (std::size_t i = 0; there && i < kept.size(); ++i) there = !kept[i] || present_[i];
  return there;
}

std::vector<bool> AdaLoraAdapter::kept_rows() const {
  std::vector<bool> rows;
  for (std::size_t i = 0; i < kept_.size(); ++i)
    if (present_[i]) rows.push_back(kept_[i]);
  return rows;
}

void AdaLoraAdapter::set_kept_rows(const std::vector<bool>& rows) {
  check(static_cast<std::int64_t>(rows.size()) == A.dim(0), "adalora: a mask of {} directions for a rank of {}", rows.size(),
        A.dim(0));
  kept_ = present_;
  auto row = rows.begin();
  for (std::size_t i = 0; i < kept_.size(); ++i)
    if (present_[i]) kept_[i] = *row++;
}

void AdaLoraAdapter::describe(AdapterConfig& config, const std::string& path, const std::string&) const {
  auto* adalora = std::get_if<AdaLoraConfig>(&config);
  if (!adalora || kept_.empty()) return;
  const std::string key = path + ".lora_E";
  std::erase_if(adalora->rank_pattern, [&](const auto& entry) { return entry.first.starts_with(key); });
  adalora->rank_pattern.emplace_back(key, kept_);
}

Tensor AdaLoraAdapter::delta_weight() const {
  const NoGrad no_grad;
  return matmul(B, A * E) * (scaling_ / divisor());
}

Tensor AdaLoraAdapter::merged(const Tensor& weight, bool safe) {
  if (A.dim(0) == 0) return weight;
  const Tensor delta = delta_weight();
  return to(weight + (safe ? to(delta, weight.dtype()) : delta), weight.dtype());
}

Tensor AdaLoraAdapter::unmerged(const Tensor& weight) {
  return A.dim(0) == 0 ? weight : to(weight - delta_weight(), weight.dtype());
}

SVDLinear::SVDLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options)
    : AdapterLayer(std::move(base_layer), "adalora.SVDLinear") {
  add_adapter(adapter_name, std::make_shared<AdaLoraAdapter>(*this->base_layer(), options, Rounding::per_adapter));
}

SVDQuantLinear::SVDQuantLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options)
    : AdapterLayer(std::move(base_layer), "adalora.SVDQuantLinear") {
  add_adapter(adapter_name, std::make_shared<AdaLoraAdapter>(*this->base_layer(), options, Rounding::after_scale));
}

Tensor orthogonal_regulariser(Module& model) {
  Tensor total;
  std::int64_t matrices = 0;
  double weight = 0;
  adapters::for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
    for (const auto& [name, any, record, in_use, trainable] : layer.adapters()) {
      const auto* adapter = dynamic_cast<const AdaLoraAdapter*>(any.get());
      if (!adapter || !trainable) continue;
      check(record != nullptr, "AdaLoRA's regulariser: adapter '{}' was added by hand and has no configuration", name);
      weight = std::get<AdaLoraConfig>(record->config).orth_reg_weight;
      for (const Tensor& factor : {adapter->A, adapter->B.t()}) {
        const Tensor distance = distance_from_orthogonal(factor);
        total = total.defined() ? total + distance : distance;
        ++matrices;
      }
    }
  });
  if (total.defined()) return total * (weight / static_cast<double>(matrices));
  const std::vector<NamedTensor> all = named_parameters(model);
  return Tensor::zeros({}, DType::f32, all.empty() ? Device() : all.front().tensor.device());
}

}  // namespace graft::adalora
