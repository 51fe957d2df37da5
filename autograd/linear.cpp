#include "graft/autograd/linear.h"

#include "graft/autograd/compute.h"
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"
#include "graft/core/elementwise.h"

namespace graft {
namespace {

Tensor scaled(const Tensor& x, double scale) { return scale == 1 ? x : x * scale; }

Tensor flat_rows(const Tensor& x) { return reshape(x, {compute::leading(x.shape(), 1).count(), x.dim(-1)}); }

/// x [..., in] as [..., in / group].
Tensor pooled(const Tensor& x, const LowRankTerm& term) {
  constexpr int last[] = {-1};
  check(term.group > 0 && x.dim(-1) % term.group == 0, "low-rank term: groups of {} do not divide an input of shape {}",
        term.group, x.shape());
  return mean(reshape(x, compute::joined(compute::leading(x.shape(), 1), {x.dim(-1) / term.group, term.group})), last) *
         term.pooling;
}

/// result + term, whose own memory takes the sum where nobody differentiates: it is fresh, and as large as the layer's result.
Tensor added(const Tensor& result, const Tensor& term) {
  const bool in_place =
      !result.requires_grad() && !term.requires_grad() && result.dtype() == term.dtype() && result.shape() == term.shape();
  if (!in_place) return add(result, term);
  kernel(result.device(), &Kernels::binary, "add")(BinaryOp::add, result.view(), term.view(), term.view());
  return term;
}

/// The gradients of x weightᵀ + u Bᵀ with u = scale · x Aᵀ for x, A and B, with what else is known of the forward pass.
struct LowRankRule {
  bool wants_x, wants_A, wants_B;
  double scale;
  Saved x, weight, A, B, u;

  LowRankRule(const Tensor& x, const Tensor& weight, const LowRankTerm& term, const Tensor& u)
      : wants_x(x.requires_grad()),
        wants_A(term.A.requires_grad()),
        wants_B(term.B.requires_grad()),
        scale(term.scale),
        x(saved(wants_A ? x : Tensor())),
        weight(saved(weight)),
        A(saved(term.A)),
        B(saved(term.B)),
        u(saved(u)) {}

  Gradients operator()(const Tensor& dy) const { return grad_enabled() ? recorded(dy) : fused(dy); }

 private:
  /// By operations that can be differentiated once more; u is then no constant.
  Gradients recorded(const Tensor& dy) const {
    const DType wide = A().dtype();
    const Tensor share = to(dy, wide), du = scaled(matmul(share, B()), scale);
    Gradients all(3);
    if (wants_x) all[0] = to(to(matmul(dy, weight()), wide) + matmul(du, A()), dy.dtype());
    if (wants_A) all[1] = matmul(du.t(), to(x(), wide));
    if (wants_B) all[2] = matmul(share.t(), scaled(linear(to(x(), wide), A()), scale));
    return all;
  }

  Gradients fused(const Tensor& dy) const {
    const Kernels& kernels = runtime(dy.device()).kernels();
    const auto like = [&](const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), dy.device()); };
    const Tensor du = Tensor::empty({dy.dim(0), B().dim(1)}, B().dtype(), dy.device());
    Gradients all(3);
    if (wants_x) {
      all[0] = Tensor::empty({dy.dim(0), weight().dim(1)}, dy.dtype(), dy.device());
      kernels.low_rank_linear(dy.view(), transposed(weight().view()), transposed(B().view()), transposed(A().view()), scale,
                              all[0].view(), du.view());
    } else if (wants_A) {
      kernels.matmul(dy.view(), B().view(), du.view());
      kernels.unary(UnaryOp::affine, du.view(), du.view(), scale, 0);
    }
    if (wants_A) kernels.linear_backward(du.view(), x().view(), {}, {}, (all[1] = like(A())).view());
    if (wants_B) kernels.linear_backward(dy.view(), u().view(), {}, {}, (all[2] = like(B())).view());
    return all;
  }
};

/// `rows` are undefined for all of them.
Tensor accumulate(const Tensor& result, const Tensor& term, const Tensor& rows) {
  if (!rows.defined()) return added(result, term);
  return reshape(index_add(flat_rows(result), 0, rows, flat_rows(term)), result.shape());
}

}  // namespace

Tensor row_numbers(std::span<const RowRange> rows, Device device) {
  std::vector<std::int64_t> numbers;
  for (const RowRange& range : rows)
    for (std::int64_t row = range.begin; row < range.end; ++row) numbers.push_back(row);
  return to(Tensor::from(numbers, {static_cast<std::int64_t>(numbers.size())}), device);
}

Tensor LinearBase::forward(const Tensor& x, std::span<const LowRankTerm> terms) const {
  return low_rank_sum(forward(x), x, terms);
}

