// LoRA (Hu et al., 2021): y += s · d(x) Aᵀ Bᵀ with A [r, in], B [out, r] and dropout d; s = α/r, or α/√r with rsLoRA.
// Numbers and initial values are PEFT's.
#pragma once

#include <memory>
#include <string>

#include "graft/adapters/adapter.h"
#include "graft/adapters/config.h"

namespace graft::lora {

/// The parameters of the LoRA layers' constructors, with the defaults that the layers (not LoraConfig) have.
struct Options {
  std::int64_t r = 0;
  double lora_alpha = 1;
  double lora_dropout = 0;
  InitWeights init_lora_weights = true;
  bool use_rslora = false;
  bool use_dora = false;
  bool use_qalora = false;
  bool lora_bias = false;
  std::int64_t qalora_group_size = 32;
  QALoraScale qalora_scale = QALoraScale::peft;
  bool autocast_adapter_dtype = true;  // parameters in f32 even where a dense base is f16 or bf16
  std::uint64_t seed = 0;              // of the initial values and of dropout
};
/// What a configuration says about one layer; r and lora_alpha are taken as they are, without the patterns.
Options options(const LoraConfig& config, std::uint64_t seed = 0);

class LoraAdapter : public Adapter {
 public:
  /// ValueError for r <= 0, an unknown scheme of initial values, and what that scheme refuses; see initialise().
  LoraAdapter(LinearBase& base, const Options& options, Rounding rounding);

  std::string_view method() const override { return "lora"; }
  std::string description() const override;
  void visit(Visitor& visitor, const std::string& name) override;
  std::optional<LowRankTerm> term(const Tensor& x, const AdapterCall& call) const override;

  std::int64_t r() const { return B.dim(1); }
  double scaling() const { return scaling_; }
  Rounding rounding() const { return rounding_; }
  void set_scale(double factor) override { scaling_ = factor * initial_scaling_; }
  void scale(double factor) override { scaling_ *= factor; }

  Tensor merged(const Tensor& weight, bool safe) override;
  Tensor unmerged(const Tensor& weight) override;
  Tensor bias_delta() const override;
  /// s · B A [out, in], in the adapter's dtype; half-precision factors are multiplied in f32.
  virtual Tensor delta_weight() const;

  Tensor A;     // [r, in]
  Tensor B;     // [out, r]
  Tensor bias;  // [out]; undefined unless lora_bias

 protected:
  /// For variants whose A has another width.
  LoraAdapter(LinearBase& base, const Options& options, Rounding rounding, std::int64_t width, const InitWeights& scheme);
  /// x in the adapter's dtype; as it is, where the wrapper's order of rounding leaves casting to autocast.
  Tensor cast_input(const Tensor& x) const;
  /// d(x), for a training call of an adapter that has dropout; else x.
  Tensor dropped_out(const Tensor& x, const AdapterCall& call) const;

 private:
  Rounding rounding_;
  double initial_scaling_, scaling_, dropout_;
  mutable Generator generator_;
};

/// Fills A, B and bias, which have their shapes and dtype, by a scheme of init_lora_weights:
/// true: A uniform within ±1/√in, B and bias zero. false: B and bias uniform within ±1/√r instead. "gaussian": A normal with deviation
/// 1/r, B zero. "orthogonal": B A = 0 with factors from a random orthogonal matrix, r even. "olora" (QR), "pissa" and "pissa_niter_k"
/// (SVD) take the factors from a dense base's weight, and what they take out of it: W −= s·B A.
/// ValueError for an unknown scheme; for the last three on a quantized base AttributeError (TypeError on EETQ), as in PEFT;
/// NotImplementedError for PEFT's schemes that need data or another quantization ("eva", "corda", "loftq", "lora_ga", "mica").
void initialise(const InitWeights& scheme, double scaling, LinearBase& base, Tensor& A, Tensor& B, Tensor& bias,
                Generator& generator);

/// Whether a scheme changes the base's weight ("olora", "pissa" and its like).
bool takes_from_weight(const InitWeights& scheme);

/// Where new parameters belong: on the base's device, in the base's dtype if that is floating, else in f32.
struct Placement {
  Device device;
  DType dtype;
};
Placement placement(LinearBase& base, bool autocast_adapter_dtype);

}  // namespace graft::lora
