// A linear layer over packed integer weights: one packed copy serves the product and its input gradient, for every format.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "graft/autograd/linear.h"
#include "graft/quant/compute.h"

namespace graft::quant {

/// What a layer was understood to be, in the words of the checkpoint's own tools.
struct Description {
  std::string method;  // "gptq", "awq", "eetq"
  std::string layout;  // "gptq", "gptq_v2", "gptq_p"; "gemm", "gemv", "gemv_fast", "llm-awq", "marlin"; "plain", "sm70", "sm80"
  int bits = 4;
  std::int64_t group_size = 128;  // as configured; -1 is one group
  bool sym = true;
  bool sym_assumed = false;  // the config does not say, and sym is its readers' default
  bool desc_act = false;
  std::string producer;          // "gptqmodel", "auto_gptq", "autoawq", …: empty when the file does not say
  std::string producer_version;  // "7.7.0"; empty when unknown
  std::string reading;           // how zero points or bytes were read, and why, for inspect()
  std::string zeros;       // GPTQ: how zero points are stored, "z", "z-1 per field", "z-1 per word" or "z-1 scrambled"; when
                           // empty, settled by layout, producer and data as in formats/gptq.h
  std::string pack_dtype;  // GPTQ: "int32", "int16" or "int8", the words' size; empty: as the tensors are
  int exllama = 1;         // GPTQ: the generation of the exllama kernel that the config allows AutoGPTQ, 0 for none (auto_gptq.h)
};

struct Packed;  // quant/kernels.h: the repacked weight that kernels read

class QuantLinear final : public LinearBase {
 public:
  /// `original` are the tensors that the packed form was made from; they may alias a mapped file. ValueError unless bias is undefined
  /// or [out].
  QuantLinear(Description description, std::shared_ptr<const Packed> packed, Tensor bias = {},
              std::vector<NamedTensor> original = {});

  std::string type_name() const override { return "QuantLinear"; }
  std::string description() const override;
  void visit(Visitor& visitor) override;
  /// Moves the packed weight; the stored tensors stay where they are.
  void move_to(Device device) override;
  /// Where the packed weight lies.
  Device device() const;

  const Description& format() const { return description_; }
  const Packed& packed() const { return *packed_; }
  /// The same, for whoever has to tell one packed weight from another that takes its place.
  const std::shared_ptr<const Packed>& packed_pointer() const { return packed_; }
  std::int64_t in_features() const override;
  std::int64_t out_features() const override;
  Tensor bias() const override { return bias_; }
  /// x [..., in] → [..., out] in x's dtype (the autocast dtype under autocast); f64, f32, f16 and bf16, accumulated in f32 or wider;
  /// differentiable in x and in the bias, any number of times.
  Tensor forward(const Tensor& x) const override;
  /// The same plus the terms. Where nothing else than factors is asked of them, x is read and y written once, forward and in the input
  /// gradient: terms that share f32 or f64 with x are summed with the product; terms of a half-precision x, in f32 or its own type, have
  /// sums of their own and join the rounded product in their orders of rounding. Terms of some rows are among them in up to 32 ranges where
  /// gradients are off. Otherwise they are composed of operations.
  Tensor forward(const Tensor& x, std::span<const LowRankTerm> terms) const override;
  /// forward(x R). Where gradients are off, and neither of x and R is rounded but where autocast does it, the product makes x R itself, in the
  /// composed operations' order of rounding (and not in tf32, which packed weights never meet).
  Tensor forward_rotated(const Tensor& x, const Rotation& rotation) const override;

  /// How forward treats activations; exact unless it is set. Gradients are those of the exact product either way. Not while another
  /// thread is in forward.
  void set_compute(Compute compute) { compute_ = compute; }
  Compute compute() const { return compute_; }

  /// Rows [begin, end) of the dense weight [out, in] in f32, on the CPU: each entry the exact product of integer and scale, rounded once.
  /// For inspection, DoRA norms and tests; nothing in forward or backward makes the whole of it.
  Tensor dequantize(std::int64_t begin, std::int64_t end) const;
  /// The stored tensors in the checkpoint's own layout: "qweight", "qzeros", "scales", "g_idx", … byte for byte as read.
  /// AttributeError for a layer that was made without them.
  const std::vector<NamedTensor>& original() const;
  /// original()'s "qweight" ("weight" for EETQ, "B" for Marlin): what PEFT's wrappers expose under that name.
  Tensor qweight() const;

 private:
  Description description_;
  std::shared_ptr<const Packed> packed_;
  Tensor bias_;
  std::vector<NamedTensor> original_;
  Compute compute_ = Compute::exact;
};

/// What a way of computing changes for this input [..., in] of f32, f16 or bf16: ‖y − exact‖ / ‖exact‖ over all elements of x W, in f32
/// whatever x is, without the bias. 0 for Compute::exact; infinite where only the exact product is 0. TypeError for f64.
double compute_error(const QuantLinear& layer, Compute compute, const Tensor& x);

}  // namespace graft::quant
