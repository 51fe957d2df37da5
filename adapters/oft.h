// OFT (Qiu et al., 2023) on the input side: y = W (x R) + b with a block-diagonal R [in, in] that is orthogonal, or nearly so.
// Each block comes from a skew-symmetric Q [b, b], of which the strict upper triangle is stored, row by row.
//
// Exact Cayley: R = (I − Q)(I + Q)⁻¹. Cayley-Neumann series with N terms (PEFT since 0.18): I + 2 Σ_{k=1}^{N−2} Q^k + Q^{N−1}; N ≤ 1 is I,
// N = 2 is I + 2Q, and N = 3 is what N = 4 is. The series converges to (I + Q)(I − Q)⁻¹, the *inverse* of the exact form, and is only nearly
// orthogonal: an adapter that was trained with one does not mean the same with the other.
#pragma once

#include <memory>
#include <string>

#include "graft/adapters/adapter.h"
#include "graft/adapters/config.h"
#include "graft/adapters/derived.h"
#include "graft/quant/quant_linear.h"

namespace graft::oft {

/// The parameters of GPTQOFTLinear's constructor, with its defaults.
struct Options {
  std::int64_t r = 8;  // number of blocks, or
  std::int64_t oft_block_size = 0;
  double module_dropout = 0;
  bool coft = false;
  double eps = 6e-5;  // COFT's radius; not for stability
  bool block_share = false;
  bool use_cayley_neumann = false;
  std::int64_t num_cayley_neumann_terms = 5;
  bool fan_in_fan_out = false;
  InitWeights init_weights = true;  // true: R = I; false: random, for tests
  bool autocast_adapter_dtype = true;
  std::uint64_t seed = 0;
};
Options options(const OFTConfig& config, std::uint64_t seed = 0);

/// Where half-precision inputs are rounded. Injection takes the first for GPTQ and EETQ; rules::oft_per_rotation() offers the second.
enum class Casts {
  wide,  // the rotated input stays in the adapter's dtype; a quantized base computes there and its result is cast back (PEFT ≤ 0.18)
  per_rotation,  // cast back to the input's dtype after every rotation (AWQ; everywhere in PEFT ≥ 0.19)
};

/// The number of blocks and their size for `features`: the one that is given (the other is 0) becomes the nearest divisor, ties going down,
/// with a warning. ValueError if both are given, or neither.
struct Blocks {
  std::int64_t count, size;
};
Blocks resolve_blocks(std::int64_t features, std::int64_t r, std::int64_t block_size);

/// The rotation itself.
class OFTRotation {
 public:
  /// Zero blocks' worth of generators, or random ones with deviation 0.1; [count, b(b−1)/2], or one row when the block is shared.
  OFTRotation(std::int64_t features, const Options& options, DType dtype, Device device, Generator& generator);

  /// x R, block by block; computed in the weight's dtype and returned in x's.
  Tensor forward(const Tensor& x) const { return rotate(x, {matrix(weight), x.dtype()}); }
  /// R as [rows, b, b], differentiable; the inverse and the exact form are computed in f32 where the weight is half precision.
  Tensor matrix(const Tensor& generators) const;
  /// COFT: every block's Q scaled back to the ball of radius eps/√rows around zero (Frobenius norm), if it is outside. Not recorded.
  Tensor projected() const;

  std::int64_t block_size() const { return size_; }
  std::int64_t blocks() const { return features_ / size_; }
  const Options& options() const { return options_; }
  /// What it holds beside the weight.
  void visit_kept(Visitor& visitor) const;

  Tensor weight;

 private:
  Options options_;
  std::int64_t features_, size_;
  Tensor index_, sign_;  // Q[i, j] = sign · (weight, 0)[index]
};

class OFTAdapter final : public Adapter {
 public:
  OFTAdapter(LinearBase& base, const Options& options, Casts casts);

  std::string_view method() const override { return "oft"; }
  std::string description() const override;
  void visit(Visitor& visitor, const std::string& name) override;
  std::optional<Rotation> rotation(const Tensor& x, const AdapterCall& call) const override;
  bool turns_input() const override { return true; }
  /// COFT: puts the parameter itself into its ball, where every use of it would take it.
  void loaded() override { move_inside(); }

  /// OFT has no scaling: set_scale() is an AttributeError, as in PEFT, and the other two warn and do nothing.
  void scale(double factor) override;
  void reset_scale() override;

  /// W Rᵀ, computed in the adapter's dtype (f32 for half precision).
  Tensor merged(const Tensor& weight, bool safe) override;
  /// W R⁻ᵀ with the inverse, since the series is not orthogonal.
  Tensor unmerged(const Tensor& weight) override;

  OFTRotation& rotation() { return rotation_; }
  /// How many blocks module_dropout switches off in a training call: none if there is one block, or one for all.
  std::int64_t dropped_blocks() const;

 private:
  OFTAdapter(LinearBase& base, const Options& options, Casts casts, Generator generator);
  Tensor generators(bool training) const;
  Tensor blocks(bool training) const;
  void move_inside() const;
  Casts casts_;
  mutable Generator generator_;
  OFTRotation rotation_;
  // Kept between calls that do not train.
  adapters::Derived projected_;  // COFT's copy
  adapters::Derived blocks_;     // R, where nobody differentiates
};

/// PEFT's layers by name. All rotate first and call the base once.
class Linear final : public AdapterLayer {
 public:
  Linear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options = {});
};
class GPTQOFTLinear final : public AdapterLayer {
 public:
  GPTQOFTLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options = {},
                Casts casts = Casts::wide);
};
class AwqOFTLinear final : public AdapterLayer {
 public:
  AwqOFTLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name,
               const Options& options = {.r = 0, .oft_block_size = 32});
};
/// merge() and unmerge() are AttributeErrors.
class EetqOFTLinear final : public AdapterLayer {
 public:
  EetqOFTLinear(std::shared_ptr<LinearBase> base_layer, const std::string& adapter_name, const Options& options = {.r = 0},
                Casts casts = Casts::wide);
  Tensor weight() const override { return qweight(); }
  [[noreturn]] void merge(bool safe_merge = false, std::optional<std::vector<std::string>> names = {}) override;
  [[noreturn]] void unmerge() override;
};

/// A wrapper around `target` if its innermost base is of the method, else null; see the LoRA dispatchers.
std::shared_ptr<GPTQOFTLinear> dispatch_gptq(const std::shared_ptr<LinearBase>& target, const std::string& adapter_name,
                                             const Options& options,
                                             const quant::Description* gptq_quantization_config = nullptr);
std::shared_ptr<AwqOFTLinear> dispatch_awq(const std::shared_ptr<LinearBase>& target, const std::string& adapter_name,
                                           const Options& options, const std::string& auto_awq_version = {});
std::shared_ptr<EetqOFTLinear> dispatch_eetq(const std::shared_ptr<LinearBase>& target, const std::string& adapter_name,
                                             const Options& options);

}  // namespace graft::oft
