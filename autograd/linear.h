// The linear layer as adapters see it: a base product to which low-rank terms can be handed down.
#pragma once

#include <span>

#include "graft/core/module.h"

namespace graft {

/// Where results are rounded when a half-precision base meets float32 adapters (PEFT's orders; they give different bits).
enum class Rounding {
  once,          // dense: everything accumulates in the promoted dtype, one cast at the end
  per_adapter,   // GPTQ: input always cast to the adapter's dtype, cast back after every adapter
  before_scale,  // AWQ, EETQ: outside autocast the delta is cast first and scaled in the base's dtype; under autocast no casts
  after_scale,   // AdaLoRA on GPTQ, mixed batches: outside autocast the scaled delta is cast, then added in the base's dtype
};

/// Rows [begin, end) of a flattened input.
struct RowRange {
  std::int64_t begin, end;
};
/// The numbers of all of them, one range after the other: i64, for index_select and index_add.
Tensor row_numbers(std::span<const RowRange> rows, Device device);

/// One adapter's share: y += scale · (x Aᵀ Bᵀ + bias).
struct LowRankTerm {
  Tensor x = {};     // this term's own input (dropped out, gathered rows); undefined: the layer's input
  Tensor A = {};     // [r, in / group]
  Tensor B = {};     // [out, r]
  Tensor bias = {};  // [out] or undefined
  double scale = 1;
  Rounding rounding = Rounding::once;
  std::int64_t group = 1;  // so many neighbours of x meet A as one number, `pooling` times their mean
  double pooling = 1;
  std::vector<RowRange> rows = {};  // which this term is for, in the order of an input of its own; empty: all
  bool pools() const { return group != 1 || pooling != 1; }
};

/// An orthogonal change of a layer's input, x R with a block-diagonal R: x' = x R in the blocks' dtype, and then in `dtype`.
struct Rotation {
  Tensor blocks;  // [in / b, b, b], or one for all blocks: [1, b, b]
  DType dtype = DType::f32;
};
/// x' for x [..., in], composed of operations. ValueError for blocks that do not fit.
Tensor rotate(const Tensor& x, const Rotation& rotation);

class LinearBase : public Module {
 public:
  virtual std::int64_t in_features() const = 0;
  virtual std::int64_t out_features() const = 0;
  /// The base's bias [out]; undefined if it has none.
  virtual Tensor bias() const = 0;
  /// The dense weight, if that is what this layer holds; undefined otherwise (quantized).
  virtual Tensor weight() const { return {}; }
  /// [..., in] → [..., out], in x's dtype.
  virtual Tensor forward(const Tensor& x) const = 0;
  /// forward(x) plus the terms, in their order. The default composes operations (low_rank_sum); a layer with a fused kernel overrides it.
  virtual Tensor forward(const Tensor& x, std::span<const LowRankTerm> terms) const;
  /// forward(x'), in the dtype that it has for x'. The default composes operations (rotate), too.
  virtual Tensor forward_rotated(const Tensor& x, const Rotation& rotation) const { return forward(rotate(x, rotation)); }
};

/// result + terms, in the terms' orders of rounding, composed of operations.
Tensor low_rank_sum(Tensor result, const Tensor& x, std::span<const LowRankTerm> terms);

/// The dense layer: x Wᵀ + b with W [out, in].
class Linear final : public LinearBase {
 public:
  /// ValueError unless weight is [out, in] and floating, and bias undefined or [out].
  Linear(Tensor weight, Tensor bias = {});
  std::string type_name() const override { return "Linear"; }
  std::string description() const override;
  void visit(Visitor& visitor) override;
  std::int64_t in_features() const override { return weight_.dim(1); }
  std::int64_t out_features() const override { return weight_.dim(0); }
  Tensor bias() const override { return bias_; }
  Tensor weight() const override { return weight_; }
  Tensor forward(const Tensor& x) const override;
  Tensor forward(const Tensor& x, std::span<const LowRankTerm> terms) const override;

 private:
  Tensor weight_, bias_;
};

}  // namespace graft
