// The differentiable operations. Every function allocates its result (views excepted), broadcasts as NumPy does where two operands
// meet, and throws ValueError or TypeError for shapes and dtypes that do not fit. Dimensions count from the end when negative.
// Operands of different floating dtypes meet in promote(a, b).
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "graft/autograd/tape.h"
#include "graft/core/rng.h"
#include "graft/core/tensor.h"

namespace graft {

// ---- elementwise (elementwise.cpp) ----
// Integers stay integers in add, sub, mul, affine, neg, abs, clamp, maximum, minimum and where; the other functions want floating tensors.
Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);
/// scale · x + shift, in x's dtype.
Tensor affine(const Tensor& x, double scale, double shift);
Tensor neg(const Tensor& x);
Tensor abs(const Tensor& x);
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor rsqrt(const Tensor& x);
Tensor sin(const Tensor& x);
Tensor cos(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor sigmoid(const Tensor& x);
Tensor silu(const Tensor& x);
Tensor silu_mul(const Tensor& gate, const Tensor& x);  // silu(gate) · x, the gated half of an MLP, without keeping silu(gate)
Tensor gelu(const Tensor& x);                          // exact, by erf
Tensor gelu_tanh(const Tensor& x);                     // the tanh approximation
Tensor relu(const Tensor& x);
Tensor pow(const Tensor& x, double exponent);
Tensor clamp(const Tensor& x, double low, double high);
Tensor maximum(const Tensor& a, const Tensor& b);  // ties give half of the gradient to each
Tensor minimum(const Tensor& a, const Tensor& b);
/// a where `condition` (bool), else b.
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
// Not differentiable; bool results.
Tensor equal(const Tensor& a, const Tensor& b);
Tensor less(const Tensor& a, const Tensor& b);
Tensor less_equal(const Tensor& a, const Tensor& b);

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator-(const Tensor& x) { return neg(x); }
inline Tensor operator+(const Tensor& x, double c) { return affine(x, 1, c); }
inline Tensor operator-(const Tensor& x, double c) { return affine(x, 1, -c); }
inline Tensor operator+(double c, const Tensor& x) { return affine(x, 1, c); }
inline Tensor operator-(double c, const Tensor& x) { return affine(x, -1, c); }
inline Tensor operator*(const Tensor& x, double c) { return affine(x, c, 0); }
inline Tensor operator*(double c, const Tensor& x) { return affine(x, c, 0); }
inline Tensor operator/(const Tensor& x, double c) { return affine(x, 1 / c, 0); }

// ---- shapes and dtypes (shape.cpp); views where strides allow ----
/// One extent may be -1.
Tensor reshape(const Tensor& x, const Shape& shape);
Tensor permute(const Tensor& x, std::span<const int> order);
Tensor transpose(const Tensor& x, int a, int b);
/// A new dimension of extent 1 before `dim`; and without dimension `dim`, whose extent must be 1.
Tensor unsqueeze(const Tensor& x, int dim);
Tensor squeeze(const Tensor& x, int dim);
Tensor expand(const Tensor& x, const Shape& shape);
/// Elements begin … end-1 along `dim`.
Tensor slice(const Tensor& x, int dim, std::int64_t begin, std::int64_t end);
Tensor concat(std::span<const Tensor> xs, int dim);
Tensor contiguous(const Tensor& x);
Tensor to(const Tensor& x, DType dtype);
Tensor to(const Tensor& x, Device device);
/// The sum that undoes a broadcast from `shape`.
Tensor sum_to(const Tensor& x, const Shape& shape);

// ---- reductions (reduce.cpp); no dims means all. Integers are summed in i64; mean, norm and logsumexp of half types go through f32 ----
Tensor sum(const Tensor& x, std::span<const int> dims = {}, bool keepdim = false);
Tensor mean(const Tensor& x, std::span<const int> dims = {}, bool keepdim = false);
Tensor amax(const Tensor& x, int dim, bool keepdim = false);  // ties share the gradient
Tensor amin(const Tensor& x, int dim, bool keepdim = false);
/// √Σx² over `dims`; the gradient at zero is zero.
Tensor norm(const Tensor& x, std::span<const int> dims = {}, bool keepdim = false);
Tensor logsumexp(const Tensor& x, int dim, bool keepdim = false);
/// Index (i64) of the largest element of the last dimension, the first of equals. Not differentiable.
Tensor argmax(const Tensor& x);
/// Whether every element is finite. Not differentiable.
bool all_finite(const Tensor& x);

// ---- products (matmul.cpp); lowered under autocast ----
/// [..., m, k] × [..., k, n]; leading dimensions broadcast.
Tensor matmul(const Tensor& a, const Tensor& b);
/// x wᵀ + bias: x [..., in], weight [out, in], bias [out] or undefined.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

// ---- indexing (index.cpp); index i64 ----
/// Slices of x along `dim` in the order of index [n].
Tensor index_select(const Tensor& x, int dim, const Tensor& index);
/// x with `source` added at index [n] along `dim`.
Tensor index_add(const Tensor& x, int dim, const Tensor& index, const Tensor& source);
/// y[i][j] = x[index[i][j]][j] for dim 0, and so on; index has x's rank.
Tensor gather(const Tensor& x, int dim, const Tensor& index);
Tensor scatter_add(const Tensor& x, int dim, const Tensor& index, const Tensor& source);
/// Rows of weight [vocabulary, width] for ids of any shape: [ids…, width].
Tensor embedding(const Tensor& weight, const Tensor& ids);

// ---- normalisation (norm.cpp); over the last dimension ----
Tensor softmax(const Tensor& x);
Tensor log_softmax(const Tensor& x);
/// weight · x / √(mean x² + eps), computed in f32 for half types and rounded once; a weight of another dtype multiplies rounded rows. eps ≥ 0.
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps);
/// (x − mean)/√(var + eps) · weight + bias; weight and bias may be undefined; eps ≥ 0.
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps);

