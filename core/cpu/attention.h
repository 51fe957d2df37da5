// What the forward and the backward pass of attention share. A chunk of work is one key-value head of one batch entry and a
// span of the queries that read it: its keys and values are widened and padded once, then met block by block, so that memory
// is linear in the length and every product is a small dense one.
#pragma once

#include <array>
#include <limits>
#include <vector>

#include "graft/core/cpu/block.h"
#include "graft/core/cpu/gemm.h"
#include "graft/core/cpu/loop.h"
#include "graft/core/cpu/vector.h"

namespace graft::cpu {

inline constexpr std::int64_t query_block = 32, key_block = 128;

inline std::int64_t padded(std::int64_t width) { return (width + tile_lanes - 1) / tile_lanes * tile_lanes; }

/// One row of a [batch, heads, length, width] view.
template <class A>
const A* load_row(const View& view, std::int64_t b, std::int64_t h, std::int64_t i, A* buffer) {
  return load(view, b * view.strides[0] + h * view.strides[1] + i * view.strides[2], view.strides[3], view.sizes[3], buffer);
}
/// Asks for a row that comes later: those of a transposed view are out of reach of the processor's own prefetching.
inline void prefetch_row(const View& view, std::int64_t b, std::int64_t h, std::int64_t i) {
  if (i >= view.sizes[2]) return;
  const auto* row = static_cast<const char*>(element(view, b * view.strides[0] + h * view.strides[1] + i * view.strides[2]));
  for (std::int64_t at = 0; at < view.sizes[3] * size_of(view.dtype); at += 64) __builtin_prefetch(row + at);
}
inline constexpr std::int64_t rows_ahead = 12;
template <class A>
void store_row(const A* values, const View& view, std::int64_t b, std::int64_t h, std::int64_t i) {
  store(values, view, b * view.strides[0] + h * view.strides[1] + i * view.strides[2], view.strides[3], view.sizes[3]);
}

struct AttentionProblem {
  AttentionProblem(const View& q, const View& k, const View& v, const AttentionShape& shape)
      : batch(q.sizes[0]),
        heads(q.sizes[1]),
        queries(q.sizes[2]),
        width(q.sizes[3]),
        kv_heads(k.sizes[1]),
        keys(k.sizes[2]),
        value_width(v.sizes[3]),
        group(heads / std::max<std::int64_t>(kv_heads, 1)),
        shape(shape) {}

  std::int64_t batch, heads, queries, width, kv_heads, keys, value_width, group;
  const AttentionShape& shape;

  /// How many of the first keys query `i` may see.
  std::int64_t limit(std::int64_t i) const {
    return shape.causal ? std::clamp<std::int64_t>(i + 1 + keys - queries, 0, keys) : keys;
  }
  std::int64_t key_blocks() const { return (keys + key_block - 1) / key_block; }
  std::int64_t query_blocks() const { return (queries + query_block - 1) / query_block; }
  /// Query blocks that read one key-value head.
  std::int64_t units() const { return group * query_blocks(); }
  /// Spans into which the units of a key-value head are cut, so that there are about `chunks` chunks if there is enough to do.
  std::int64_t spans(std::int64_t chunks) const {
    const std::int64_t wanted = (chunks + batch * kv_heads - 1) / std::max<std::int64_t>(batch * kv_heads, 1);
    return std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(units() / 4, 1));
  }

  /// 0 for keys that may be seen and −∞ for padding; empty without a mask.
  template <class A>
  std::vector<A> key_bias(std::int64_t b) const {
    if (!shape.key_mask) return {};
    const View& mask = *shape.key_mask;
    std::vector<A> bias(keys);
    for (std::int64_t j = 0; j < keys; ++j)
      bias[j] = mask.as<bool>()[b * mask.strides[0] + j * mask.strides[1]] ? A(0) : -std::numeric_limits<A>::infinity();
    return bias;
  }

  /// f(b, kv_head, span, first unit, last unit) for every chunk, in parallel.
  template <class F>
  void for_each_chunk(std::int64_t spans, F&& f) const {
    parallel_for(batch * kv_heads * spans, [&](std::int64_t chunk) {
      const std::int64_t span = chunk % spans, pair = chunk / spans;
      f(pair / kv_heads, pair % kv_heads, span, units() * span / spans, units() * (span + 1) / spans);
    });
  }
};

/// A block of queries of one head.
struct QueryBlock {
  QueryBlock(const AttentionProblem& problem, std::int64_t kv_head, std::int64_t unit)
      : head(kv_head * problem.group + unit / problem.query_blocks()),
        begin(unit % problem.query_blocks() * query_block),
        rows(std::min(query_block, problem.queries - begin)),
        limit(problem.limit(begin + rows - 1)) {}
  std::int64_t head, begin, rows;
  std::int64_t limit;  // keys that any of them sees
};

/// What a chunk works in: arrays of zeros in one piece of memory, which the runtime keeps for the next chunk. malloc would give pieces
/// of this size back to the system, which clears their pages anew.
template <class A, std::size_t count>
class Arrays {
 public:
  explicit Arrays(const std::array<std::int64_t, count>& sizes) : Arrays(sizes, begins(sizes)) {}
  A* operator[](std::size_t i) const { return memory_.get() + begins_[i]; }

