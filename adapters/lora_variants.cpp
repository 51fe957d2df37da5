#include "graft/adapters/lora_variants.h"

#include <algorithm>

#include "graft/adapters/warning.h"
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"
#include "graft/quant/quant_linear.h"

namespace graft::lora {
namespace {

constexpr int last[] = {-1};

Tensor row_sum(const Tensor& x) { return sum(x, last); }

/// ‖W‖² [out] by row of a packed weight, in f64, a block of rows at a time.
Tensor row_squares(const quant::QuantLinear& base, Device device) {
  constexpr std::int64_t block = 64;
  std::vector<Tensor> parts;
  for (std::int64_t begin = 0; begin < base.out_features(); begin += block) {
    const Tensor rows = to(base.dequantize(begin, std::min(begin + block, base.out_features())), DType::f64);
    parts.push_back(row_sum(rows * rows));
  }
  return to(concat(parts, 0), device);
}

}  // namespace

// ---- DoRA ----

DoraLinearVariant::DoraLinearVariant(LinearBase& base, const Options& options, Rounding rounding)
    : LoraAdapter(base, options, rounding) {
  check(!options.lora_bias, "lora_bias cannot be combined with use_dora");
  const NoGrad no_grad;
  magnitude = norms(base);
}

void DoraLinearVariant::visit(Visitor& visitor, const std::string& name) {
  LoraAdapter::visit(visitor, name);
  visitor.parameter(fmt::format("lora_magnitude_vector.{}.weight", name), magnitude);
  visitor.kept(merged_scale_);
}

Tensor DoraLinearVariant::norms(const LinearBase& base) const {
  const NoGrad no_grad;
  const autocast::Guard exact(A.device().type, {});
  const double s = scaling();
  const DType dtype = A.dtype();
  if (const Tensor weight = dense_weight(base); weight.defined()) return norm(to(weight, dtype) + delta_weight(), last);
  const auto* quantized = dynamic_cast<const quant::QuantLinear*>(&base);
  check<AttributeError>(quantized != nullptr, "DoRA needs the norms of a weight, which {} does not have", base.type_name());
  const Tensor square = to(base_square_.get({.tensors = {}, .numbers = {}, .object = quantized->packed_pointer()},
                                            [&] { return row_squares(*quantized, A.device()); }),
                           A.device());
  const Tensor bias = base.bias();
  Tensor product = to(base.forward(A), dtype);  // A Wᵀ + b [r, out]
  if (bias.defined()) product = product - to(bias, dtype);
  const Tensor cross = row_sum(B * product.t());
  const Tensor own = row_sum(matmul(B, matmul(A, A.t())) * B);
  return to(sqrt(maximum(square + cross * (2 * s) + own * (s * s), Tensor::zeros({}, DType::f64, A.device()))), dtype);
}

Tensor DoraLinearVariant::norms(const AdapterCall& call) const {
  if (call.training) return norms(call.base);
  const auto* quantized = dynamic_cast<const quant::QuantLinear*>(&call.base);
  return norms_.get({.tensors = {A, B, dense_weight(call.base), call.base.bias()},
                     .numbers = {scaling()},
                     .object = quantized ? quantized->packed_pointer() : nullptr},
                    [&] { return norms(call.base); });
}

Tensor DoraLinearVariant::output(const Tensor& y, const Tensor& x, const AdapterCall& call) const {
  const Tensor own = cast_input(x), dropped = dropped_out(own, call);
  const Tensor g = magnitude / norms(call);
  const Tensor bias = call.base.bias(), weight = dense_weight(call.base);
  Tensor z;
  if (dropped.same(own)) z = bias.defined() ? y - bias : y;
  else if (weight.defined()) z = linear(dropped, to(weight, dropped.dtype()));
  else z = bias.defined() ? call.base.forward(dropped) - bias : call.base.forward(dropped);
  return y + ((g - 1) * z + g * linear(linear(dropped, A), B) * scaling());
}

Tensor DoraLinearVariant::merged(const Tensor& weight, bool) {
  const NoGrad no_grad;
  const Tensor changed = weight + delta_weight();
  merged_scale_ = unsqueeze(magnitude / norm(to(weight, A.dtype()) + delta_weight(), last), -1);
  return to(merged_scale_ * changed, weight.dtype());
}

Tensor DoraLinearVariant::unmerged(const Tensor& weight) {
  const NoGrad no_grad;
  check(merged_scale_.defined(), "dora: this adapter was not merged, or not by this process");
  return to(weight / merged_scale_ - delta_weight(), weight.dtype());
}

// ---- QA-LoRA ----

namespace {

std::int64_t groups(const LinearBase& base, const Options& options) {
  check(options.qalora_group_size > 0 && base.in_features() % options.qalora_group_size == 0,
        "use_qalora: qalora_group_size ({}) must divide in_features ({})", options.qalora_group_size, base.in_features());
  return base.in_features() / options.qalora_group_size;
}

/// What is left of a scheme for B, once A is uniform anyway.
InitWeights qalora_scheme(const InitWeights& scheme) {
  const bool* on = std::get_if<bool>(&scheme);
  if (on) return *on;
  check(is_scheme(scheme, "gaussian"), "use_qalora takes init_lora_weights true, false or 'gaussian', not '{}'",
        std::get<std::string>(scheme));
  return true;
}

double pooling(QALoraScale scale, std::int64_t groups, std::int64_t group_size) {
  switch (scale) {
    case QALoraScale::peft: return static_cast<double>(groups);
    case QALoraScale::paper: return static_cast<double>(group_size);
    case QALoraScale::authors: return 1;
  }
  fail("qalora_scale has no such value: {}", static_cast<int>(scale));
}

}  // namespace

QALoraLinearVariant::QALoraLinearVariant(LinearBase& base, const Options& options, Rounding rounding)
    : LoraAdapter(base, options, rounding, groups(base, options), qalora_scheme(options.init_lora_weights)),
      group_size_(options.qalora_group_size),
      pooling_(pooling(options.qalora_scale, groups(base, options), group_size_)) {
  if (options.lora_bias) adapters::warn("use_qalora: the bias of lora_B is kept but not applied");
  if (!std::holds_alternative<bool>(options.init_lora_weights))
    adapters::warn("use_qalora: lora_A is uniform at first, whatever the scheme");
}

std::string QALoraLinearVariant::description() const {
  return fmt::format("{}, group_size={}", LoraAdapter::description(), group_size_);
}

std::optional<LowRankTerm> QALoraLinearVariant::term(const Tensor& x, const AdapterCall& call) const {
  std::optional<LowRankTerm> term = LoraAdapter::term(x, call);
  term->bias = {};
  term->group = group_size_;
  term->pooling = pooling_;
  return term;
}

Tensor QALoraLinearVariant::group_delta() const {
  return LoraAdapter::delta_weight() * (pooling_ / static_cast<double>(group_size_));
}

Tensor QALoraLinearVariant::merged(const Tensor&, bool safe) {
  fail<NotImplementedError>("qalora: {} into a dense weight is not offered", safe ? "safe_merge" : "merge");
}
Tensor QALoraLinearVariant::unmerged(const Tensor&) {
  fail<NotImplementedError>("qalora: unmerge from a dense weight is not offered");
}
Tensor QALoraLinearVariant::delta_weight() const {
  fail<NotImplementedError>("qalora: the change has no dense form; see group_delta()");
}

VariantMaker resolve_lora_variant(bool use_dora, bool use_qalora) {
  check<NotImplementedError>(!(use_dora && use_qalora), "use_dora and use_qalora cannot be combined");
  if (use_dora) return &make_variant<DoraLinearVariant>;
  if (use_qalora) return &make_variant<QALoraLinearVariant>;
  return nullptr;
}

}  // namespace graft::lora
