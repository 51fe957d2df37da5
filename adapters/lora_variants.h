// The two variants of LoRA: DoRA and QA-LoRA.
#pragma once

#include "graft/adapters/derived.h"
#include "graft/adapters/lora.h"

namespace graft::lora {

/// DoRA (Liu et al., 2024), with a magnitude m per output row and ν = the row norms of W + s·B A, a constant for derivatives:
/// y = (m/ν) ⊙ (x Wᵀ + s · x Aᵀ Bᵀ) + b. With dropout d in training, the low-rank part and the change of the dense part see d(x),
/// while the dense part itself sees x, as in PEFT.
///
/// A dense base gives its weight to the norms. For a quantized base they come from
/// ν² = ‖W‖² + 2s · Σ B ⊙ (W Aᵀ) + s² · Σ (B A Aᵀ) ⊙ B (sums over a row), so that nothing of size out × in is made.
class DoraLinearVariant final : public LoraAdapter {
 public:
  /// m starts as ν, so that the layer starts as its base.
  DoraLinearVariant(LinearBase& base, const Options& options, Rounding rounding);

  std::string_view method() const override { return "dora"; }
  void visit(Visitor& visitor, const std::string& name) override;
  std::optional<LowRankTerm> term(const Tensor&, const AdapterCall&) const override { return {}; }
  Tensor output(const Tensor& y, const Tensor& x, const AdapterCall& call) const override;

  /// (m/ν) ⊙ (W + s·B A), by row; unmerged() undoes it with the ν of then.
  Tensor merged(const Tensor& weight, bool safe) override;
  Tensor unmerged(const Tensor& weight) override;

  Tensor magnitude;  // [out]

 private:
  /// ν [out] of the base with its change, in the adapter's dtype and whatever autocast says; not recorded.
  Tensor norms(const LinearBase& base) const;
  /// The same for a call: kept between calls that do not train.
  Tensor norms(const AdapterCall& call) const;
  Tensor merged_scale_;            // m/ν [out, 1] at the time of merging
  adapters::Derived base_square_;  // ‖W‖² by row in f64, of a quantized base
  adapters::Derived norms_;
};

/// QA-LoRA (Xu et al., 2023): A [r, in / group] sees the input pooled over groups of neighbouring features, so that the change is
/// constant within a group and can be merged into the zero points. PEFT scales the mean of a group by the number of groups.
/// A's initial values are uniform whatever the scheme says, and the bias of B is not applied (with warnings), as in PEFT.
class QALoraLinearVariant final : public LoraAdapter {
 public:
  /// ValueError unless the group size divides in_features.
  QALoraLinearVariant(LinearBase& base, const Options& options, Rounding rounding);

  std::string_view method() const override { return "qalora"; }
  std::string description() const override;
  std::optional<LowRankTerm> term(const Tensor& x, const AdapterCall& call) const override;
  std::int64_t group_size() const { return group_size_; }
  /// The change [out, in / group] that every feature of a group gets: y[o] += Σ_i group_delta[o, i / group] · x[i].
  Tensor group_delta() const;

  // NotImplementedError, all of them: a dense weight is no place for this change; qalora_merge.h merges it into zero points.
  Tensor merged(const Tensor& weight, bool safe) override;
  Tensor unmerged(const Tensor& weight) override;
  Tensor delta_weight() const override;
  Tensor bias_delta() const override { return {}; }

 private:
  std::int64_t group_size_;
  double pooling_;  // factor on the mean of a group
};

/// Makes an adapter of one variant.
using VariantMaker = std::shared_ptr<LoraAdapter> (*)(LinearBase& base, const Options& options, Rounding rounding);

template <class Variant>
std::shared_ptr<LoraAdapter> make_variant(LinearBase& base, const Options& options, Rounding rounding) {
  return std::make_shared<Variant>(base, options, rounding);
}

/// make_variant<DoraLinearVariant>, make_variant<QALoraLinearVariant>, or null for plain LoRA; NotImplementedError for both flags.
VariantMaker resolve_lora_variant(bool use_dora, bool use_qalora);

}  // namespace graft::lora
