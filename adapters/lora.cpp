#include "graft/adapters/lora.h"

#include <cmath>

#include "graft/adapters/warning.h"
#include "graft/adapters/wrappers.h"
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"

namespace graft::lora {

Options options(const LoraConfig& c, std::uint64_t seed) {
  return {.r = c.r,
          .lora_alpha = c.lora_alpha,
          .lora_dropout = c.lora_dropout,
          .init_lora_weights = c.init_lora_weights,
          .use_rslora = c.use_rslora,
          .use_dora = c.use_dora,
          .use_qalora = c.use_qalora,
          .lora_bias = c.lora_bias,
          .qalora_group_size = c.qalora_group_size,
          .qalora_scale = c.qalora_scale,
          .seed = seed};
}

Placement placement(LinearBase& base, bool autocast_adapter_dtype) {
  struct First final : Visitor {
    Tensor tensor;
    void note(const Tensor& t) {
      if (!tensor.defined()) tensor = t;
    }
    void parameter(std::string_view, Tensor& t) override { note(t); }
    void buffer(std::string_view, Tensor& t) override { note(t); }
    void child(std::string_view, SlotBase& slot) override { slot.module()->visit(*this); }
  };
  First first;
  base.visit(first);
  const Tensor weight = dense_weight(base);
  DType dtype = weight.defined() ? weight.dtype() : DType::f32;
  if (autocast_adapter_dtype && is_half(dtype)) dtype = DType::f32;
  // A quantized layer may have no tensor to be seen.
  if (const auto* quantized = dynamic_cast<const quant::QuantLinear*>(&adapters::innermost(base)))
    return {quantized->device(), dtype};
  return {weight.defined() ? weight.device() : first.tensor.defined() ? first.tensor.device() : Device::cpu(), dtype};
}

LoraAdapter::LoraAdapter(LinearBase& base, const Options& options, Rounding rounding)
    : LoraAdapter(base, options, rounding, base.in_features(), options.init_lora_weights) {}

LoraAdapter::LoraAdapter(LinearBase& base, const Options& options, Rounding rounding, std::int64_t width,
                         const InitWeights& scheme)
    : rounding_(rounding), dropout_(options.lora_dropout), generator_{options.seed, 0} {
  check(options.r > 0, "r is {}, and the rank must be a positive integer", options.r);
  check(options.lora_dropout >= 0 && options.lora_dropout < 1, "lora_dropout is {}, not a probability in [0, 1)",
        options.lora_dropout);
  check(std::isfinite(options.lora_alpha), "lora_alpha is {}, not a finite number", options.lora_alpha);
  const double r = static_cast<double>(options.r);
  initial_scaling_ = scaling_ = options.lora_alpha / (options.use_rslora ? std::sqrt(r) : r);
  const auto [device, dtype] = placement(base, options.autocast_adapter_dtype);
  A = Tensor::empty({options.r, width}, dtype, device);
  B = Tensor::empty({base.out_features(), options.r}, dtype, device);
  if (options.lora_bias && !base.bias().defined())
    adapters::warn("lora_bias is true and the base layer has no bias, so that this adapter cannot be merged");
  if (options.lora_bias) bias = Tensor::empty({base.out_features()}, dtype, device);
  initialise(scheme, scaling_, base, A, B, bias, generator_);
}

std::string LoraAdapter::description() const { return fmt::format("r={}, scaling={:g}, dropout={:g}", r(), scaling_, dropout_); }

void LoraAdapter::visit(Visitor& visitor, const std::string& name) {
  visitor.parameter(fmt::format("lora_A.{}.weight", name), A);
  visitor.parameter(fmt::format("lora_B.{}.weight", name), B);
  if (bias.defined()) visitor.parameter(fmt::format("lora_B.{}.bias", name), bias);
  visitor.generator(fmt::format("lora_dropout.{}", name), generator_);
}

Tensor LoraAdapter::cast_input(const Tensor& x) const {
  const bool left_to_autocast = rounding_ == Rounding::before_scale || rounding_ == Rounding::after_scale;
  return left_to_autocast && autocast::dtype(x.device().type) ? x : to(x, A.dtype());
}

Tensor LoraAdapter::dropped_out(const Tensor& x, const AdapterCall& call) const {
  return call.training && dropout_ > 0 ? dropout(x, dropout_, generator_) : x;
}

std::optional<LowRankTerm> LoraAdapter::term(const Tensor& x, const AdapterCall& call) const {
  const Tensor own = call.training && dropout_ > 0 ? dropped_out(cast_input(x), call) : Tensor();
  return LowRankTerm{.x = own, .A = A, .B = B, .bias = bias, .scale = scaling_, .rounding = rounding_, .rows = {}};
}

Tensor LoraAdapter::delta_weight() const {
  const NoGrad no_grad;
  const DType wide = is_half(A.dtype()) ? DType::f32 : A.dtype();
  return to(matmul(to(B, wide), to(A, wide)) * scaling_, A.dtype());
}

Tensor LoraAdapter::merged(const Tensor& weight, bool safe) {
  const Tensor delta = delta_weight();
  return to(weight + (safe ? to(delta, weight.dtype()) : delta), weight.dtype());
}

Tensor LoraAdapter::unmerged(const Tensor& weight) { return weight - to(delta_weight(), weight.dtype()); }

Tensor LoraAdapter::bias_delta() const {
  const NoGrad no_grad;
  return bias.defined() ? bias * scaling_ : Tensor();
}

}  // namespace graft::lora
