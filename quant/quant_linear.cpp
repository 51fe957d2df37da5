#include "graft/quant/quant_linear.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"
#include "graft/core/elementwise.h"
#include "graft/core/kernels.h"
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
Tensor apply(const char* what, const Packed& weight, const Tensor& x, std::int64_t from, std::int64_t to, Product&& product) {
  check<TypeError>(is_floating(x.dtype()), "{}: the input holds {}, not a floating type", what, x.dtype());
  check(x.rank() >= 1 && x.dim(-1) == from, "{}: the input has shape {}; its last dimension must be {}", what, x.shape(), from);
  check(x.device() == weight.device(), "{}: the input is on {}, the weight on {}", what, x.device(), weight.device());
  Shape shape = x.shape();
  shape[shape.rank() - 1] = to;
  const Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  if (y.count() > 0) product(as_matrix(x).view(), as_matrix(y).view());
  return y;
}

Tensor folded(const Tensor& x) { return reshape(x, {-1, x.dim(-1)}); }

/// A share of a product's result, scale · (x Aᵀ) Bᵀ with A [r, from] and B [to, r]; only without gradients one of some rows.
struct Term {
  Tensor A, B;
  double scale;
  Join join = Join::summed;
  std::optional<RowRange> rows = {};
  /// The share before Bᵀ, [..., r], in the factors' dtype.
  Tensor narrow(const Tensor& x) const {
    const Tensor share = linear(to(x, A.dtype()), A);
    return scale == 1 || join == Join::scaled ? share : share * scale;
  }
};

/// x W (+ bias) and the terms, or with Wᵀ, each element summed in one pass; `narrow` are the terms' narrow(x). Makes the outer products, too.
Tensor multiply(const Weight& weight, bool transposed, const Tensor& x, const Tensor& bias, const std::vector<Term>& terms,
                const std::vector<Tensor>& narrow, Compute compute, std::span<const Outer> outer) {
  const NoGrad unrecorded;
  const char* what = transposed ? "quantized linear, transposed" : "quantized linear";
  const std::int64_t from = transposed ? weight->out : weight->in, to = transposed ? weight->in : weight->out;
  check(!bias.defined() || bias.device() == weight->device(), "{}: the bias is on {}, the weight on {}", what,
        bias.defined() ? bias.device() : Device(), weight->device());
  const bool beside = transposed && x.count() > 0;
  const Tensor y = apply(what, *weight, x, from, to, [&](const View& in, const View& out) {
    std::vector<LowRank> shares;
    for (std::size_t i = 0; i < terms.size(); ++i)
      shares.push_back({folded(narrow[i]).view(), terms[i].B.t().view(), terms[i].join, terms[i].scale,
                        terms[i].rows ? terms[i].rows->begin : 0});
    const View added = bias.defined() ? bias.view() : View();
    if (transposed) backward(*weight, in, out, shares, outer);
    else forward(*weight, in, bias.defined() ? &added : nullptr, out, shares, compute);
  });
  if (!beside) outer_products(outer, y.device());
  return y;
}

Tensor product(const Weight& weight, bool transposed, const Tensor& x, const Tensor& bias, const std::vector<Term>& terms,
               const std::vector<Tensor>& narrow, Compute compute = Compute::exact, std::span<const Outer> outer = {});

/// aᵀ b in a's dtype, with a [m, i] and b [m, j].
struct Factors {
  Tensor a, b;
  Tensor* product;
};

/// The outer products for a kernel to make, with memory for them; made already where they are differentiated once more.
std::vector<Outer> outer_views(std::span<Factors> all) {
  std::vector<Outer> views;
  for (auto& [a, b, product] : all) {
    if (grad_enabled() || !a.device().is_cpu()) b = to(b, a.dtype());  // a GPU's kernels take one type
    if (grad_enabled()) {
      *product = matmul(a.t(), b);
      continue;
    }
    *product = Tensor::empty({a.dim(1), b.dim(1)}, a.dtype(), a.device());
    views.push_back({a.view(), b.view(), product->view()});
  }
  return views;
}

/// What a product's rule keeps. The gradient for x is a product of this kind itself, in the other direction.
struct ProductRule {
  struct SavedTerm {
    Saved A, B, narrow;
    double scale;
    Join join;
    bool wants_A, wants_B;
    /// The gradient of the term's share before its scale came in, in the factors' dtype.
    Tensor share(const Tensor& dy) const { return to(join == Join::scaled && scale != 1 ? dy * scale : dy, A().dtype()); }

