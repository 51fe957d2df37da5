// The table of kernels that a device fills. Kernels see views, never tensors; callers have checked shapes and dtypes.
// A null entry is a legal answer: `kernel()` turns it into a NotImplementedError that names the operation and the device.
#pragma once

#include "graft/core/device.h"
#include "graft/core/view.h"

namespace graft {

enum class UnaryOp : std::uint8_t;  // elementwise.h lists them, with their functors
enum class BinaryOp : std::uint8_t;
enum class ReduceOp : std::uint8_t { sum, max, min };
enum class Draw : std::uint8_t { uniform, normal, bernoulli };

/// Scaled-dot-product attention over [batch, heads, length, width]; q may have a multiple of k's heads.
struct AttentionShape {
  double scale = 1;
  bool causal = true;              // query i sees keys 0 … i + (keys − queries)
  const View* key_mask = nullptr;  // bool [batch, keys]: false = padding, never seen; may be null
};

struct Kernels {
  // ---- moving ----
  void (*copy)(const View& from, const View& to);  // any strides, converts
  void (*fill)(const View& to, double value);

  // ---- elementwise; every view has the output's shape (broadcast dimensions have stride 0) and inputs share one dtype ----
  void (*unary)(UnaryOp op, const View& x, const View& y, double p0, double p1);
  void (*binary)(BinaryOp op, const View& a, const View& b, const View& y);  // comparisons write bool
  void (*select)(const View& condition, const View& a, const View& b, const View& y);
  // y = silu(gate) · x and its two gradients, all apart; null where one operation after the other is as good.
  void (*silu_mul)(const View& gate, const View& x, const View& y);
  void (*silu_mul_backward)(const View& gate, const View& x, const View& dy, const View& dgate, const View& dx);

  // ---- reductions: y has x's rank and extent 1 where x is reduced; sums are kept in Accumulator<T> ----
  void (*reduce)(ReduceOp op, const View& x, const View& y);
  void (*argmax)(const View& x, const View& index);  // over the last dimension; index i64, first of equals

  // ---- rows: over the last dimension; x [..., n] ----
  void (*softmax)(const View& x, const View& y, bool log);
  void (*softmax_backward)(const View& y, const View& dy, const View& dx, bool log);
  void (*rms_norm)(const View& x, const View& weight, double eps, const View& y,
                   const View& rstd);  // rstd [...] in f32, f64 for f64
  // A gradient whose view has no data is not wanted.
  void (*rms_norm_backward)(const View& x, const View& weight, const View& rstd, const View& dy, const View& dx,
                            const View& dweight);
  void (*rotary)(const View& x, const View& cos, const View& sin, const View& y,
                 bool inverse);  // x [b, h, t, d], tables [b or 1, t, d/2]
  void (*cross_entropy)(const View& logits, const View& labels, std::int64_t ignored, const View& losses, const View& lse);
  void (*cross_entropy_backward)(const View& logits, const View& labels, std::int64_t ignored, const View& lse,
                                 const View& dlosses, const View& dlogits);

  // ---- products: [..., m, k] × [..., k, n], batch dimensions equal (stride 0 where broadcast), accumulated in Accumulator<T>;
  // y has the operands' dtype, or f32 where they are half ----
  void (*matmul)(const View& a, const View& b, const View& y);
  // y [m, n] = fl(x weightᵀ) + u Bᵀ, rounded again, with u [m, r] = scale · x Aᵀ, for A [r, k] and B [n, r] in f32 or y's f64; fl rounds to
  // y's dtype. u, contiguous and of B's dtype, is not wanted if its view has no data, and not made for an empty y. Its gradient for x is one of these itself, with every
  // factor transposed.
  void (*low_rank_linear)(const View& x, const View& weight, const View& A, const View& B, double scale, const View& y,
                          const View& u);
  // Of y = x weightᵀ: dx [m, k] = dy [m, n] · weight [n, k], dweight = dyᵀ · x, dtypes and strides as free as matmul's. A gradient whose view
  // has no data is not wanted, and then neither is weight, or x.
  void (*linear_backward)(const View& dy, const View& x, const View& weight, const View& dx, const View& dweight);
  void (*attention)(const View& q, const View& k, const View& v, const AttentionShape& shape, const View& y, const View& lse);
  void (*attention_backward)(const View& q, const View& k, const View& v, const AttentionShape& shape, const View& y,
                             const View& lse, const View& dy, const View& dq, const View& dk, const View& dv);

  // ---- indexing: index i64, already checked against the extent ----
  void (*index_select)(const View& x, int dim, const View& index, const View& y);  // index [n]
  void (*index_add)(const View& y, int dim, const View& index, const View& x);     // y += x at index, in index order
  void (*gather)(const View& x, int dim, const View& index, const View& y);        // index has y's shape
  void (*scatter_add)(const View& y, int dim, const View& index, const View& x);   // index has x's shape

  // ---- random numbers: element i of y (row-major) is a function of (seed, stream, i); rng.h ----
  void (*draw)(Draw kind, std::uint64_t seed, std::uint64_t stream, const View& y, double p0, double p1);

  // ---- dense linear algebra, batched over leading dimensions, f32 and f64 ----
  void (*inverse)(const View& a, const View& y);
  void (*solve_triangular)(const View& a, const View& b, bool upper, const View& y);  // a y = b
  void (*cholesky)(const View& a, const View& lower);
  void (*qr)(const View& a, const View& q, const View& r);                   // reduced
  void (*svd)(const View& a, const View& u, const View& s, const View& vt);  // thin, s descending
};

const Kernels& cpu_kernels();

/// `entry` of the device's table; NotImplementedError naming `what` when the device has none.
template <class Entry>
Entry kernel(Device device, Entry Kernels::*entry, const char* what) {
  Entry function = runtime(device).kernels().*entry;
  check<NotImplementedError>(function != nullptr, "{}: not available on device {}", what, device);
  return function;
}

/// What an entry for products takes: TypeError unless all are floating, and f64 all or none.
inline void check_types(const char* what, std::initializer_list<const View*> operands) {
  const DType first = (*operands.begin())->dtype;
  for (const View* view : operands) {
    check<TypeError>(is_floating(view->dtype), "{}: does not take elements of type {}", what, view->dtype);
    check<TypeError>((view->dtype == DType::f64) == (first == DType::f64), "{}: f64 meets {}", what,
                     view->dtype == DType::f64 ? first : view->dtype);
  }
}

}  // namespace graft
