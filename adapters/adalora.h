// AdaLoRA (Zhang et al., 2023): a low-rank change in the form of a singular value decomposition,
// y += d(x) (A ⊙ E)ᵀ Bᵀ · α / (ranknum + 1e-5), whose directions a RankAllocator switches off by setting entries of E to zero.
// A regulariser keeps A and B near orthogonal. ranknum is the rank that training began with, whatever was switched off since.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "graft/adapters/adapter.h"
#include "graft/adapters/config.h"

namespace graft::adalora {

/// The parameters of the AdaLoRA layers' constructors, with their defaults.
struct Options {
  std::int64_t r = 0;  // initial rank; 0 makes a layer that its adapter does not change
  double lora_alpha = 1;
  double lora_dropout = 0;
  InitWeights init_lora_weights = true;
  bool autocast_adapter_dtype = true;
  std::uint64_t seed = 0;
  std::vector<bool> kept = {};  // of r directions those that exist; empty: all
};
/// What a configuration, narrowed to one layer, says about it.
Options options(const AdaLoraConfig& config, std::uint64_t seed = 0);

class AdaLoraAdapter final : public Adapter {
 public:
  /// ValueError for r < 0 or a mask of another length than r, and for initial values other than true and false.
  AdaLoraAdapter(LinearBase& base, const Options& options, Rounding rounding);

  std::string_view method() const override { return "adalora"; }
  std::string description() const override;
  void visit(Visitor& visitor, const std::string& name) override;
  std::optional<LowRankTerm> term(const Tensor& x, const AdapterCall& call) const override;
  /// Without the directions that were switched off for good, as PEFT saves them.
  std::vector<NamedTensor> state(const std::string& name) override;
  void describe(AdapterConfig& config, const std::string& path, const std::string& name) const override;

  void set_scale(double factor) override { scaling_ = factor * initial_scaling_; }
  void scale(double factor) override { scaling_ *= factor; }
  double scaling() const { return scaling_; }

  Tensor merged(const Tensor& weight, bool safe) override;
  Tensor unmerged(const Tensor& weight) override;
  Tensor delta_weight() const;

  /// Which of the initial directions stay; empty while nobody has decided.
  const std::vector<bool>& kept() const { return kept_; }
  /// ValueError unless can_keep(); empty: undecided.
  void set_kept(std::vector<bool> kept);
  /// Whether it has one entry per initial direction and keeps none that the parameters lack, or is empty.
  bool can_keep(const std::vector<bool>& kept) const;
  /// The same for the directions that the parameters have, which are fewer where the adapter was made with a mask.
  std::vector<bool> kept_rows() const;
  void set_kept_rows(const std::vector<bool>& rows);

  Tensor A;        // [r, in], right singular vectors
  Tensor E;        // [r, 1], singular values
  Tensor B;        // [out, r], left singular vectors
  Tensor ranknum;  // [1], a buffer

 private:
  double divisor() const;
  Rounding rounding_;
  double initial_scaling_, scaling_, dropout_;
  std::vector<bool> present_;  // of the initial directions those that A, E and B have
  std::vector<bool> kept_;
  mutable Generator generator_;
};

/// PEFT's layer over a dense base; each adapter's share is rounded to the result's dtype when it is added.
class SVDLinear final : public AdapterLayer {
 public:
  SVDLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options = {});
};

/// Over a GPTQ base (and here over AWQ and EETQ): float32 inside, and outside autocast the whole scaled share is cast to the result's
/// dtype before it is added. merge() and unmerge() are NotImplementedErrors.
class SVDQuantLinear final : public AdapterLayer {
 public:
  SVDQuantLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options = {});
};

/// λ/n · Σ (‖A Aᵀ − I‖ + ‖Bᵀ B − I‖), Frobenius norms, over the n matrices of the trainable AdaLoRA adapter and with λ its
/// orth_reg_weight: a scalar to add to the loss. Zero if there is no such adapter.
Tensor orthogonal_regulariser(Module& model);

}  // namespace graft::adalora
