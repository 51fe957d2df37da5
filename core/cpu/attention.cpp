// Forward attention with the online softmax (Milakov and Gimelshein, 2018; Dao et al., 2022): a running maximum and sum for each
// query, and what was summed so far rescaled when the maximum grows.
#include "graft/core/cpu/attention.h"

#include <cmath>

#include "graft/core/cpu/cpu.h"

namespace graft::cpu {
namespace {

template <class A>
constexpr A minus_infinity = -std::numeric_limits<A>::infinity();

/// Writes one finished row: `sum` weights e^(score − largest) went into `values`.
template <class A>
void finish_row(A* values, A largest, A sum, const View& y, const View& lse, std::int64_t b, std::int64_t h, std::int64_t i) {
  const auto& loops = vector_loops<A>();
  const bool blind = largest == minus_infinity<A>;  // sees no key
  loops.unary(UnaryOp::affine, values, values, y.sizes[3], blind ? A(0) : 1 / sum, 0);
  store_row(values, y, b, h, i);
  const A total = blind ? largest : largest + std::log(sum);
  store(&total, lse, b * lse.strides[0] + h * lse.strides[1] + i * lse.strides[2], 1, 1);
}

/// Turns a row of n scores (of `room`, the rest becomes 0) into weights and folds them into the running maximum and sum.
template <class A>
void fold_row(A* scores, const A* bias, std::int64_t n, std::int64_t room, A& largest, A& sum, A* values, std::int64_t width) {
  const auto& loops = vector_loops<A>();
  if (bias && n > 0) loops.binary(BinaryOp::add, scores, bias, scores, n);
  const A found = n > 0 ? loops.max(scores, n) : minus_infinity<A>;
  const A next = found > largest || found != found ? found : largest;
  if (next == minus_infinity<A>) {
    std::fill_n(scores, room, A(0));
    return;
  }
  loops.exp_minus(scores, next, scores, n);
  std::fill_n(scores + n, room - n, A(0));
  if (next != largest) {
    const A shrink = std::exp(largest - next);
    sum *= shrink;
    loops.unary(UnaryOp::affine, values, values, width, shrink, 0);
    largest = next;
  }
  sum += loops.sum(scores, n);
}

template <class A>
void attend_blocks(const AttentionProblem& problem, const View& q, const View& k, const View& v, const View& y, const View& lse) {
  const auto& loops = vector_loops<A>();
  const std::int64_t width = padded(problem.width), value_width = padded(problem.value_width);
  problem.for_each_chunk(
      problem.spans(64), [&](std::int64_t b, std::int64_t kv_head, std::int64_t, std::int64_t first, std::int64_t last) {
        const std::vector<A> bias = problem.key_bias<A>(b);
        const Arrays<A, 5> arrays(
            {packed_columns(k), packed_rows(v), query_block * width, query_block * key_block, query_block * value_width});
        A *const keys = arrays[0], *const values = arrays[1], *const queries = arrays[2], *const scores = arrays[3],
                 *const result = arrays[4];
        pack_columns(k, b, kv_head, keys);
        pack_rows(v, b, kv_head, values);
        for (std::int64_t unit = first; unit < last; ++unit) {
          const QueryBlock block(problem, kv_head, unit);
          load_rows(q, b, block.head, block.begin, block.rows, static_cast<A>(problem.shape.scale), queries);
          std::fill_n(result, query_block * value_width, A(0));
          A largest[query_block], sum[query_block] = {};
          std::fill_n(largest, query_block, minus_infinity<A>);
          for (std::int64_t j = 0; j < block.limit; j += key_block) {
            const std::int64_t room = std::min(key_block, padded(block.limit - j)), seen = std::min(key_block, block.limit - j);
            loops.tile_product(queries, width, 1, &keys[j * problem.width], key_block, scores, key_block, block.rows, room,
                               problem.width, false);
            for (std::int64_t i = 0; i < block.rows; ++i) {
              const std::int64_t n = std::clamp<std::int64_t>(problem.limit(block.begin + i) - j, 0, seen);
              fold_row(&scores[i * key_block], bias.empty() ? nullptr : &bias[j], n, room, largest[i], sum[i],
                       &result[i * value_width], value_width);
            }
            loops.tile_product(scores, key_block, 1, &values[j * value_width], value_width, result, value_width, block.rows,
                               value_width, seen, true);
          }
          for (std::int64_t i = 0; i < block.rows; ++i)
            finish_row(&result[i * value_width], largest[i], sum[i], y, lse, b, block.head, block.begin + i);
        }
      });
}

// A few queries against many keys (generation): packing would cost more than it saves, so keys and values are read where they lie.
template <class A>
void attend_rows(const AttentionProblem& problem, const View& q, const View& k, const View& v, const View& y, const View& lse) {
  const auto& loops = vector_loops<A>();
  const std::int64_t width = problem.width, value_width = problem.value_width, per_batch = problem.heads * problem.queries;
  parallel_ranges(
      problem.batch * per_batch, steps_per_chunk(problem.keys * (width + value_width)),
      [&](std::int64_t begin, std::int64_t end) {
        std::vector<A> query(width), scores(problem.keys), row(std::max(width, value_width)), result(value_width), bias;
        for (std::int64_t at = begin, bias_of = -1; at < end; ++at) {
          const std::int64_t b = at / per_batch, h = at % per_batch / problem.queries, i = at % problem.queries;
          if (b != bias_of) bias = problem.key_bias<A>(b), bias_of = b;
          load_rows(q, b, h, i, 1, static_cast<A>(problem.shape.scale), query.data());
          const std::int64_t n = problem.limit(i), kv_head = h / problem.group;
          for (std::int64_t j = 0; j < n; ++j) scores[j] = loops.dot(query.data(), load_row(k, b, kv_head, j, row.data()), width);
          std::fill(result.begin(), result.end(), A(0));
          A largest = minus_infinity<A>, sum = 0;
          fold_row(scores.data(), bias.empty() ? nullptr : bias.data(), n, n, largest, sum, result.data(), value_width);
          for (std::int64_t j = 0; j < n; ++j)
            loops.add_scaled(result.data(), scores[j], load_row(v, b, kv_head, j, row.data()), result.data(), value_width);
          finish_row(result.data(), largest, sum, y, lse, b, h, i);
        }
      });
}

}  // namespace

void attention(const View& q, const View& k, const View& v, const AttentionShape& shape, const View& y, const View& lse) {
  with_floating(q.dtype, "attention", [&]<class A>() {
    const AttentionProblem problem(q, k, v, shape);
    if (problem.batch * problem.heads * problem.queries == 0) return;
    constexpr std::int64_t few_queries = 4;
    if (problem.queries <= few_queries) attend_rows<A>(problem, q, k, v, y, lse);
    else if (!attention_by_dots(problem, q, k, v, y, lse)) attend_blocks<A>(problem, q, k, v, y, lse);
  });
}

}  // namespace graft::cpu
