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

/// Rows of x [..., a] as a matrix.
std::int64_t rows_of(const Tensor& x) {
  std::int64_t rows = 1;
  for (int i = 0; i + 1 < x.rank(); ++i) rows *= x.dim(i);
  return rows;
}

/// x [..., a] as a matrix [rows, a], without a copy where its strides allow.
Tensor as_matrix(const Tensor& x) {
  if (x.rank() == 2) return x;
  const std::int64_t width = x.dim(-1);
  const Tensor straight = x.is_contiguous() ? x : x.clone();
  return straight.alias({rows_of(x), width}, {width, 1}, straight.offset());
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

/// x W (+ bias) and the shares, or with Wᵀ, each element summed in one pass. Makes the outer products, and x where it is rotated, too.
Tensor multiply(const Packed& weight, bool transposed, const Tensor& x, const Tensor& bias, std::span<const LowRank> shares,
                Compute compute, std::span<const Outer> outer = {}, const Rotated* rotated = nullptr) {
  const char* what = transposed ? "quantized linear, transposed" : "quantized linear";
  const std::int64_t from = transposed ? weight.out : weight.in, to = transposed ? weight.in : weight.out;
  check(!bias.defined() || bias.device() == weight.device(), "{}: the bias is on {}, the weight on {}", what,
        bias.defined() ? bias.device() : Device(), weight.device());
  const Tensor y = apply(what, weight, x, from, to, [&](const View& in, const View& out) {
    const View added = bias.defined() ? bias.view() : View();
    if (transposed) backward(weight, in, out, shares, outer);
    else forward(weight, in, bias.defined() ? &added : nullptr, out, shares, compute, rotated);
  });
  if (!transposed || y.count() == 0) outer_products(outer, y.device());
  return y;
}

/// A share of a product's result, scale · (x Aᵀ) Bᵀ with A [r, from] and B [to, r]; only without gradients one of some rows.
struct Term {
  Tensor A, B;
  double scale;
  Join join = Join::summed;
  std::optional<RowRange> rows = {};
  std::int64_t group = 1;  // as LowRank has it, and what its sums are multiplied with: other than 1 without gradients alone
  double sum_scale = 1;
  /// What the share is multiplied with before Bᵀ.
  double narrow_scale() const { return join == Join::scaled ? 1 : scale; }
  /// The share before Bᵀ, [..., r], in the factors' dtype.
  Tensor narrow(const Tensor& x) const {
    const Tensor share = linear(to(x, A.dtype()), A);
    return narrow_scale() == 1 ? share : share * narrow_scale();
  }
};

Tensor folded(const Tensor& x) { return reshape(x, {-1, x.dim(-1)}); }

/// With the terms' narrow(x), which the product itself makes where none are given.
Tensor product(const Weight& weight, bool transposed, const Tensor& x, const Tensor& bias, const std::vector<Term>& terms,
               std::vector<Tensor> narrow = {}, Compute compute = Compute::exact);

/// What a product's rule keeps. The gradient for x is a product of this kind itself, in the other direction.
struct ProductRule {
  struct SavedTerm {
    Saved A, B, narrow;
    double scale;
    Join join;
    bool wants_A, wants_B;
    /// The gradient of the term's share before its scale came in, in dy's dtype.
    Tensor share(const Tensor& dy) const { return join == Join::scaled && scale != 1 ? dy * scale : dy; }
    /// How that share's gradient for x joins.
    Join back() const { return join == Join::summed ? Join::summed : Join::rounded; }
  };
  Weight weight;
  bool transposed, wants_x;
  Saved x;
  std::vector<SavedTerm> terms;

  ProductRule(const Weight& weight, bool transposed, const Tensor& input, const std::vector<Term>& from,
              const std::vector<Tensor>& narrow)
      : weight(weight), transposed(transposed), wants_x(input.requires_grad()), x(saved(Tensor())) {
    for (std::size_t i = 0; i < from.size(); ++i) {
      const auto& [A, B, scale, join, rows, group, sum_scale] = from[i];
      const bool wants_A = A.requires_grad(), wants_B = B.requires_grad();
      if (wants_A || wants_B) x = saved(input);
      terms.push_back({saved(A), saved(B), saved(wants_B ? narrow[i].detach() : Tensor()), scale, join, wants_A, wants_B});
    }
  }

  /// For x and every term's A and B.
  Gradients operator()(const Tensor& dy) const { return grad_enabled() ? recorded(dy) : fused(dy); }

 private:
  /// By operations that can be differentiated once more; the narrow factors are then no constants.
  Gradients recorded(const Tensor& dy) const {
    Gradients all(1 + 2 * terms.size());
    std::vector<Term> other;
    std::vector<Tensor> narrow;
    for (std::size_t i = 0; i < terms.size(); ++i) {
      const SavedTerm& term = terms[i];
      const Tensor share = to(term.share(dy), term.A().dtype());
      Term& back = other.emplace_back(Term{term.B().t(), term.A().t(), term.join == Join::scaled ? 1 : term.scale, term.back()});
      narrow.push_back(back.narrow(share));
      back.scale = term.scale;  // for its own derivatives
      const auto outer = [](const Tensor& a, const Tensor& b) { return matmul(folded(a).t(), to(folded(b), a.dtype())); };
      if (term.wants_A) all[1 + 2 * i] = outer(narrow[i], x());
      if (term.wants_B) all[2 + 2 * i] = outer(share, Term{term.A(), {}, term.scale, term.join}.narrow(x()));
    }
    if (!wants_x) return all;
    if (are_rounded_together()) {
      std::vector<Tensor> A, B;
      for (const Term& term : other) A.push_back(term.A * term.scale), B.push_back(term.B.t());
      other = {{concat(A, 0), concat(B, 0).t(), 1, Join::rounded}};
      narrow = {concat(narrow, -1)};
    }
    all[0] = product(weight, !transposed, dy, {}, other, narrow);
    return all;
  }

  /// By kernels that make several at once: the narrow factor's and B's on a GPU, which reads the share's gradient once for both; A's and
  /// B's beside the input's on the CPU, where there are few rows.
  Gradients fused(const Tensor& dy) const {
    const bool on_cpu = dy.device().is_cpu();
    Gradients all(1 + 2 * terms.size());
    std::vector<Tensor> kept, narrow;  // for as long as views show them
    kept.reserve(3 * terms.size());
    const auto view = [&](const Tensor& x) { return kept.emplace_back(as_matrix(x)).view(); };
    std::vector<LowRank> shares;
    std::vector<Outer> outer;
    for (std::size_t i = 0; i < terms.size(); ++i) {
      const SavedTerm& term = terms[i];
      Tensor &dA = all[1 + 2 * i], &dB = all[2 + 2 * i];
      const DType dtype = term.A().dtype();
      const View share = view(term.share(dy));
      const View saved_narrow = term.wants_B ? view(term.narrow()) : View();
      if (term.wants_A) dA = Tensor::empty(term.A().shape(), dtype, dy.device());
      if (term.wants_B) dB = Tensor::empty(term.B().shape(), dtype, dy.device());
      narrow.push_back(Tensor::empty({share.sizes[0], term.B().dim(1)}, dtype, dy.device()));
      const View dnarrow = narrow.back().view();
      const bool with_B = term.wants_B && !on_cpu;
      kernel(dy.device(), &Kernels::linear_backward, "linear")(share, with_B ? saved_narrow : View(), term.B().view(), dnarrow,
                                                               with_B ? dB.view() : View());
      if (term.scale != 1 && term.join != Join::scaled)
        kernel(dy.device(), &Kernels::unary, "linear")(UnaryOp::affine, dnarrow, dnarrow, term.scale, 0);
      if (term.wants_A) outer.push_back({dnarrow, view(x()), dA.view()});
      if (term.wants_B && on_cpu) outer.push_back({share, saved_narrow, dB.view()});
      shares.push_back({dnarrow, term.A().view(), term.back()});
    }
    if (!wants_x) {
      outer_products(outer, dy.device());
      return all;
    }
    if (are_rounded_together()) {
      std::vector<Tensor> A;
      for (const SavedTerm& term : terms) A.push_back(term.A());
      shares = {{view(concat(narrow, -1)), view(concat(A, 0)), Join::rounded}};
    }
    all[0] = multiply(*weight, !transposed, dy, {}, shares, Compute::exact, outer);
    return all;
  }

  /// Shares that are rounded are summed before they are, as the gradients of their common input.
  bool are_rounded_together() const { return terms.size() > 1 && terms.front().join != Join::summed; }
};

Tensor product(const Weight& weight, bool transposed, const Tensor& x, const Tensor& bias, const std::vector<Term>& terms,
               std::vector<Tensor> narrow, Compute compute) {
  const bool given = !narrow.empty();
  std::vector<LowRank> shares;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    const auto& [A, B, scale, join, rows, group, sum_scale] = terms[i];
    for (const Tensor* factor : {&A, &B})
      check(factor->device() == weight->device(), "quantized linear: a low-rank factor is on {}, the weight on {}",
            factor->device(), weight->device());
    if (!given) narrow.push_back(Tensor::empty({rows ? rows->end - rows->begin : rows_of(x), A.dim(0)}, A.dtype(), A.device()));
    shares.push_back({as_matrix(narrow[i]).view(), graft::transposed(B.view()), join, scale, rows ? rows->begin : 0});
    if (!given)
      shares.back().A = A.view(), shares.back().u_scale = terms[i].narrow_scale() * sum_scale, shares.back().group = group;
  }
  const Tensor y = multiply(*weight, transposed, x, bias, shares, compute);
  if (!grad_enabled()) return y;
  std::vector<Tensor> inputs{x};
  for (const Term& term : terms) inputs.insert(inputs.end(), {term.A, term.B});
  return record(transposed ? "quant_linear_transposed" : "quant_linear", y)
      .wrt(inputs, ProductRule(weight, transposed, x, terms, narrow))
      .wrt(bias, [](const Tensor& dy) { return dy; });
}

