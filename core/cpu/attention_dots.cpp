// Attention in bf16 where the set multiplies pairs. As attention.cpp and attention_backward.cpp have it, but q, k, v and dy are multiplied
// as they are, and weights and their gradients rounded to bf16 before they meet them, as PyTorch's kernels do. Sums are f32.
//
// A product sums along pairs, so that a matrix is packed once for every dimension that is summed over: keys and values along their width
// and, for those that weights meet, along the keys. Of dVᵀ = dYᵀ P and dKᵀ = Qᵀ dS pairs of queries are summed, which the loops that make
// P and dS write side by side; these two are kept transposed until the end.
#include "graft/core/cpu/attention_dots.h"

#include <cmath>

#include "graft/core/cpu/attention.h"
#include "graft/core/isa.h"

namespace graft::cpu {
namespace {

std::int64_t pairs(std::int64_t n) { return (n + 1) / 2; }
std::int64_t whole(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

const bf16* row_at(const View& view, std::int64_t b, std::int64_t h, std::int64_t i) {
  return view.as<bf16>() + b * view.strides[0] + h * view.strides[1] + i * view.strides[2];
}

class HalfScratch {
 public:
  explicit HalfScratch(std::int64_t count) : memory_(pairs(count)) {}
  bf16* get() const { return reinterpret_cast<bf16*>(memory_.get()); }

 private:
  Scratch<Pair> memory_;
};

class Dots {
 public:
  Dots(const AttentionProblem& problem, const AttentionDots& dots, const GemmKernels<Pair>& kernels)
      : problem_(problem), dots_(dots), kernels_(kernels), scale_(static_cast<float>(problem.shape.scale)) {}

 protected:
  const Pair* as_pairs(const bf16* x) const { return reinterpret_cast<const Pair*>(x); }

  // A head in panels of keys, pairs along the width: [keys / lanes][pairs of width][lanes].
  std::int64_t by_keys_size(const View& view) const { return whole(view.sizes[2], lanes_) * pairs(view.sizes[3]); }
  void pack_by_keys(const View& view, std::int64_t b, std::int64_t h, Pair* to) const {
    for (std::int64_t j = 0; j < view.sizes[2]; j += lanes_)
      kernels_.pack(row_at(view, b, h, j), DType::bf16, view.sizes[3], view.strides[3], view.strides[2], valid(view.sizes[2] - j),
                    kernels_.columns, to + j * pairs(view.sizes[3]));
  }
  // And in panels of the width, pairs along the keys: [width / lanes][pairs of keys][lanes].
  std::int64_t by_width_size(const View& view) const { return whole(view.sizes[3], lanes_) * pairs(view.sizes[2]); }
  void pack_by_width(const View& view, std::int64_t b, std::int64_t h, Pair* to) const {
    for (std::int64_t w = 0; w < view.sizes[3]; w += lanes_)
      kernels_.pack(row_at(view, b, h, 0) + w * view.strides[3], DType::bf16, view.sizes[2], view.strides[2], view.strides[3],
                    valid(view.sizes[3] - w), kernels_.columns, to + w * pairs(view.sizes[2]));
  }
  // A block of queries, their rows 2 · pairs(width) apart.
  void load_queries(const View& view, std::int64_t b, const QueryBlock& block, bf16* to) const {
    const std::int64_t width = view.sizes[3];
    for (std::int64_t i = 0; i < block.rows; ++i, to += 2 * pairs(width)) {
      prefetch_row(view, b, block.head, block.begin + i + rows_ahead);
      std::copy_n(load_row<bf16>(view, b, block.head, block.begin + i, to), width, to);
      if (width % 2) to[width] = bf16();
    }
  }

  // c [rows][columns] = or += x [rows][depth] · panels, which are `step` apart; depth counts pairs.
  void multiply(const bf16* x, std::int64_t depth, std::int64_t ldx, const Pair* panels, std::int64_t step, float* c, std::int64_t ldc,
                std::int64_t rows, std::int64_t columns, bool accumulate) const {
    for (; columns > 0; columns -= lanes_, c += lanes_, panels += step)
      kernels_.row_tiles(as_pairs(x), ldx, depth, 0, nullptr, kernels_.rows, panels, c, ldc, rows, valid(columns), accumulate);
  }
  // scores [query_block][key_block] of a block of queries and the keys from j on.
  void score(const bf16* queries, std::int64_t width, const Pair* by_keys, std::int64_t j, float* scores, std::int64_t rows,
             std::int64_t columns) const {
    multiply(queries, pairs(width), pairs(width), by_keys + j * pairs(width), lanes_ * pairs(width), scores, key_block, rows, columns,
             false);
  }

  int valid(std::int64_t n) const { return static_cast<int>(std::min(n, lanes_)); }

  const AttentionProblem& problem_;
  const AttentionDots& dots_;
  const GemmKernels<Pair>& kernels_;
  const std::int64_t lanes_ = kernels_.columns;
  const float scale_;
};

// ---- forward ----

class Forward : Dots {
 public:
  using Dots::Dots;

  void run(const View& q, const View& k, const View& v, const View& y, const View& lse, std::int64_t b, std::int64_t kv_head,
           std::int64_t first, std::int64_t last) const {
    const std::int64_t width = problem_.width, value_width = problem_.value_width, ldr = whole(value_width, 16);
    const std::vector<float> bias = problem_.key_bias<float>(b);
    const Scratch<Pair> keys(by_keys_size(k)), values(by_width_size(v));
    const Scratch<float> scores(query_block * key_block), result(query_block * ldr);
    const HalfScratch queries(query_block * 2 * pairs(width)), weights(query_block * key_block), row(value_width);
    pack_by_keys(k, b, kv_head, keys.get());
    pack_by_width(v, b, kv_head, values.get());
    for (std::int64_t unit = first; unit < last; ++unit) {
      const QueryBlock block(problem_, kv_head, unit);
      load_queries(q, b, block, queries.get());
      float largest[query_block], sum[query_block] = {};
      std::fill_n(largest, query_block, -std::numeric_limits<float>::infinity());
      std::fill_n(result.get(), query_block * ldr, 0.0f);
      for (std::int64_t j = 0; j < block.limit; j += key_block) {
        const std::int64_t seen = std::min(key_block, block.limit - j);
        score(queries.get(), width, keys.get(), j, scores.get(), block.rows, seen);
        for (std::int64_t i = 0; i < block.rows; ++i) {
          const std::int64_t n = std::clamp<std::int64_t>(problem_.limit(block.begin + i) - j, 0, seen);
          const float shrink = dots_.fold(&scores.get()[i * key_block], bias.empty() ? nullptr : &bias[j], scale_, n, whole(seen, 32),
                                          largest[i], sum[i], &weights.get()[i * key_block]);
          float* values_of = &result.get()[i * ldr];
          if (shrink != 1 && j > 0) vector_loops<float>().unary(UnaryOp::affine, values_of, values_of, value_width, shrink, 0);
        }
        multiply(weights.get(), pairs(seen), key_block / 2, values.get() + j / 2 * lanes_, pairs(problem_.keys) * lanes_, result.get(),
                 ldr, block.rows, value_width, j > 0);
      }
      for (std::int64_t i = 0; i < block.rows; ++i) {
        const std::int64_t at = block.begin + i;
        const bool blind = std::isinf(largest[i]) && largest[i] < 0;  // sees no key
        bf16* to = y.strides[3] == 1 ? const_cast<bf16*>(row_at(y, b, block.head, at)) : row.get();
        dots_.narrow(&result.get()[i * ldr], blind ? 0 : 1 / sum[i], value_width, to);
        store_row(to, y, b, block.head, at);
        const float total = blind ? largest[i] : largest[i] + std::log(sum[i]);
        store(&total, lse, b * lse.strides[0] + block.head * lse.strides[1] + at * lse.strides[2], 1, 1);
      }
    }
  }
};

// ---- backward ----

class Backward : Dots {
 public:
  Backward(const Dots& dots, const View& q, const View& k, const View& v, const View& y, const View& lse, const View& dy, const View& dq,
           const View& dk, const View& dv)
      : Dots(dots), q_(q), k_(k), v_(v), y_(y), lse_(lse), dy_(dy), dq_(dq), dk_(dk), dv_(dv) {}

  /// Writes dq of the units first … last-1 and returns their share of dk and dv, transposed: [width][keys, rounded up].
  KeyGradients<float> run(std::int64_t b, std::int64_t kv_head, std::int64_t first, std::int64_t last) const {
    const std::int64_t width = problem_.width, value_width = problem_.value_width, ldr = whole(width, 16);
    const std::vector<float> bias = problem_.key_bias<float>(b);
    const Scratch<Pair> keys(by_keys_size(k_)), values(by_keys_size(v_)), key_rows(by_width_size(k_));
    const HalfScratch queries(query_block * 2 * pairs(width)), grads(query_block * 2 * pairs(value_width));
    const Scratch<Pair> query_columns(columns_size(width)), grad_columns(columns_size(value_width));
    const Scratch<float> scores(query_block * key_block), dweights(query_block * key_block), dqueries(query_block * ldr);
    const Scratch<Pair> weight_pairs(query_block / 2 * key_block), dscore_pairs(query_block / 2 * key_block);
    const HalfScratch dscores(query_block * key_block), row(std::max(width, value_width));
    pack_by_keys(k_, b, kv_head, keys.get());
    pack_by_keys(v_, b, kv_head, values.get());
    pack_by_width(k_, b, kv_head, key_rows.get());
    KeyGradients<float> sums{std::vector<float>(width * keys_apart()), std::vector<float>(value_width * keys_apart())};
    for (std::int64_t unit = first; unit < last; ++unit) {
      const QueryBlock block(problem_, kv_head, unit);
      load_queries(q_, b, block, queries.get());
      load_queries(dy_, b, block, grads.get());
      pack_columns(q_, b, block, query_columns.get());
      pack_columns(dy_, b, block, grad_columns.get());
      float shifts[query_block], deltas[query_block];
      load_row_sums(b, block, grads.get(), row.get(), shifts, deltas);
      for (std::int64_t j = 0; j < block.limit; j += key_block) {
        const std::int64_t seen = std::min(key_block, block.limit - j);
        score(queries.get(), width, keys.get(), j, scores.get(), block.rows, seen);
        score(grads.get(), value_width, values.get(), j, dweights.get(), block.rows, seen);
        for (std::int64_t i = 0; i < block.rows; i += 2)
          for (std::int64_t panel = 0; panel < seen; panel += lanes_) {
            const auto query = [&](std::int64_t i) {
              const std::int64_t at = i * key_block + panel, most = std::min(lanes_, seen - panel);
              const std::int64_t n = i < block.rows ? std::clamp<std::int64_t>(problem_.limit(block.begin + i) - j - panel, 0, most) : 0;
              return AttentionDots::Query{&scores.get()[at], &dweights.get()[at], shifts[i], deltas[i], n, &dscores.get()[at]};
            };
            const std::int64_t to = (panel * query_block + i * lanes_) / 2;
            dots_.weigh(query(i), query(i + 1), bias.empty() ? nullptr : &bias[j + panel], scale_,
                        whole(std::min(lanes_, seen - panel), 16), &weight_pairs.get()[to], &dscore_pairs.get()[to]);
          }
        add_columns(grad_columns.get(), value_width, weight_pairs.get(), block.rows, seen, &sums.dv[j]);
        add_columns(query_columns.get(), width, dscore_pairs.get(), block.rows, seen, &sums.dk[j]);
        multiply(dscores.get(), pairs(seen), key_block / 2, key_rows.get() + j / 2 * lanes_, pairs(problem_.keys) * lanes_,
                 dqueries.get(), ldr, block.rows, width, j > 0);
      }
      if (block.limit <= 0) std::fill_n(dqueries.get(), query_block * ldr, 0.0f);
      for (std::int64_t i = 0; i < block.rows; ++i) {
        bf16* to = dq_.strides[3] == 1 ? const_cast<bf16*>(row_at(dq_, b, block.head, block.begin + i)) : row.get();
        dots_.narrow(&dqueries.get()[i * ldr], scale_, width, to);
        store_row(to, dq_, b, block.head, block.begin + i);
      }
    }
    return sums;
  }

  void store(std::int64_t b, std::int64_t h, const KeyGradients<float>& sums) const {
    store_columns(sums.dk, scale_, dk_, b, h);
    store_columns(sums.dv, 1, dv_, b, h);
  }

 private:
  std::int64_t keys_apart() const { return whole(problem_.keys, 16); }

  // A block of queries, transposed in panels of as many of their columns as a tile has rows, pairs along the queries.
  std::int64_t columns_size(std::int64_t width) const { return whole(width, kernels_.rows) * query_block / 2; }
  void pack_columns(const View& view, std::int64_t b, const QueryBlock& block, Pair* to) const {
    for (std::int64_t w = 0; w < view.sizes[3]; w += kernels_.rows)
      kernels_.pack(row_at(view, b, block.head, block.begin) + w * view.strides[3], DType::bf16, block.rows, view.strides[2],
                    view.strides[3], static_cast<int>(std::min<std::int64_t>(kernels_.rows, view.sizes[3] - w)), kernels_.rows,
                    to + w * pairs(block.rows));
  }
  // sums [width][seen] += columns · what `weigh` made
  void add_columns(const Pair* columns, std::int64_t width, const Pair* weighed, std::int64_t rows, std::int64_t seen, float* sums) const {
    for (std::int64_t panel = 0; panel < seen; panel += lanes_)
      kernels_.tiles(pairs(rows), columns, kernels_.rows, weighed + panel * query_block / 2, sums + panel, keys_apart(), width,
                     valid(seen - panel), true);
  }

  void load_row_sums(std::int64_t b, const QueryBlock& block, const bf16* grads, bf16* row,
                     float* shifts, float* deltas) const {
    for (std::int64_t i = 0; i < block.rows; ++i, grads += 2 * pairs(problem_.value_width)) {
      const std::int64_t at = block.begin + i;
      prefetch_row(y_, b, block.head, at + rows_ahead);
      float lse_buffer;
      const float total = *load(lse_, b * lse_.strides[0] + block.head * lse_.strides[1] + at * lse_.strides[2], 1, 1, &lse_buffer);
      shifts[i] = std::isinf(total) && total < 0 ? 0 : total;  // as in attention_backward.cpp
      deltas[i] = dots_.dot(grads, load_row(y_, b, block.head, at, row), problem_.value_width);
    }
    if (block.rows % 2) shifts[block.rows] = deltas[block.rows] = 0;
  }

  void store_columns(const std::vector<float>& sums, float scale, const View& to, std::int64_t b, std::int64_t h) const {
    const std::int64_t width = to.sizes[3], keys = to.sizes[2];
    const bool in_place = to.strides[3] == 1;
    const HalfScratch rows(in_place ? 0 : keys * width);
    dots_.narrow_columns(sums.data(), keys_apart(), scale, width, keys,
                         in_place ? const_cast<bf16*>(row_at(to, b, h, 0)) : rows.get(), in_place ? to.strides[2] : width);
    if (!in_place)
      for (std::int64_t j = 0; j < keys; ++j) store_row(rows.get() + j * width, to, b, h, j);
  }

  const View &q_, &k_, &v_, &y_, &lse_, &dy_, &dq_, &dk_, &dv_;
};

const AttentionDots* dots() { return includes(isa(), Isa::avx512_dot) ? attention_avx512_dot() : nullptr; }

bool are_bf16(std::initializer_list<const View*> views) {
  return std::ranges::all_of(views, [](const View* view) { return view->dtype == DType::bf16; });
}

}  // namespace

bool attention_by_dots(const AttentionProblem& problem, const View& q, const View& k, const View& v, const View& y,
                       const View& lse) {
  if (!dots() || !are_bf16({&q, &k, &v, &y})) return false;
  const Forward forward(problem, *dots(), *pair_kernels(isa()));
  problem.for_each_chunk(
      problem.spans(64), [&](std::int64_t b, std::int64_t kv_head, std::int64_t, std::int64_t first, std::int64_t last) {
        forward.run(q, k, v, y, lse, b, kv_head, first, last);
      });
  return true;
}

bool attention_backward_by_dots(const AttentionProblem& problem, const View& q, const View& k, const View& v, const View& y,
                                const View& lse, const View& dy, const View& dq, const View& dk, const View& dv) {
  if (!dots() || !are_bf16({&q, &k, &v, &y, &dy, &dq, &dk, &dv})) return false;
  sum_key_gradients<float>(problem, Backward({problem, *dots(), *pair_kernels(isa())}, q, k, v, y, lse, dy, dq, dk, dv));
  return true;
}

}  // namespace graft::cpu