    /// The gradient of the narrow factor, times the scale; and B's too, unless null: a GPU reads the share's gradient once for both.
    Tensor gradients(const Tensor& dshare, Tensor* dB) const {
      const Tensor rows = folded(dshare), dnarrow = Tensor::empty({rows.dim(0), B().dim(1)}, rows.dtype(), rows.device());
      if (dB) *dB = Tensor::empty(B().shape(), rows.dtype(), rows.device());
      const View view = dnarrow.view();
      kernel(rows.device(), &Kernels::linear_backward, "linear")(rows.view(), dB ? folded(narrow()).view() : View(), B().view(), view,
                                                                 dB ? dB->view() : View());
      if (scale != 1 && join != Join::scaled) kernel(rows.device(), &Kernels::unary, "linear")(UnaryOp::affine, view, view, scale, 0);
      return dnarrow;
    }
  };
  Weight weight;
  bool transposed, wants_x;
  Saved x;
  std::vector<SavedTerm> terms;

  ProductRule(const Weight& weight, bool transposed, const Tensor& input, const std::vector<Term>& from,
              const std::vector<Tensor>& narrow)
      : weight(weight), transposed(transposed), wants_x(input.requires_grad()), x(saved(Tensor())) {
    for (std::size_t i = 0; i < from.size(); ++i) {
      const auto& [A, B, scale, join, rows] = from[i];
      const bool wants_A = A.requires_grad(), wants_B = B.requires_grad();
      if (wants_A || wants_B) x = saved(input);
      terms.push_back({saved(A), saved(B), saved(wants_B ? narrow[i].detach() : Tensor()), scale, join, wants_A, wants_B});
    }
  }

  /// For x and every term's A and B.
  Gradients operator()(const Tensor& dy) const {
    // The CPU makes them side by side with the gradients of A instead, where there are few rows.
    const bool together = !grad_enabled() && !dy.device().is_cpu();
    std::vector<Term> other;
    std::vector<Tensor> dshare, dnarrow;
    Gradients all(1 + 2 * terms.size());
    for (std::size_t i = 0; i < terms.size(); ++i) {
      const SavedTerm& term = terms[i];
      const bool rounded = term.join != Join::summed;
      dshare.push_back(term.share(dy));
      other.push_back(
          {term.B().t(), term.A().t(), term.join == Join::scaled ? 1 : term.scale, rounded ? Join::rounded : Join::summed});
      dnarrow.push_back(grad_enabled() ? other.back().narrow(dshare.back())
                                       : term.gradients(dshare.back(), together && term.wants_B ? &all[2 + 2 * i] : nullptr));
      other.back().scale = term.scale;  // for its own derivatives
    }
    std::vector<Factors> factors;
    for (std::size_t i = 0; i < terms.size(); ++i) {
      const SavedTerm& term = terms[i];
      if (term.wants_A) factors.push_back({folded(dnarrow[i]), folded(x()), &all[1 + 2 * i]});
      // Differentiated once more, the narrow factor is not a constant.
      if (term.wants_B && !together)
        factors.push_back({folded(dshare[i]),
                           folded(grad_enabled() ? Term{term.A(), {}, term.scale, term.join}.narrow(x()) : term.narrow()),
                           &all[2 + 2 * i]});
    }
    const std::vector<Outer> outer = outer_views(factors);
    if (wants_x) all[0] = input_gradient(dy, other, dnarrow, outer);
    else outer_products(outer, dy.device());
    return all;
  }

 private:
  /// The shares of terms that are rounded are summed before they are, as the gradients of their common input.
  Tensor input_gradient(const Tensor& dy, std::vector<Term> other, std::vector<Tensor> dnarrow,
                        std::span<const Outer> outer) const {
    if (other.size() > 1 && other.front().join == Join::rounded) {
      std::vector<Tensor> A, B;
      for (const Term& term : other) {
        if (grad_enabled()) A.push_back(term.A * term.scale);
        B.push_back(term.B.t());
      }
      other = {{A.empty() ? Tensor() : concat(A, 0), concat(B, 0).t(), 1, Join::rounded}};
      dnarrow = {concat(dnarrow, -1)};
    }
    return product(weight, !transposed, dy, {}, other, dnarrow, Compute::exact, outer);
  }
};

