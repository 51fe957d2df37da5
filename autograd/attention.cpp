#include <cmath>
#include <limits>

#include "graft/autograd/compute.h"
#include "graft/autograd/ops.h"

namespace graft {
namespace {

constexpr int last[] = {-1}, over_heads[] = {1};

// ---- rotary ----

struct Halves {
  Tensor first, second;
  explicit Halves(const Tensor& x) : first(slice(x, -1, 0, x.dim(-1) / 2)), second(slice(x, -1, x.dim(-1) / 2, x.dim(-1))) {}
};

// cos and sin have x's dtype. The inverse turns by the opposite angles.
Tensor rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, bool inverse) {
  Tensor y = compute::empty_like(x);
  kernel(x.device(), &Kernels::rotary, "rotary")(x.view(), cos.view(), sin.view(), y.view(), inverse);
  const double sign = inverse ? -1 : 1;
  return record("rotary", y)
      .wrt(x, [inverse, cos = saved(cos), sin = saved(sin)](const Tensor& dy) { return rotate(dy, cos(), sin(), !inverse); })
      .wrt(cos,
           [x = saved(x)](const Tensor& dy) {
             const Halves from(x()), d(dy);
             return sum(add(mul(d.first, from.first), mul(d.second, from.second)), over_heads);
           })
      .wrt(sin, [sign, x = saved(x)](const Tensor& dy) {
        const Halves from(x()), d(dy);
        return affine(sum(sub(mul(d.second, from.first), mul(d.first, from.second)), over_heads), sign, 0);
      });
}

// ---- attention ----

struct Problem {
  double scale;
  bool causal;
  Saved key_mask;

  AttentionShape shape(View& mask) const {
    if (!key_mask().defined()) return {scale, causal, nullptr};
    mask = key_mask().view();
    return {scale, causal, &mask};
  }
};

// bool, broadcasting to [b, 1, 1, t, s]: which keys a query sees. Undefined when it sees all.
Tensor visible(const Problem& problem, std::int64_t queries, std::int64_t keys, Device device) {
  Tensor seen;
  if (problem.causal) seen = compute::lower_triangle(queries, keys, keys - queries, device);
  const Tensor& mask = problem.key_mask();
  if (!mask.defined()) return seen;
  const Tensor real = reshape(mask, {mask.dim(0), 1, 1, 1, keys});
  return seen.defined() ? where(real, seen, Tensor::scalar(0, DType::boolean, device)) : real;
}

// The gradients in public operations, through the scores of every query: what second derivatives are taken of.
Gradients composed_gradients(const Problem& problem, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dy) {
  const std::int64_t b = q.dim(0), heads = k.dim(1), group = q.dim(1) / heads, t = q.dim(2), s = k.dim(2), width = q.dim(3);
  const Tensor queries = reshape(q, {b, heads, group, t, width}), dout = reshape(dy, {b, heads, group, t, width});
  const Tensor keys = unsqueeze(k, 2), values = unsqueeze(v, 2);
  Tensor scores = matmul(queries, keys.t()) * problem.scale;
  Tensor p;
  if (const Tensor seen = visible(problem, t, s, q.device()); seen.defined()) {
    // Finite, so that a query without keys has a softmax at all, which the second mask then clears.
    const double never = q.dtype() == DType::f16 ? -65504 : -1e30;
    const Tensor zero = Tensor::scalar(0, q.dtype(), q.device());
    p = where(seen, softmax(where(seen, scores, Tensor::scalar(never, q.dtype(), q.device()))), zero);
  } else {
    p = softmax(scores);
  }
  const Tensor dp = mul(p, matmul(dout, values.t()));
  const Tensor dscores = sub(dp, mul(p, sum(dp, last, true))) * problem.scale;
  return {reshape(matmul(dscores, keys), q.shape()), squeeze(sum_to(matmul(dscores.t(), queries), keys.shape()), 2),
          squeeze(sum_to(matmul(p.t(), dout), values.shape()), 2)};
}

}  // namespace

Tensor rotary(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  compute::require_floating(x, "rotary");
  check(x.rank() == 4 && x.dim(3) % 2 == 0, "rotary: takes [batch, heads, length, even width], not {}", x.shape());
  for (const Tensor* table : {&cos, &sin}) {
    compute::require_floating(*table, "rotary");
    compute::require_same_device(x, *table, "rotary");
    check(table->rank() == 3 && (table->dim(0) == 1 || table->dim(0) == x.dim(0)) && table->dim(1) == x.dim(2) &&
              table->dim(2) * 2 == x.dim(3),
          "rotary: an angle table of shape {} for x of shape {}; wanted [{} or 1, {}, {}]", table->shape(), x.shape(), x.dim(0),
          x.dim(2), x.dim(3) / 2);
  }
  return rotate(x, to(cos, x.dtype()), to(sin, x.dtype()), false);
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  const Tensor &mask = options.key_mask, *inputs[] = {&q, &k, &v};
  Tensor lowered[3];
  DType dtype = DType::boolean;
  for (int i = 0; i < 3; ++i) {
    compute::require_floating(*inputs[i], "attention");
    compute::require_same_device(q, *inputs[i], "attention");
    lowered[i] = autocast::lower(*inputs[i]);
    dtype = promote(dtype, lowered[i].dtype());
  }
  for (Tensor& x : lowered) x = to(x, dtype);
  check(q.rank() == 4 && k.rank() == 4 && q.dim(0) == k.dim(0) && q.dim(3) == k.dim(3) && k.shape() == v.shape() &&
            k.dim(1) > 0 && q.dim(1) % k.dim(1) == 0,
        "attention: q {}, k {}, v {} do not fit; wanted [b, heads, t, d] and twice [b, kv_heads, s, d], heads a multiple of "
        "kv_heads",
        q.shape(), k.shape(), v.shape());
  if (mask.defined()) {
    compute::require_same_device(q, mask, "attention");
    check<TypeError>(mask.dtype() == DType::boolean, "attention: a key mask has elements of type bool, not {}", mask.dtype());
    check(mask.shape() == Shape{k.dim(0), k.dim(2)}, "attention: a key mask of shape {} for keys of shape {}", mask.shape(),
          k.shape());
  }
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(q.dim(3)));
  const Problem problem{scale, options.causal, saved(mask)};
  const auto& [x, w, u] = lowered;

  Tensor y = compute::empty_like(x);
  Tensor lse = Tensor::empty(compute::leading(q.shape(), 1), compute::wide(dtype), q.device());
  View seen;
  kernel(q.device(), &Kernels::attention, "attention")(x.view(), w.view(), u.view(), problem.shape(seen), y.view(), lse.view());
  return record("attention", y)
      .wrt({x, w, u}, [problem, q = saved(x), k = saved(w), v = saved(u), lse = saved(lse)](const Tensor& dy, const Tensor& y) {
        if (grad_enabled()) return composed_gradients(problem, q(), k(), v(), dy);
        Tensor dq = compute::empty_like(q()), dk = compute::empty_like(k()), dv = compute::empty_like(v());
        View seen;
        kernel(dy.device(), &Kernels::attention_backward, "attention")(q().view(), k().view(), v().view(), problem.shape(seen),
                                                                       y.view(), lse().view(), dy.view(), dq.view(), dk.view(),
                                                                       dv.view());
        return Gradients{dq, dk, dv};
      });
}

}  // namespace graft
