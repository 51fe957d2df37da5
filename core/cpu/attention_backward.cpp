// Backward attention: the weights are recomputed from the saved log-sum-exp, P = e^(S − lse), and with δ = Σ dy · y of each query
//   dV = Pᵀ dY,  dP = dY Vᵀ,  dS = P (dP − δ),  dQ = scale · dS K,  dK = scale · dSᵀ Q.
#include <cmath>

#include "graft/core/cpu/attention.h"
#include "graft/core/cpu/cpu.h"

namespace graft::cpu {
namespace {

template <class A>
class Backward {
 public:
  Backward(const AttentionProblem& problem, const View& q, const View& k, const View& v, const View& y, const View& lse,
           const View& dy, const View& dq, const View& dk, const View& dv)
      : problem_(problem),
        q_(q),
        k_(k),
        v_(v),
        y_(y),
        lse_(lse),
        dy_(dy),
        dq_(dq),
        dk_(dk),
        dv_(dv),
        width_(padded(problem.width)),
        value_width_(padded(problem.value_width)),
        scale_(static_cast<A>(problem.shape.scale)) {}

  /// Writes dq of the units first … last-1 and returns their share of dk and dv: [keys][padded width].
  KeyGradients<A> run(std::int64_t b, std::int64_t kv_head, std::int64_t first, std::int64_t last) const {
    const std::vector<A> bias = problem_.key_bias<A>(b);
    const Arrays<A, 8> arrays({packed_rows(k_), packed_columns(k_), packed_columns(v_), query_block * width_,
                               query_block * value_width_, query_block * width_, query_block * key_block,
                               query_block * key_block});
    A *const keys = arrays[0], *const key_columns = arrays[1], *const value_columns = arrays[2], *const queries = arrays[3],
             *const grads = arrays[4], *const dqueries = arrays[5], *const weights = arrays[6], *const dscores = arrays[7];
    pack_rows(k_, b, kv_head, keys);
    pack_columns(k_, b, kv_head, key_columns);
    pack_columns(v_, b, kv_head, value_columns);
    KeyGradients<A> sums{std::vector<A>(problem_.keys * width_), std::vector<A>(problem_.keys * value_width_)};
    for (std::int64_t unit = first; unit < last; ++unit) {
      const QueryBlock block(problem_, kv_head, unit);
      load_rows(q_, b, block.head, block.begin, block.rows, scale_, queries);
      load_rows(dy_, b, block.head, block.begin, block.rows, A(1), grads);
      A shifts[query_block], deltas[query_block];
      load_row_sums(b, block, grads, shifts, deltas);
      std::fill_n(dqueries, query_block * width_, A(0));
      for (std::int64_t j = 0; j < block.limit; j += key_block) {
        const std::int64_t seen = std::min(key_block, block.limit - j), room = std::min(key_block, padded(seen));
        loops_.tile_product(queries, width_, 1, &key_columns[j * problem_.width], key_block, weights, key_block, block.rows, room,
                            problem_.width, false);
        loops_.tile_product(grads, value_width_, 1, &value_columns[j * problem_.value_width], key_block, dscores, key_block,
                            block.rows, room, problem_.value_width, false);
        for (std::int64_t i = 0; i < block.rows; ++i) {
          const std::int64_t n = std::clamp<std::int64_t>(problem_.limit(block.begin + i) - j, 0, seen);
          A *p = &weights[i * key_block], *ds = &dscores[i * key_block];
          if (!bias.empty()) loops_.binary(BinaryOp::add, p, &bias[j], p, n);
          loops_.exp_minus(p, shifts[i], p, n);
          std::fill_n(p + n, room - n, A(0));
          loops_.mul_shifted(p, ds, deltas[i], ds, room);
        }
        loops_.tile_product(weights, 1, key_block, grads, value_width_, &sums.dv[j * value_width_], value_width_, seen,
                            value_width_, block.rows, true);
        loops_.tile_product(dscores, 1, key_block, queries, width_, &sums.dk[j * width_], width_, seen, width_, block.rows, true);
        loops_.tile_product(dscores, key_block, 1, &keys[j * width_], width_, dqueries, width_, block.rows, width_, seen, true);
      }
      for (std::int64_t i = 0; i < block.rows; ++i) {
        A* row = &dqueries[i * width_];
        loops_.unary(UnaryOp::affine, row, row, problem_.width, scale_, 0);
        store_row(row, dq_, b, block.head, block.begin + i);
      }
    }
    return sums;
  }

  void store(std::int64_t b, std::int64_t h, const KeyGradients<A>& sums) const {
    for (std::int64_t j = 0; j < problem_.keys; ++j) {
      store_row(&sums.dk[j * width_], dk_, b, h, j);
      store_row(&sums.dv[j * value_width_], dv_, b, h, j);
    }
  }

 private:
  void load_row_sums(std::int64_t b, const QueryBlock& block, const A* grads, A* shifts, A* deltas) const {
    std::vector<A> buffer(problem_.value_width);
    for (std::int64_t i = 0; i < block.rows; ++i) {
      const std::int64_t at = block.begin + i;
      prefetch_row(y_, b, block.head, at + rows_ahead);
      A lse_buffer;
      const A lse = *load(lse_, b * lse_.strides[0] + block.head * lse_.strides[1] + at * lse_.strides[2], 1, 1, &lse_buffer);
      // A query that sees no key has lse −∞; its scores are all −∞ too, and any finite shift makes their weights 0.
      shifts[i] = std::isinf(lse) && lse < 0 ? A(0) : lse;
      deltas[i] = loops_.dot(grads + i * value_width_, load_row(y_, b, block.head, at, buffer.data()), problem_.value_width);
    }
  }

  const AttentionProblem& problem_;
  const View &q_, &k_, &v_, &y_, &lse_, &dy_, &dq_, &dk_, &dv_;
  const std::int64_t width_, value_width_;
  const A scale_;
  const VectorLoops<A>& loops_ = vector_loops<A>();
};

}  // namespace

void attention_backward(const View& q, const View& k, const View& v, const AttentionShape& shape, const View& y, const View& lse,
                        const View& dy, const View& dq, const View& dk, const View& dv) {
  with_floating(q.dtype, "attention_backward", [&]<class A>() {
    const AttentionProblem problem(q, k, v, shape);
    if (problem.batch * problem.heads * problem.queries == 0 || problem.keys == 0) {
      for (const View* view : {&dq, &dk, &dv}) fill(*view, 0);
      return;
    }
    if (!attention_backward_by_dots(problem, q, k, v, y, lse, dy, dq, dk, dv))
      sum_key_gradients<A>(problem, Backward<A>(problem, q, k, v, y, lse, dy, dq, dk, dv));
  });
}

}  // namespace graft::cpu