/// Whether a scale changes nothing but exponents, whose range is f32's, so that it may come before the rounding as well: short of
/// overflow, which no moderate one meets.
bool scales_exactly(DType dtype, double scale) {
  int exponent = 0;
  return dtype == DType::bf16 && std::abs(std::frexp(scale, &exponent)) == 0.5 && std::abs(exponent) < 32;
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
  const bool differentiated = grad_enabled();
  if (autocast::dtype(x.device().type)) {
    const Tensor low = autocast::lower(x);
    const auto is_plain = [](const LowRankTerm& term) { return !term.x.defined() && !term.bias.defined() && !term.pools(); };
    // Gradients of a wider x are summed in its own type.
    if (!std::ranges::all_of(terms, is_plain) || (x.requires_grad() && x.dtype() != low.dtype()))
      return low_rank_sum(forward(x), x, terms);
    std::vector<LowRankTerm> lowered(terms.begin(), terms.end());
    for (LowRankTerm& term : lowered) term.A = autocast::lower(term.A), term.B = autocast::lower(term.B);
    const autocast::Guard off(x.device().type, std::nullopt);
    return forward(low, lowered);
  }
  const auto join = [&](const LowRankTerm& term) -> std::optional<Join> {
    const DType dtype = term.A.dtype();
    if (dtype != term.B.dtype() || term.x.defined() || term.bias.defined()) return {};
    if ((!term.rows.empty() || term.pools()) && differentiated) return {};
    if (!is_half(x.dtype()) && x.dtype() == dtype) return Join::summed;
    if (!is_half(x.dtype()) || (dtype != DType::f32 && dtype != x.dtype())) return {};
    if (compute_ == Compute::one_accumulator) return Join::summed;
    const Join before_scale = scales_exactly(x.dtype(), term.scale) ? Join::rounded : Join::scaled;
    // Factors of x's type round after every operation, whatever is asked for, and so do the gradients of x, before they are summed.
    if (dtype == x.dtype())
      return term.pools() || (differentiated && terms.size() > 1) ? std::optional<Join>() : before_scale;
    switch (term.rounding) {
      case Rounding::per_adapter: return Join::added;
      case Rounding::before_scale: return before_scale;
      case Rounding::after_scale: return Join::rounded;
      case Rounding::once: break;
    }
    return {};
  };
  std::vector<Term> joined;
  std::size_t taken = 0;  // of the terms
  for (const LowRankTerm& term : terms) {
    const std::optional<Join> how = join(term);
    if (!how) break;
    ++taken;
    Term all{term.A, term.B, term.scale, *how, {}, term.group, term.pooling / static_cast<double>(term.group)};
    if (term.rows.empty()) joined.push_back(all);
    for (const RowRange& rows : term.rows) all.rows = rows, joined.push_back(all);
  }
  // In half precision all or none: the gradients of x are summed before they are rounded.
  if ((is_half(x.dtype()) && taken < terms.size()) || joined.size() > most_terms) taken = 0, joined.clear();
  terms = terms.subspan(taken);
  const Tensor y = joined.empty() ? forward(x) : product(packed_, false, x, bias_, joined, {}, compute_);
  return terms.empty() ? y : low_rank_sum(y, x, terms);
}

