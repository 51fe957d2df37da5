// Reductions: a block takes some outputs, or one, and a piece of what they reduce. Each thread folds its elements in order, then the
// block's threads are folded pairwise.
#include "graft/core/elementwise.h"
#include "graft/cuda/block_reduce.cuh"
#include "graft/cuda/elements.cuh"
#include "graft/cuda/reduce.h"

namespace graft::cuda {
namespace {

template <class A, class Op>
__device__ void reduce(const Reduce& r, A start) {
  const int lane = static_cast<int>(threadIdx.x) % r.lanes, share = static_cast<int>(threadIdx.x) / r.lanes;
  const int shares = static_cast<int>(blockDim.x) / r.lanes;
  const std::int64_t output = static_cast<std::int64_t>(blockIdx.x) * r.lanes + lane, piece = blockIdx.y;
  const bool mine = output < r.outputs;
  std::array<std::int64_t, 2> at{};
  A total = start;
  if (mine) {
    at = r.kept.at(output);
    const std::int64_t end = (piece + 1) * r.piece < r.length ? (piece + 1) * r.piece : r.length;
    for (std::int64_t i = piece * r.piece + share; i < end; i += shares)
      total = Op::apply(total, load<A>(r.x, r.x_dtype, at[1] + r.reduced.at(i)[0]));
  }
  total = fold_block(total, r.lanes, [](A a, A b) { return Op::apply(a, b); });
  if (!mine || share != 0) return;
  if (r.pieces == 1) store_same<A>(r.y, r.y_dtype, at[0], total);
  else static_cast<A*>(r.parts)[output * r.pieces + piece] = total;
}

template <class A>
struct Largest {
  A value;
  std::int64_t index;  // -1: none yet
};

// As in PyTorch, NaN is larger than every number; of equals the first.
template <class A>
__device__ Largest<A> larger(const Largest<A>& a, const Largest<A>& b) {
  if (a.index < 0) return b;
  if (b.index < 0) return a;
  const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
  if (a_nan != b_nan) return a_nan ? a : b;
  if (!a_nan && a.value != b.value) return a.value > b.value ? a : b;
  return a.index < b.index ? a : b;
}

template <class A>
__device__ void argmax(const ArgMax& m) {
  const std::int64_t row = blockIdx.x, begin = m.rows(row);
  Largest<A> best{A(0), -1};
  for (std::int64_t i = threadIdx.x; i < m.length; i += blockDim.x)
    best = larger(best, Largest<A>{load<A>(m.x, m.dtype, begin + i * m.stride), i});
  best = fold_block(best, 1, [](const Largest<A>& a, const Largest<A>& b) { return larger(a, b); });
  if (threadIdx.x == 0) m.index[m.to(row)] = best.index;
}

template <class A>
__device__ constexpr A greatest() {
  if constexpr (std::is_integral_v<A>) return std::numeric_limits<A>::max();
  else return std::numeric_limits<A>::infinity();
}
template <class A>
__device__ constexpr A least() {
  if constexpr (std::is_integral_v<A>) return std::numeric_limits<A>::lowest();
  else return -std::numeric_limits<A>::infinity();
}

}  // namespace

extern "C" {

#define GRAFT_KERNELS(suffix, A)                                                                                          \
  __global__ void sum##suffix(const __grid_constant__ Reduce r) { reduce<A, elementwise::add_op>(r, A(0)); }              \
  __global__ void max##suffix(const __grid_constant__ Reduce r) { reduce<A, elementwise::maximum_op>(r, least<A>()); }    \
  __global__ void min##suffix(const __grid_constant__ Reduce r) { reduce<A, elementwise::minimum_op>(r, greatest<A>()); } \
  __global__ void argmax##suffix(const __grid_constant__ ArgMax m) { argmax<A>(m); }
GRAFT_KERNELS(_f64, double)
GRAFT_KERNELS(_f32, float)
GRAFT_KERNELS(_i64, std::int64_t)
#undef GRAFT_KERNELS

}  // extern "C"
}  // namespace graft::cuda