Tensor product(const Weight& weight, bool transposed, const Tensor& x, const Tensor& bias, const std::vector<Term>& terms,
               const std::vector<Tensor>& narrow, Compute compute, std::span<const Outer> outer) {
  if (!grad_enabled()) return multiply(weight, transposed, x, bias, terms, narrow, compute, outer);
  std::vector<Tensor> inputs{x};
  for (const Term& term : terms) inputs.insert(inputs.end(), {term.A, term.B});
  return record(transposed ? "quant_linear_transposed" : "quant_linear",
                multiply(weight, transposed, x, bias, terms, narrow, compute, outer))
      .wrt(inputs, ProductRule(weight, transposed, x, terms, narrow))
      .wrt(bias, [](const Tensor& dy) { return dy; });
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
  return fmt::format("in_features={}, out_features={}, bias={}, {} {}, bits={}, group_size={}{}", in_features(), out_features(),
                     bias_.defined() ? "True" : "False", description_.method, description_.layout, description_.bits,
                     description_.group_size,
                     compute_ == Compute::exact             ? ""
                     : compute_ == Compute::one_accumulator ? ", compute=one_accumulator"
                                                            : ", compute=int8_activations");
}

void QuantLinear::visit(Visitor& visitor) {
  if (bias_.defined()) visitor.parameter("bias", bias_);
}

void QuantLinear::move_to(Device device) { packed_ = quant::move_to(packed_, device); }

Device QuantLinear::device() const { return packed_->device(); }

std::int64_t QuantLinear::in_features() const { return packed_->in; }
std::int64_t QuantLinear::out_features() const { return packed_->out; }

Tensor QuantLinear::forward(const Tensor& x) const {
  return product(packed_, false, autocast::lower(x), bias_, {}, {}, compute_);
}

Tensor QuantLinear::forward(const Tensor& x, std::span<const LowRankTerm> terms) const {
  constexpr std::size_t most_shares = 32;  // of one product; more would be one by one on a GPU
  const bool differentiated = grad_enabled();
  const auto join = [&](const LowRankTerm& term) -> std::optional<Join> {
    const DType dtype = term.A.dtype();
    if (dtype != term.B.dtype() || term.x.defined() || term.bias.defined()) return {};
    if (!term.rows.empty() && differentiated) return {};
    if (!is_half(x.dtype()) && x.dtype() == dtype) return Join::summed;
    if (!is_half(x.dtype()) || dtype != DType::f32) return {};
    if (compute_ == Compute::one_accumulator) return Join::summed;
    switch (term.rounding) {
      case Rounding::per_adapter: return Join::added;
      case Rounding::before_scale: return Join::scaled;
      case Rounding::after_scale: return Join::rounded;
      case Rounding::once: break;
    }
    return {};
  };
  std::vector<Term> joined;
  std::vector<Tensor> narrow;
  std::size_t taken = 0;  // of the terms
  if (!autocast::dtype(x.device().type)) {
    const NoGrad unrecorded;
    for (const LowRankTerm& term : terms) {
      const std::optional<Join> how = join(term);
      if (!how) break;
      ++taken;
      if (term.rows.empty()) joined.push_back({term.A, term.B, term.scale, *how});
      for (const RowRange& rows : term.rows) joined.push_back({term.A, term.B, term.scale, *how, rows});
    }
    // In half precision all or none: the gradients of x are summed before they are rounded.
    if ((is_half(x.dtype()) && taken < terms.size()) || joined.size() > most_shares) taken = 0, joined.clear();
    const Tensor input = joined.empty() ? x : to(x, joined.front().A.dtype());
    for (const Term& term : joined)
      narrow.push_back(term.narrow(term.rows ? slice(folded(input), 0, term.rows->begin, term.rows->end) : input));
  }
  terms = terms.subspan(taken);
  const Tensor y = joined.empty() ? forward(x) : product(packed_, false, x, bias_, joined, narrow, compute_);
  return terms.empty() ? y : low_rank_sum(y, x, terms);
}

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

double compute_error(const QuantLinear& layer, Compute compute, const Tensor& x) {
  const NoGrad unrecorded;
  check<TypeError>(x.dtype() != DType::f64,
                   "compute_error: the input holds f64; other ways of computing are for f32, f16 and bf16");
  const Tensor input = is_half(x.dtype()) ? to(x, DType::f32) : x;
  const auto run = [&](Compute way) {
    return apply("compute_error", layer.packed(), input, layer.in_features(), layer.out_features(),
                 [&](const View& in, const View& out) { forward(layer.packed(), in, nullptr, out, {}, way); });
  };
  const Tensor exact = run(Compute::exact), other = run(compute);
  double difference = 0, size = 0;
  for (std::int64_t i = 0; i < exact.count(); ++i) {
    const double want = exact.data<float>()[i], gap = other.data<float>()[i] - want;
    difference += gap * gap;
    size += want * want;
  }
  return difference == 0 ? 0 : std::sqrt(difference / size);
}

}  // namespace graft::quant
