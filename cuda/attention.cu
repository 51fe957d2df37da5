// Attention with memory linear in the length. A warp owns a query (or a key, for the gradients of keys and values) and meets what it is
// paired with 32 at a time: first a lane takes one of them, for scores, then a lane takes every 32nd column, for sums. Forward is
// the online softmax (Milakov and Gimelshein, 2018; Dao et al., 2022); backward recomputes the weights from the log-sum-exp:
//   P = e^(S − lse), dV = Pᵀ dY,  dP = dY Vᵀ,  dS = P (dP − δ),  dQ = scale · dS K,  dK = scale · dSᵀ Q.
// Nothing is shared between warps, so that every sum has one order.
#include <cmath>
#include <limits>

#include "graft/cuda/attention.h"
#include "graft/cuda/elements.cuh"
#include "graft/cuda/warp.cuh"

namespace graft::cuda {
namespace {

template <class A, class Fold>
__device__ A fold_warp(A value, Fold&& fold) {
  for (int step = warp_size / 2; step > 0; step /= 2) value = fold(value, __shfl_xor_sync(all_lanes, value, step));
  return value;
}
template <class A>
__device__ A sum_warp(A value) {
  return fold_warp(value, [](A a, A b) { return a + b; });
}

/// One row of a head.
template <class A>
struct HeadRow {
  void* data;
  DType dtype;
  std::int64_t begin, step;
  __device__ HeadRow(const Heads& heads, std::int64_t b, std::int64_t h, std::int64_t i)
      : data(heads.data),
        dtype(heads.dtype),
        begin(b * heads.strides[0] + h * heads.strides[1] + i * heads.strides[2]),
        step(heads.strides[3]) {}
  __device__ A operator[](std::int64_t p) const { return load<A>(data, dtype, begin + p * step); }
  __device__ void set(std::int64_t p, A value) const { store_same<A>(data, dtype, begin + p * step, value); }
};

/// What this warp owns: row `i` of head `h` of batch entry `b`. Rows of a head follow each other, so that a block's warps read the same
/// counterparts.
struct Owner {
  std::int64_t b, h, i;
  bool any;
  __device__ Owner(std::int64_t batch, std::int64_t heads, std::int64_t rows) {
    std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * attention_warps + warp();
    any = at < batch * heads * rows;
    i = at % rows, at /= rows;
    h = at % heads, b = at / heads;
  }
};

/// How many of the first keys query `i` may see.
__device__ inline std::int64_t limit(const Attention& a, std::int64_t i) {
  if (!a.causal) return a.keys;
  const std::int64_t n = i + 1 + a.keys - a.queries;
  return n < 0 ? 0 : n < a.keys ? n : a.keys;
}
__device__ inline bool seen(const Attention& a, std::int64_t b, std::int64_t j) {
  return !a.mask || a.mask[b * a.mask_strides[0] + j * a.mask_strides[1]] != 0;
}

/// The block's shared memory, this warp's part: `count` numbers of A.
template <class A>
__device__ A* of_this_warp(std::int64_t count) {
  extern __shared__ __align__(16) unsigned char shared[];
  return reinterpret_cast<A*>(shared) + warp() * count;
}

template <class A>
__device__ void copy_row(const HeadRow<A>& row, std::int64_t width, A factor, A* to) {
  for (std::int64_t p = lane(); p < width; p += warp_size) to[p] = row[p] * factor;
}
template <class A>
__device__ void clear(A* to, std::int64_t width) {
  for (std::int64_t p = lane(); p < width; p += warp_size) to[p] = 0;
}
template <class A>
__device__ A dot(const A* x, const HeadRow<A>& row, std::int64_t width) {
  A sum = 0;
  for (std::int64_t p = 0; p < width; ++p) sum = std::fma(x[p], row[p], sum);
  return sum;
}
/// sums += Σ weight of lane j · row j, over n lanes in order; row_of(j) gives them.
template <class A, class RowOf>
__device__ void add_rows(A* sums, std::int64_t width, A weight, int n, RowOf&& row_of) {
  for (int j = 0; j < n; ++j) {
    const A factor = __shfl_sync(all_lanes, weight, j);
    const HeadRow<A> row = row_of(j);
    for (std::int64_t p = lane(); p < width; p += warp_size) sums[p] = std::fma(factor, row[p], sums[p]);
  }
}

template <class A>
__device__ void attention(const Attention& a) {
  const Owner own(a.batch, a.heads, a.queries);
  if (!own.any) return;
  constexpr A nothing = -std::numeric_limits<A>::infinity();
  const std::int64_t kv_head = own.h / (a.heads / a.kv_heads), n = limit(a, own.i);
  A *query = of_this_warp<A>(a.width + a.value_width), *sums = query + a.width;
  copy_row(HeadRow<A>(a.q, own.b, own.h, own.i), a.width, static_cast<A>(a.scale), query);
  clear(sums, a.value_width);
  __syncwarp();
  A largest = nothing, total = 0;
  const auto larger = [](A x, A y) { return x > y || x != x ? x : y; };
  for (std::int64_t first = 0; first < n; first += warp_size) {
    const std::int64_t j = first + lane();
    const bool visible = j < n && seen(a, own.b, j);
    const A score = visible ? dot(query, HeadRow<A>(a.k, own.b, kv_head, j), a.width) : nothing;
    const A next = larger(fold_warp(score, larger), largest);
    if (next == nothing) continue;
    const A weight = visible ? std::exp(score - next) : A(0);
    if (next != largest) {
      const A shrink = std::exp(largest - next);
      total *= shrink;
      for (std::int64_t p = lane(); p < a.value_width; p += warp_size) sums[p] *= shrink;
      largest = next;
    }
    total += sum_warp(weight);
    const int count = static_cast<int>(n - first < warp_size ? n - first : warp_size);
    add_rows(sums, a.value_width, weight, count, [&](int l) { return HeadRow<A>(a.v, own.b, kv_head, first + l); });
  }
  const bool blind = largest == nothing;  // sees no key
  const A factor = blind ? A(0) : 1 / total;
  const HeadRow<A> y(a.y, own.b, own.h, own.i);
  for (std::int64_t p = lane(); p < a.value_width; p += warp_size) y.set(p, sums[p] * factor);
  if (lane() == 0) HeadRow<A>(a.lse, own.b, own.h, own.i).set(0, blind ? largest : largest + std::log(total));
}

template <class A>
__device__ void attention_delta(const Attention& a) {
  const Owner own(a.batch, a.heads, a.queries);
  if (!own.any) return;
  const HeadRow<A> y(a.y, own.b, own.h, own.i), dy(a.dy, own.b, own.h, own.i);
  A sum = 0;
  for (std::int64_t p = lane(); p < a.value_width; p += warp_size) sum = std::fma(dy[p], y[p], sum);
  sum = sum_warp(sum);
  if (lane() == 0) HeadRow<A>(a.delta, own.b, own.h, own.i).set(0, sum);
}

/// What the weight of a pair is recomputed from. A query that sees no key has lse −∞; any finite shift makes its weights 0.
template <class A>
__device__ A shift_of(const Attention& a, std::int64_t b, std::int64_t h, std::int64_t i) {
  const A lse = HeadRow<A>(a.lse, b, h, i)[0];
  return lse == -std::numeric_limits<A>::infinity() ? A(0) : lse;
}

template <class A>
__device__ void attention_dq(const Attention& a) {
  const Owner own(a.batch, a.heads, a.queries);
  if (!own.any) return;
  const std::int64_t kv_head = own.h / (a.heads / a.kv_heads), n = limit(a, own.i);
  A *query = of_this_warp<A>(2 * a.width + a.value_width), *grad = query + a.width, *sums = grad + a.value_width;
  copy_row(HeadRow<A>(a.q, own.b, own.h, own.i), a.width, static_cast<A>(a.scale), query);
  copy_row(HeadRow<A>(a.dy, own.b, own.h, own.i), a.value_width, A(1), grad);
  clear(sums, a.width);
  __syncwarp();
  const A shift = shift_of<A>(a, own.b, own.h, own.i), delta = HeadRow<A>(a.delta, own.b, own.h, own.i)[0];
  for (std::int64_t first = 0; first < n; first += warp_size) {
    const std::int64_t j = first + lane();
    A dscore = 0;
    if (j < n && seen(a, own.b, j)) {
      const A weight = std::exp(dot(query, HeadRow<A>(a.k, own.b, kv_head, j), a.width) - shift);
      dscore = weight * (dot(grad, HeadRow<A>(a.v, own.b, kv_head, j), a.value_width) - delta);
    }
    const int count = static_cast<int>(n - first < warp_size ? n - first : warp_size);
    add_rows(sums, a.width, dscore, count, [&](int l) { return HeadRow<A>(a.k, own.b, kv_head, first + l); });
  }
  const HeadRow<A> dq(a.dq, own.b, own.h, own.i);
  for (std::int64_t p = lane(); p < a.width; p += warp_size) dq.set(p, sums[p] * static_cast<A>(a.scale));
}

template <class A>
__device__ void attention_dkv(const Attention& a) {
  const Owner own(a.batch, a.kv_heads, a.keys);  // own.i is a key
  if (!own.any) return;
  const std::int64_t group = a.heads / a.kv_heads;
  A *key = of_this_warp<A>(2 * (a.width + a.value_width)), *value = key + a.width, *dkey = value + a.value_width,
    *dvalue = dkey + a.width;
  copy_row(HeadRow<A>(a.k, own.b, own.h, own.i), a.width, static_cast<A>(a.scale), key);
  copy_row(HeadRow<A>(a.v, own.b, own.h, own.i), a.value_width, A(1), value);
  clear(dkey, a.width);
  clear(dvalue, a.value_width);
  __syncwarp();
  // The first query that may see this key.
  std::int64_t begin = a.causal ? own.i - (a.keys - a.queries) : 0;
  if (begin < 0) begin = 0;
  if (!seen(a, own.b, own.i)) begin = a.queries;
  for (std::int64_t h = own.h * group; h < (own.h + 1) * group; ++h)
    for (std::int64_t first = begin; first < a.queries; first += warp_size) {
      const std::int64_t i = first + lane();
      A weight = 0, dscore = 0;
      if (i < a.queries) {
        weight = std::exp(dot(key, HeadRow<A>(a.q, own.b, h, i), a.width) - shift_of<A>(a, own.b, h, i));
        dscore = weight * (dot(value, HeadRow<A>(a.dy, own.b, h, i), a.value_width) - HeadRow<A>(a.delta, own.b, h, i)[0]);
      }
      const int count = static_cast<int>(a.queries - first < warp_size ? a.queries - first : warp_size);
      add_rows(dvalue, a.value_width, weight, count, [&](int l) { return HeadRow<A>(a.dy, own.b, h, first + l); });
      add_rows(dkey, a.width, dscore, count, [&](int l) { return HeadRow<A>(a.q, own.b, h, first + l); });
    }
  const HeadRow<A> dk(a.dk, own.b, own.h, own.i), dv(a.dv, own.b, own.h, own.i);
  for (std::int64_t p = lane(); p < a.width; p += warp_size) dk.set(p, dkey[p] * static_cast<A>(a.scale));
  for (std::int64_t p = lane(); p < a.value_width; p += warp_size) dv.set(p, dvalue[p]);
}

}  // namespace

extern "C" {

// Four blocks on a multiprocessor hide each other's waits.
#define GRAFT_KERNEL(name) __global__ void __launch_bounds__(32 * attention_warps, 4) name(const __grid_constant__ Attention a)
#define GRAFT_KERNELS(suffix, A)                                   \
  GRAFT_KERNEL(attention##suffix) { attention<A>(a); }             \
  GRAFT_KERNEL(attention_delta##suffix) { attention_delta<A>(a); } \
  GRAFT_KERNEL(attention_dq##suffix) { attention_dq<A>(a); }       \
  GRAFT_KERNEL(attention_dkv##suffix) { attention_dkv<A>(a); }
GRAFT_KERNELS(_f64, double)
GRAFT_KERNELS(_f32, float)
#undef GRAFT_KERNELS
#undef GRAFT_KERNEL

}  // extern "C"
}  // namespace graft::cuda