Tensor low_rank_sum(Tensor result, const Tensor& x, std::span<const LowRankTerm> terms) {
  const DType start = result.dtype();
  const bool lowered = autocast::dtype(result.device().type).has_value();
  Tensor input = x;
  bool once = false;
  for (const LowRankTerm& term : terms) {
    const DType before = result.dtype();
    const bool left_to_autocast = term.rounding == Rounding::before_scale || term.rounding == Rounding::after_scale;
    const bool casts = !(left_to_autocast && lowered);
    const Tensor rows = term.rows.empty() ? Tensor() : row_numbers(term.rows, result.device());
    // A later term sees the layer's input after the casts of the earlier ones, unless these are for other rows. A single one leaves it to
    // the product to widen it.
    if (casts && !rows.defined() && terms.size() > 1) input = to(input, term.A.dtype());
    Tensor own = term.x;
    if (!own.defined()) own = rows.defined() ? index_select(flat_rows(x), 0, rows) : input;
    // Means are never of a narrower type.
    if (term.pools() || (casts && promote(own.dtype(), term.A.dtype()) != term.A.dtype())) own = to(own, term.A.dtype());
    if (term.pools()) own = pooled(own, term);
    // Where nothing is rounded between the product and the sum, the scale goes to the narrow factor: a pass over [.., r] instead of
    // one over [.., out].
    const bool narrow = !lowered && !is_half(term.A.dtype()) && !term.bias.defined() &&
                        (term.rounding != Rounding::before_scale || before == term.A.dtype());
    Tensor share = linear(own, term.A);
    share = linear(narrow ? scaled(share, term.scale) : share, term.B, term.bias);
    if (term.rounding == Rounding::before_scale && casts) share = to(share, before);
    if (!narrow) share = scaled(share, term.scale);
    if (term.rounding == Rounding::after_scale && casts) share = to(share, before);
    result = accumulate(result, share, rows);
    if (term.rounding == Rounding::per_adapter) result = to(result, before);
    once = once || term.rounding == Rounding::once;
  }
  return once ? to(result, start) : result;
}

Tensor rotate(const Tensor& x, const Rotation& rotation) {
  const Tensor& R = rotation.blocks;
  check(R.rank() == 3 && R.dim(1) == R.dim(2) && x.rank() > 0 &&
            (R.dim(0) == 1 ? R.dim(1) > 0 && x.dim(-1) % R.dim(1) == 0 : x.dim(-1) == R.dim(0) * R.dim(1)),
        "rotate: blocks of {} do not fit an input of shape {}", R.shape(), x.shape());
  const Tensor own = to(x, R.dtype());
  const std::int64_t in = x.dim(-1), b = R.dim(1), rows = compute::leading(x.shape(), 1).count();
  Tensor y;
  if (R.dim(0) == 1) {
    y = matmul(reshape(own, {rows * (in / b), b}), reshape(R, {b, b}));
  } else {
    const Tensor by_block = transpose(reshape(own, {rows, R.dim(0), b}), 0, 1);  // [blocks, rows, b]
    y = transpose(matmul(by_block, R), 0, 1);
  }
  return to(reshape(y, x.shape()), rotation.dtype);
}

Linear::Linear(Tensor weight, Tensor bias) : weight_(std::move(weight)), bias_(std::move(bias)) {
  check(weight_.defined() && weight_.rank() == 2 && is_floating(weight_.dtype()),
        "Linear: wants a floating weight [out, in], not {}",
        weight_.defined() ? fmt::format("{}{}", weight_.dtype(), weight_.shape()) : "none");
  check(!bias_.defined() || (bias_.shape() == Shape{weight_.dim(0)} && is_floating(bias_.dtype())),
        "Linear: wants a floating bias [{}] or none, not {}", weight_.dim(0),
        bias_.defined() ? fmt::format("{}{}", bias_.dtype(), bias_.shape()) : "none");
}

std::string Linear::description() const {
  return fmt::format("in_features={}, out_features={}, bias={}", in_features(), out_features(),
                     bias_.defined() ? "True" : "False");
}

void Linear::visit(Visitor& visitor) {
  visitor.parameter("weight", weight_);
  if (bias_.defined()) visitor.parameter("bias", bias_);
}

Tensor Linear::forward(const Tensor& x) const { return linear(x, weight_, bias_); }

Tensor Linear::forward(const Tensor& x, std::span<const LowRankTerm> terms) const {
  // A single share in f32 or f64 beside a weight that stays as it is: one kernel then, which rounds as the operations do.
  const auto is_fused = [&](const LowRankTerm& term) {
    const DType dtype = compute::wide(x.dtype());
    return !term.x.defined() && !term.bias.defined() && !term.pools() && term.rows.empty() && term.rounding == Rounding::once &&
           term.A.dtype() == dtype && term.B.dtype() == dtype;
  };
  const auto fused = runtime(x.device()).kernels().low_rank_linear;
  // Where B alone is trained, operations keep u and not x.
  const bool composed =
      grad_enabled() &&
      (weight_.requires_grad() || (!terms.empty() && terms.front().B.requires_grad() && !terms.front().A.requires_grad()));
  if (!fused || composed || bias_.defined() || x.dtype() != weight_.dtype() || autocast::dtype(x.device().type) ||
      terms.size() != 1 || !is_fused(terms.front()))
    return low_rank_sum(forward(x), x, terms);
  const LowRankTerm& term = terms.front();
  const Tensor &A = term.A, &B = term.B;
  check(x.rank() > 0 && A.rank() > 0 && A.shape() == Shape{A.dim(0), in_features()} &&
            B.shape() == Shape{out_features(), A.dim(0)} && x.dim(-1) == in_features(),
        "linear: an input of shape {} and a term of {} and {} do not fit a weight of shape {}", x.shape(), A.shape(), B.shape(),
        weight_.shape());
  for (const Tensor* operand : {&weight_, &A, &B}) compute::require_same_device(x, *operand, "linear");
  const Tensor matrix = flat_rows(x), y = Tensor::empty({matrix.dim(0), out_features()}, x.dtype(), x.device());
  const Tensor u = grad_enabled() && B.requires_grad() ? Tensor::empty({y.dim(0), A.dim(0)}, A.dtype(), x.device()) : Tensor();
  fused(matrix.view(), weight_.view(), A.view(), B.view(), term.scale, y.view(), u.defined() ? u.view() : View());
  const Tensor recorded = record("linear", y).wrt({matrix, A, B}, LowRankRule(matrix, weight_, term, u));
  return reshape(recorded, compute::joined(compute::leading(x.shape(), 1), {out_features()}));
}

}  // namespace graft