// ---- attention (attention.cpp) ----
/// Rotates pairs (i, i + d/2) of x [batch, heads, length, d] by the angles behind cos and sin [batch or 1, length, d/2].
Tensor rotary(const Tensor& x, const Tensor& cos, const Tensor& sin);
struct AttentionOptions {
  double scale = 0;  // 0 means 1/√width
  bool causal = true;
  Tensor key_mask = {};  // bool [batch, keys], false for padding; undefined for none
};
/// softmax(q kᵀ · scale) v, exact, in memory linear in the length: q [b, heads, t, d], k and v [b, kv_heads, s, d], heads a
/// multiple of kv_heads. Query i sees keys 0 … i + (s − t). A query that sees no key gives zeros.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options = {});

// ---- losses (loss.cpp) ----
/// Mean over labels ≠ ignored of −log softmax(logits)[label]: logits [..., classes], labels [...] i64. Zero labels left: NaN, as in PyTorch.
Tensor cross_entropy(const Tensor& logits, const Tensor& labels, std::int64_t ignored = -100);
Tensor mse_loss(const Tensor& x, const Tensor& target);

// ---- dropout (dropout.cpp) ----
/// Zeroes elements with probability p and scales the rest by 1/(1 − p); draws one stream. p = 0 is the identity and draws nothing.
Tensor dropout(const Tensor& x, double p, Generator& generator);

// ---- dense linear algebra (linalg.cpp); batched over leading dimensions, f32 and f64 ----
Tensor inverse(const Tensor& a);
/// y with a y = b, a triangular.
Tensor solve_triangular(const Tensor& a, const Tensor& b, bool upper);

// ---- not differentiable: factoring (linalg.cpp); batched, f32 and f64 ----
/// The lower triangular L with L Lᵀ = a; ValueError unless a is symmetric positive definite.
Tensor cholesky(const Tensor& a);
struct QR {
  Tensor q, r;
};
/// Reduced: a [..., m, n] = q [..., m, k] r [..., k, n], k = min(m, n).
QR qr(const Tensor& a);
struct SVD {
  Tensor u, s, vt;
};
/// Thin: a [..., m, n] = u [..., m, k] diag(s) vt [..., k, n], s [..., k] descending.
SVD svd(const Tensor& a);

// ---- not differentiable: drawing (dropout.cpp) ----
/// U(low, high); N(mean, std²). One stream each.
Tensor uniform(const Shape& shape, double low, double high, Generator& generator, DType dtype = DType::f32, Device device = {});
Tensor normal(const Shape& shape, double mean, double std, Generator& generator, DType dtype = DType::f32, Device device = {});

namespace autocast {
/// x in the autocast dtype of its device, when autocast is on and x is floating but not f64; else x. Recorded.
Tensor lower(const Tensor& x);
}  // namespace autocast

}  // namespace graft
