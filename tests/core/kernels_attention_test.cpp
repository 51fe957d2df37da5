#include <cmath>

#include "graft/tests/core/kernel_operands.h"

namespace graft::kernels_attention_test {
namespace {

using namespace test;

struct Problem {
  std::int64_t batch, heads, kv_heads, queries, keys, width;
  bool causal = true, masked = false;
  Layout layout = Layout::dense;
};

// Small, since they are interpreted too: just past blocks of 32 queries and of 128 keys, and enough heads for several spans of queries.
const Problem problems[] = {
    {1, 1, 1, 1, 1, 1},
    {2, 2, 2, 5, 5, 8},
    {1, 4, 2, 33, 33, 16, true, false, Layout::gaps},
    {2, 2, 1, 40, 40, 7, false, true, Layout::transposed},
    {1, 2, 2, 34, 260, 12, true, true},
    {1, 3, 1, 110, 70, 9, true, false},  // the first block of queries sees nothing, and a part of the next
    {1, 2, 1, 1, 200, 32, true, true},   // generation
    {2, 4, 2, 3, 150, 10, true, false, Layout::gaps},
    {1, 2, 2, 40, 129, 24, false, false},
    {1, 2, 1, 37, 75, 70},  // wider than a panel
};

/// Everything in double, from the definition; scores outside a query's view do not exist.
struct Reference {
  std::vector<double> y, lse, dq, dk, dv;
};

Tensor mask_of(const Problem& p) {
  // The first key of every batch entry is padding, and so is everything in the last entry.
  const Tensor mask = Tensor::full({p.batch, p.keys}, 1, DType::boolean);
  for (std::int64_t b = 0; b < p.batch; ++b)
    for (std::int64_t j = 0; j < p.keys; ++j)
      if (j == 0 || j % 7 == 3 || (p.batch > 1 && b + 1 == p.batch)) mask.data<bool>()[b * p.keys + j] = false;
  return mask;
}

Reference reference(const Problem& p, double scale, const Tensor& mask, const std::vector<double>& q,
                    const std::vector<double>& k, const std::vector<double>& v, const std::vector<double>& dy) {
  const std::int64_t d = p.width, rows = p.batch * p.heads * p.queries;
  Reference r{std::vector<double>(rows * d), std::vector<double>(rows), std::vector<double>(rows * d),
              std::vector<double>(k.size()), std::vector<double>(v.size())};
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t i = row % p.queries, h = row / p.queries % p.heads, b = row / p.queries / p.heads;
    const std::int64_t kv = (b * p.kv_heads + h / (p.heads / p.kv_heads)) * p.keys;
    std::vector<double> weights(p.keys), dweights(p.keys);
    std::vector<bool> seen(p.keys);
    double sum = 0, mean = 0;
    for (std::int64_t j = 0; j < p.keys; ++j) {
      seen[j] = (!p.causal || j <= i + p.keys - p.queries) && (!p.masked || mask.data<bool>()[b * p.keys + j]);
      if (!seen[j]) continue;
      double score = 0;
      for (std::int64_t c = 0; c < d; ++c) score += q[row * d + c] * k[(kv + j) * d + c];
      sum += weights[j] = std::exp(score * scale);
    }
    r.lse[row] = std::log(sum);
    for (std::int64_t j = 0; j < p.keys; ++j) {
      if (!seen[j]) continue;
      weights[j] /= sum;
      for (std::int64_t c = 0; c < d; ++c) {
        r.y[row * d + c] += weights[j] * v[(kv + j) * d + c];
        dweights[j] += dy[row * d + c] * v[(kv + j) * d + c];
        r.dv[(kv + j) * d + c] += weights[j] * dy[row * d + c];
      }
      mean += weights[j] * dweights[j];
    }
    for (std::int64_t j = 0; j < p.keys; ++j) {
      const double dscore = weights[j] * (dweights[j] - mean) * scale;
      for (std::int64_t c = 0; c < d; ++c) {
        r.dq[row * d + c] += dscore * k[(kv + j) * d + c];
        r.dk[(kv + j) * d + c] += dscore * q[row * d + c];
      }
    }
  }
  return r;
}

struct Operands {
  Operands(const Problem& p, DType dtype)
      : q(numbers(dtype, {p.batch, p.heads, p.queries, p.width}, 1, p.layout, 2)),
        k(numbers(dtype, {p.batch, p.kv_heads, p.keys, p.width}, 2, p.layout, 2)),
        v(numbers(dtype, {p.batch, p.kv_heads, p.keys, p.width}, 3, p.layout)),
        dy(numbers(dtype, {p.batch, p.heads, p.queries, p.width}, 4)),
        y(operand(dtype, {p.batch, p.heads, p.queries, p.width}, p.layout)),
        lse(operand(dtype == DType::f64 ? DType::f64 : DType::f32, {p.batch, p.heads, p.queries})),
        dq(operand(dtype, {p.batch, p.heads, p.queries, p.width}, p.layout)),
        dk(operand(dtype, {p.batch, p.kv_heads, p.keys, p.width}, p.layout)),
        dv(operand(dtype, {p.batch, p.kv_heads, p.keys, p.width}, p.layout)),
        mask(mask_of(p)),
        mask_view(mask.view()) {
    shape.scale = p.width > 32 ? 0.1 : 0.4;
    shape.causal = p.causal;
    shape.key_mask = p.masked ? &mask_view : nullptr;
  }
  void run() const {
    tested_kernels().attention(q.view(), k.view(), v.view(), shape, y.view(), lse.view());
    tested_kernels().attention_backward(q.view(), k.view(), v.view(), shape, y.view(), lse.view(), dy.view(), dq.view(),
                                        dk.view(), dv.view());
  }
  std::vector<double> all() const {
    std::vector<double> values;
    for (const Guarded* each : {&y, &lse, &dq, &dk, &dv}) {
      const auto part = each->values();
      values.insert(values.end(), part.begin(), part.end());
    }
    return values;
  }
  Guarded q, k, v, dy, y, lse, dq, dk, dv;
  Tensor mask;
  View mask_view;
  AttentionShape shape;
};

TEST(KernelsAttention, MatchesItsDefinition) {
  for (Isa isa : isas()) {
    const Pinned pinned(isa);
    for (const Problem& p : problems)
      for (DType dtype : floating) {
        SCOPED_TRACE(fmt::format("problem {} {} {}", &p - problems, dtype, name(isa)));
        const Operands o(p, dtype);
        o.run();
        const Reference wanted = reference(p, o.shape.scale, o.mask, o.q.values(), o.k.values(), o.v.values(), o.dy.values());
        // Sums over keys and queries of products below about 4; y is stored rounded before backward reads it.
        const double depth = std::sqrt(static_cast<double>(p.keys + p.queries));
        expect_near(o.y, wanted.y, is_half(dtype) ? 1.5 : 16);
        expect_near(o.lse, wanted.lse, 16);
        expect_near(o.dq, wanted.dq, is_half(dtype) ? 4 : 16 + depth);
        expect_near(o.dk, wanted.dk, (is_half(dtype) ? 4 : 16) + depth);
        expect_near(o.dv, wanted.dv, (is_half(dtype) ? 2 : 16) + depth);
      }
  }
}

TEST(KernelsAttention, AQueryThatSeesNothingGivesZeros) {
  const Operands o({1, 1, 1, 40, 10, 8}, DType::f32);
  o.run();
  const auto y = o.y.values(), lse = o.lse.values(), dq = o.dq.values();
  for (std::int64_t i = 0; i < 40; ++i) {
    EXPECT_EQ(std::isinf(lse[i]), i < 30) << i;
    EXPECT_EQ(y[i * 8] == 0 && dq[i * 8] == 0, i < 30) << i;
  }
}

TEST(KernelsAttention, LargeScoresDoNotOverflow) {
  const Operands o({1, 1, 1, 64, 64, 8}, DType::f32);
  tested_kernels().unary(UnaryOp::affine, o.q.view(), o.q.view(), 1e4, 0);
  o.run();
  for (double value : o.all()) ASSERT_TRUE(std::isfinite(value));
}

TEST(KernelsAttention, EmptyExtents) {
  const Operands no_queries({1, 2, 2, 0, 5, 4}, DType::f32), no_keys({1, 2, 2, 5, 0, 4}, DType::f32);
  no_queries.run();
  EXPECT_EQ(no_queries.dk.values(), std::vector<double>(40, 0.0));
  no_keys.run();
  EXPECT_EQ(no_keys.y.values(), std::vector<double>(40, 0.0));
  EXPECT_EQ(no_keys.dq.values(), std::vector<double>(40, 0.0));
}

TEST(KernelsAttention, RefusesIntegers) {
  const Tensor x = Tensor::zeros({1, 1, 1, 1}, DType::i32);
  expect_error<TypeError>([&] { tested_kernels().attention(x.view(), x.view(), x.view(), {}, x.view(), x.view()); },
                          "attention: needs floating elements, not i32");
}

TEST(KernelsAttentionThreads, SameBitsForAnyThreads) {
  for (DType dtype : {DType::f32, DType::bf16})
    expect_same_for_any_threads([&] {
      const Operands o({2, 4, 2, 140, 170, 16, true, true}, dtype);
      o.run();
      return o.all();
    });
}

}  // namespace
}  // namespace graft::kernels_attention_test
