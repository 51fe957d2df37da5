#include "graft/quant/quant_linear.h"

#include "graft/autograd/ops.h"
#include "graft/quant/kernels.h"

namespace graft::quant {
namespace {

using Weight = std::shared_ptr<const Packed>;

/// x [..., a] as a matrix [rows, a], without a copy where its strides allow.
Tensor as_matrix(const Tensor& x) {
  const std::int64_t width = x.dim(-1);
  if (x.rank() == 2) return x.detach();
  const Tensor straight = x.is_contiguous() ? x : x.clone();
  std::int64_t rows = 1;
  for (int i = 0; i + 1 < x.rank(); ++i) rows *= x.dim(i);
  return straight.alias({rows, width}, {width, 1}, straight.offset());
}

/// Runs `product(x as a matrix, y as a matrix)` for a new y [..., to].
template <class Product>
Tensor apply(const char* what, const Tensor& x, std::int64_t from, std::int64_t to, Product&& product) {
  check<TypeError>(is_floating(x.dtype()), "{}: the input holds {}, not a floating type", what, x.dtype());
  check(x.rank() >= 1 && x.dim(-1) == from, "{}: the input has shape {}; its last dimension must be {}", what, x.shape(), from);
  check<NotImplementedError>(x.device().is_cpu(), "{}: not available on device {}", what, x.device());
  Shape shape = x.shape();
  shape[shape.rank() - 1] = to;
  const Tensor y = Tensor::empty(shape, x.dtype());
  if (y.count() > 0) product(as_matrix(x).view(), as_matrix(y).view());
  return y;
}

Tensor product_transposed(const Weight& weight, const Tensor& dy);

Tensor product(const Weight& weight, const Tensor& x, const Tensor& bias) {
  const Tensor y = apply("quantized linear", x, weight->in, weight->out, [&](const View& in, const View& out) {
    const View added = bias.defined() ? bias.view() : View();
    forward(*weight, in, bias.defined() ? &added : nullptr, out);
  });
  return record("quant_linear", y)
      .wrt(x, [weight](const Tensor& dy) { return product_transposed(weight, dy); })
      .wrt(bias, [](const Tensor& dy) { return dy; });
}

/// dy Wᵀ, the rule of the product and an operation of its own; its rule is the product again.
Tensor product_transposed(const Weight& weight, const Tensor& dy) {
  const Tensor dx = apply("quantized linear, transposed", dy, weight->out, weight->in,
                          [&](const View& in, const View& out) { backward(*weight, in, out); });
  return record("quant_linear_transposed", dx).wrt(dy, [weight](const Tensor& ddx) { return product(weight, ddx, {}); });
}

}  // namespace

QuantLinear::QuantLinear(Description description, std::shared_ptr<const Packed> packed, Tensor bias,
                         std::vector<NamedTensor> original)
    : description_(std::move(description)), packed_(std::move(packed)), bias_(std::move(bias)), original_(std::move(original)) {
  check(packed_ != nullptr, "QuantLinear: there is no packed weight");
  check(!bias_.defined() || bias_.shape() == Shape{packed_->out}, "QuantLinear: a bias of shape {} for {} out features",
        bias_.defined() ? bias_.shape() : Shape(), packed_->out);
}

std::string QuantLinear::description() const {
  return fmt::format("in_features={}, out_features={}, bias={}, {} {}, bits={}, group_size={}", in_features(), out_features(),
                     bias_.defined() ? "True" : "False", description_.method, description_.layout, description_.bits,
                     description_.group_size);
}

void QuantLinear::visit(Visitor& visitor) {
  if (bias_.defined()) visitor.parameter("bias", bias_);
}

std::int64_t QuantLinear::in_features() const { return packed_->in; }
std::int64_t QuantLinear::out_features() const { return packed_->out; }

Tensor QuantLinear::forward(const Tensor& x) const { return product(packed_, autocast::lower(x), bias_); }

Tensor QuantLinear::dequantize(std::int64_t begin, std::int64_t end) const {
  check(begin >= 0 && begin <= end && end <= out_features(), "dequantize: rows {} to {} of {}", begin, end, out_features());
  const Tensor rows = Tensor::empty({end - begin, in_features()});
  if (end > begin) quant::dequantize(*packed_, begin, end, rows.data<float>());
  return rows;
}

const std::vector<NamedTensor>& QuantLinear::original() const {
  check<AttributeError>(!original_.empty(), "this layer was not made from stored tensors, so it has none to give back");
  return original_;
}

Tensor QuantLinear::qweight() const {
  for (const char* name : {"qweight", "weight", "B"})
    for (const NamedTensor& named : original())
      if (named.name == name) return named.tensor;
  fail<AttributeError>("this layer's stored tensors have no packed weight among them");
}

}  // namespace graft::quant