Tensor QuantLinear::forward_rotated(const Tensor& x, const Rotation& rotation) const {
  const auto& [blocks, dtype] = rotation;
  if (const auto low = autocast::dtype(x.device().type); low && !grad_enabled()) {
    // The product of blocks is lowered, and then the layer's: nothing between them is narrower.
    const auto keeps = [&](DType type) { return type == DType::f32 || type == *low; };
    if (!keeps(x.dtype()) || !keeps(blocks.dtype()) || !keeps(dtype)) return forward(rotate(x, rotation));
    const Rotation lowered{autocast::lower(blocks), *low};
    const Tensor own = autocast::lower(x);
    const autocast::Guard off(x.device().type, std::nullopt);
    return forward_rotated(own, lowered);
  }
  const DType wide = blocks.dtype();
  if (grad_enabled() || !(x.dtype() == wide || (is_half(x.dtype()) && wide == DType::f32)) ||
      (dtype != wide && dtype != x.dtype()))
    return forward(rotate(x, rotation));
  check(blocks.device() == device(), "quantized linear: the blocks of a rotation are on {}, the weight on {}", blocks.device(),
        device());
  const Tensor from = as_matrix(contiguous(x)), turned = Tensor::empty(x.shape(), dtype, x.device());
  const Rotated rotated{from.view(), blocks.view()};
  return multiply(*packed_, false, turned, bias_, {}, compute_, {}, &rotated);
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
  const Tensor exact = to(run(Compute::exact), Device::cpu()), other = to(run(compute), Device::cpu());
  double difference = 0, size = 0;
  for (std::int64_t i = 0; i < exact.count(); ++i) {
    const double want = exact.data<float>()[i], gap = other.data<float>()[i] - want;
    difference += gap * gap;
    size += want * want;
  }
  return difference == 0 ? 0 : std::sqrt(difference / size);
}

}  // namespace graft::quant