 private:
  using Begins = std::array<std::int64_t, count>;
  static Begins begins(const std::array<std::int64_t, count>& sizes) {
    constexpr auto line = std::int64_t{64 / sizeof(A)};
    Begins begins{};
    for (std::size_t i = 1; i < count; ++i) begins[i] = begins[i - 1] + (sizes[i - 1] + line - 1) / line * line;
    return begins;
  }
  Arrays(const std::array<std::int64_t, count>& sizes, const Begins& begins)
      : begins_(begins), memory_(begins.back() + sizes.back()) {
    std::fill_n(memory_.get(), begins.back() + sizes.back(), A(0));
  }

  Begins begins_;
  Scratch<A> memory_;
};

inline std::int64_t packed_rows(const View& view) { return view.sizes[2] * padded(view.sizes[3]); }
/// All rows of a head, one after the other, `padded(width)` apart.
template <class A>
void pack_rows(const View& view, std::int64_t b, std::int64_t h, A* to) {
  const std::int64_t width = view.sizes[3];
  std::vector<A> buffer(width);
  for (std::int64_t i = 0; i < view.sizes[2]; ++i, to += padded(width)) {
    prefetch_row(view, b, h, i + rows_ahead);
    std::copy_n(load_row(view, b, h, i, buffer.data()), width, to);
  }
}

inline std::int64_t packed_columns(const View& view) {
  return (view.sizes[2] + key_block - 1) / key_block * view.sizes[3] * key_block;
}
/// The rows of a head in blocks of key_block, each transposed: [block][width][key_block].
template <class A>
void pack_columns(const View& view, std::int64_t b, std::int64_t h, A* packed) {
  const std::int64_t width = view.sizes[3];
  std::vector<A> buffer(width);
  for (std::int64_t i = 0; i < view.sizes[2]; ++i) {
    prefetch_row(view, b, h, i + rows_ahead);
    const A* row = load_row(view, b, h, i, buffer.data());
    A* to = &packed[i / key_block * width * key_block + i % key_block];
    for (std::int64_t p = 0; p < width; ++p) to[p * key_block] = row[p];
  }
}

/// Rows begin … begin+rows of a head, scaled, `padded(width)` apart.
template <class A>
void load_rows(const View& view, std::int64_t b, std::int64_t h, std::int64_t begin, std::int64_t rows, A scale, A* to) {
  const std::int64_t width = view.sizes[3];
  for (std::int64_t i = 0; i < rows; ++i, to += padded(width)) {
    prefetch_row(view, b, h, begin + i + rows_ahead);
    vector_loops<A>().unary(UnaryOp::affine, load_row(view, b, h, begin + i, to), to, width, scale, 0);
  }
}

/// What a chunk adds to the gradients of its keys and values, in an order of the elements that its maker chooses.
template <class A>
struct KeyGradients {
  std::vector<A> dk, dv;
};

/// backward.run(b, kv_head, first unit, last unit) for every chunk, and backward.store(b, kv_head, sum of what those of the head returned).
/// Spans of one head keep their own dk and dv, which are added in order: few, because each is as large as the keys.
template <class A, class Backward>
void sum_key_gradients(const AttentionProblem& problem, const Backward& backward) {
  const std::int64_t spans = problem.spans(16), pairs = problem.batch * problem.kv_heads;
  std::vector<KeyGradients<A>> parts(spans > 1 ? pairs * spans : 0);
  problem.for_each_chunk(spans, [&](std::int64_t b, std::int64_t h, std::int64_t span, std::int64_t first, std::int64_t last) {
    KeyGradients<A> sums = backward.run(b, h, first, last);
    if (spans == 1) backward.store(b, h, sums);
    else parts[(b * problem.kv_heads + h) * spans + span] = std::move(sums);
  });
  if (spans == 1) return;
  parallel_for(pairs, [&](std::int64_t pair) {
    const auto& loops = vector_loops<A>();
    KeyGradients<A>& total = parts[pair * spans];
    for (std::int64_t span = 1; span < spans; ++span) {
      const KeyGradients<A>& part = parts[pair * spans + span];
      loops.binary(BinaryOp::add, total.dk.data(), part.dk.data(), total.dk.data(), std::ssize(total.dk));
      loops.binary(BinaryOp::add, total.dv.data(), part.dv.data(), total.dv.data(), std::ssize(total.dv));
    }
    backward.store(pair / problem.kv_heads, pair % problem.kv_heads, total);
  });
}

/// The same in bf16 by dot products of pairs; false where the set has none or a view is of another type (attention_dots.cpp).
bool attention_by_dots(const AttentionProblem& problem, const View& q, const View& k, const View& v, const View& y,
                       const View& lse);
bool attention_backward_by_dots(const AttentionProblem& problem, const View& q, const View& k, const View& v, const View& y,
                                const View& lse, const View& dy, const View& dq, const View& dk, const View& dv);

}  // namespace graft::cpu
