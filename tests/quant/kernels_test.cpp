#include "graft/quant/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "graft/core/parallel.h"
#include "graft/quant/pack.h"
#include "graft/tests/quant/joined_terms.h"
#include "graft/tests/quant/random_layer.h"
#include "graft/tests/quant/tested_rows.h"
#include "graft/tests/support/errors.h"
#include "graft/tests/support/guarded.h"
#include "graft/tests/support/tensors.h"

namespace graft::quant {
namespace {

using namespace test;

// The dense weight [out, in] in double, from the layer itself.
std::vector<double> dense(const Decoded& d) {
  std::vector<double> w(static_cast<std::size_t>(d.in * d.out));
  std::vector<std::uint8_t> codes(w.size());
  d.codes(0, d.in, 0, d.out, codes.data());
  for (std::int64_t k = 0; k < d.in; ++k)
    for (std::int64_t n = 0; n < d.out; ++n) {
      const std::int64_t at = d.groups[static_cast<std::size_t>(k)] * d.out + n;
      const double scale = d.scales.data<float>()[at], code = codes[static_cast<std::size_t>(k * d.out + n)];
      w[static_cast<std::size_t>(n * d.in + k)] = d.offsets.defined()
                                                      ? scale * code + d.offsets.data<float>()[at]
                                                      : scale * (code - static_cast<double>(d.zeros.data<float>()[at]));
    }
  return w;
}

// |error| of a sum of `depth` products of x up to one and w up to two, in f32 (f64).
double tolerance(DType dtype, std::int64_t depth) {
  if (dtype == DType::f64) return 1e-13 * static_cast<double>(depth);
  return 0x1p-24 * (16 + 2 * static_cast<double>(depth));
}

// |error| of a number's one rounding to the dtype.
double rounding(DType dtype, double number) {
  const double relative = dtype == DType::f16 ? 0x1p-11 : dtype == DType::bf16 ? 0x1p-8 : 0;
  const double least = dtype == DType::f16 ? 0x1p-25 : 0;  // half of a step between subnormal numbers
  return std::max(relative * std::abs(number), least);
}

// By how much int8_activations may change each element of x [m, in]: half of 1/127 of the largest in its stretch.
std::vector<double> int8_steps(const Packed& packed, const std::vector<double>& x) {
  std::vector<double> steps(x.size());
  for (std::size_t row = 0; row < x.size(); row += static_cast<std::size_t>(packed.in))
    for (const Packed::Segment& s : packed.segments) {
      std::vector<std::size_t> channels;
      for (std::int32_t r = s.begin; r < s.end; ++r) {
        const std::int64_t k = packed.order.empty() ? r : packed.order[static_cast<std::size_t>(r)];
        if (k >= 0 && k < packed.in) channels.push_back(row + static_cast<std::size_t>(k));
      }
      double largest = 0;
      for (std::size_t at : channels) largest = std::max(largest, std::abs(x[at]));
      for (std::size_t at : channels) steps[at] = largest / 254 * (1 + 0x1p-16);
    }
  return steps;
}

struct Buffers {
  Guarded x, y;
  Buffers(DType dtype, DType y_dtype, std::int64_t m, std::int64_t in, std::int64_t out, bool columns_first)
      : x(dtype, {m, in}, columns_first ? std::vector<std::int64_t>{1, m + 1} : std::vector<std::int64_t>{in + 2, 1}),
        y(y_dtype, {m, out}, columns_first ? std::vector<std::int64_t>{2, 2 * m + 3} : std::vector<std::int64_t>{out + 5, 1}) {
    x.randomize(11);
  }
};

// A term u v of rank r, and what it adds to each element.
struct Term {
  Guarded u, v;
  std::vector<double> a, b;  // their values
  Term(DType dtype, std::int64_t m, std::int64_t r, std::int64_t n, bool columns_first)
      : u(dtype, {m, r}, columns_first ? std::vector<std::int64_t>{1, m + 2} : std::vector<std::int64_t>{r + 1, 1}),
        v(dtype, {r, n}, columns_first ? std::vector<std::int64_t>{1, r + 3} : std::vector<std::int64_t>{n + 4, 1}) {
    u.randomize(13);
    v.randomize(14);
    a = u.values();
    b = v.values();
  }
  // Row i of u v, added to `sums`.
  void add_row(std::int64_t i, std::vector<double>& sums) const {
    const std::int64_t r = u.view().sizes[1];
    for (std::int64_t k = 0; k < r; ++k)
      for (std::size_t j = 0; j < sums.size(); ++j)
        sums[j] += a[static_cast<std::size_t>(i * r + k)] * b[static_cast<std::size_t>(k) * sums.size() + j];
  }
};

struct How {
  bool columns_first = false;
  std::vector<std::int64_t> ranks = {};  // of low-rank terms
  Compute compute = Compute::exact;
  std::optional<DType> y = {};  // x's, if none
  DType bias = DType::f32;
};

// Every row that this machine and the tested device have and that supports the problem, against sums in double.
void expect_rows(const Case& c, DType dtype, std::int64_t m, const How& how = {}) {
  const Decoded d = layer(c);
  const auto packed = pack(d);
  const std::vector<double> w = dense(d);
  const bool round = std::ranges::any_of(
      tested_rows(), [&](const Row& row) { return includes(best_isa(), row.isa) && weight_rounding(row, dtype) > 0; });
  for (bool transposed : {false, true}) {
    const bool int8 = !transposed && how.compute == Compute::int8_activations;
    const std::int64_t in = transposed ? c.out : c.in, out = transposed ? c.in : c.out;
    const DType y_dtype = how.y.value_or(dtype);
    Buffers b(dtype, y_dtype, m, in, out, how.columns_first);
    Guarded bias(how.bias, {out}, {1});
    bias.randomize(12);
    std::vector<std::unique_ptr<Term>> terms;
    std::vector<LowRank> views;
    std::int64_t depth = in;
    for (std::int64_t r : how.ranks) {
      terms.push_back(std::make_unique<Term>(dtype, m, r, out, how.columns_first));
      views.push_back({terms.back()->u.view(), terms.back()->v.view()});
      depth += r;
    }
    // What every row is held to takes longer than the rows: the sums, those of the absolute products, and by how much int8 activations
    // may change them.
    const auto x = b.x.values(), shift = bias.values(), steps = int8 ? int8_steps(*packed, x) : std::vector<double>(x.size());
    std::vector<double> sums, absolute, changes;
    for (std::int64_t i = 0; i < m; ++i) {
      std::vector<double> added = transposed ? std::vector<double>(static_cast<std::size_t>(out)) : shift;
      for (const auto& term : terms) term->add_row(i, added);
      for (std::int64_t j = 0; j < out; ++j) {
        double sum = added[static_cast<std::size_t>(j)], of_absolute = 0, change = 0;
        for (std::int64_t k = 0; k < in; ++k) {
          const double weight = w[static_cast<std::size_t>(transposed ? k * c.in + j : j * c.in + k)];
          const auto at = static_cast<std::size_t>(i * in + k);
          sum += x[at] * weight;
          if (round) of_absolute += std::abs(x[at] * weight);
          if (int8) change += steps[at] * std::abs(weight);
        }
        sums.push_back(sum), absolute.push_back(of_absolute), changes.push_back(change);
      }
    }
    for (const Row& row : tested_rows()) {
      if (!includes(best_isa(), row.isa)) continue;
      const Problem problem{*packed, transposed, b.x.view(), transposed ? nullptr : &bias.view(), b.y.view(), views, how.compute};
      if (!row.supports(problem)) continue;
      b.y.randomize(15);  // so that nothing is left of what the last row wrote
      row.run(problem);
      const auto y = b.y.values();
      double worst = 0;  // error in units of what is allowed
      for (std::size_t i = 0; i < y.size(); ++i) {
        const double allowed = tolerance(dtype, depth) + weight_rounding(row, dtype) * absolute[i] + changes[i];
        const double ratio = std::abs(y[i] - sums[i]) / (allowed + rounding(y_dtype, std::abs(sums[i]) + allowed));
        worst = std::isnan(ratio) ? INFINITY : std::max(worst, ratio);
      }
      EXPECT_LE(worst, 1) << row.name << (transposed ? " backward " : " forward ") << name(dtype) << " m " << m << " "
                          << to_string(c);
      EXPECT_TRUE(b.y.intact() && b.x.intact() && bias.intact()) << row.name << " wrote outside, m " << m << " " << to_string(c);
    }
  }
}

TEST(QuantKernels, EveryWidthAndGroupSize) {
  for (int bits : {2, 3, 4, 5, 8})
    for (std::int64_t group : {16, 24, 32, 64, 100, 128, 300, 1000})
      for (std::int64_t m : {1, 7}) expect_rows({300, 70, bits, group}, DType::f32, m);
}

// One, primes, a tile of 128 × 64 less and more one, and the smallest sizes that formats allow: 8, 16, 32 and 64.
constexpr std::pair<int, int> ragged[] = {{1, 1},   {2, 3},  {7, 64},   {8, 4},    {15, 63},   {16, 65},   {17, 16},
                                          {32, 32}, {64, 8}, {127, 31}, {128, 33}, {129, 127}, {257, 129}, {131, 191}};

TEST(QuantKernels, RaggedShapes) {
  for (int bits = 2; bits <= 8; ++bits)
    for (auto [in, out] : ragged)
      for (std::int64_t m : {1, 2, 5}) {
        expect_rows({in, out, bits, 32}, DType::f32, m);
        if (bits == 4) expect_rows({in, out, bits, 32, Grouping::in_order, true}, DType::f32, m);
        if (bits == 8) expect_rows({in, out, bits, in}, DType::f32, m);  // EETQ's one group
      }
}

TEST(QuantKernels, RaggedShapesOfTheOtherDtypes) {
  for (DType dtype : {DType::f64, DType::f16, DType::bf16})
    for (int bits : {2, 3, 4, 8})
      for (auto [in, out] : ragged)
        for (std::int64_t m : {1, 5}) {
          expect_rows({in, out, bits, 32, Grouping::in_order, bits == 2}, dtype, m);
          if (bits == 4) expect_rows({in, out, bits, 32, Grouping::in_order, true}, dtype, m);
          if (bits == 8) expect_rows({in, out, bits, in}, dtype, m);
        }
}

TEST(QuantKernels, BiasesOfEveryDtype) {
  for (DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16})
    for (DType bias : {DType::f64, DType::f32, DType::f16, DType::bf16})
      for (std::int64_t m : {1, 20}) expect_rows({150, 70, 4, 64}, dtype, m, {.bias = bias});
}

TEST(QuantKernels, InputsAndResultsOfDifferentDtypes) {
  for (DType x : {DType::f32, DType::f16, DType::bf16})
    for (DType y : {DType::f32, DType::f16, DType::bf16})
      for (std::int64_t m : {1, 5, 20})
        if (x != y) expect_rows({150, 70, 4, 64}, x, m, {.y = y});
}

TEST(QuantKernels, EveryNumberOfRows) {
  for (int bits : {3, 4})
    for (DType dtype : {DType::f32, DType::bf16})
      for (std::int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 17, 31, 64, 97})
        expect_rows({160, 70, bits, 64}, dtype, m);
}

TEST(QuantKernels, ActOrderAndIrregularGroups) {
  for (int bits : {2, 3, 4, 8})
    for (Grouping grouping : {Grouping::shuffled, Grouping::irregular})
      for (std::int64_t m : {1, 3, 20}) {
        expect_rows({200, 40, bits, 32, grouping}, DType::f32, m);
        expect_rows({330, 65, bits, 128, grouping}, DType::f32, m);
      }
}

TEST(QuantKernels, FormatsThatStoreScaleTimesZero) {
  for (int bits : {2, 3, 4, 8})
    for (std::int64_t m : {1, 4, 20}) expect_rows({200, 70, bits, 64, Grouping::in_order, true}, DType::f32, m);
}

TEST(QuantKernels, EveryDtypeAndStrides) {
  for (DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16})
    for (bool columns_first : {false, true})
      for (std::int64_t m : {1, 3, 19}) {
        expect_rows({150, 70, 4, 64}, dtype, m, {.columns_first = columns_first});
        expect_rows({150, 70, 8, 150, Grouping::shuffled}, dtype, m, {.columns_first = columns_first});
      }
}

TEST(QuantKernels, LowRankTermsInTheSameSums) {
  for (DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16})
    for (Grouping grouping : {Grouping::in_order, Grouping::shuffled})
      for (std::int64_t m : {1, 4, 7, 20})
        for (const std::vector<std::int64_t>& ranks : {std::vector<std::int64_t>{1}, {16}, {3, 8, 2}})
          expect_rows({150, 70, 4, 64, grouping}, dtype, m, {.columns_first = grouping == Grouping::shuffled, .ranks = ranks});
  for (int bits : {2, 3, 8}) expect_rows({331, 129, bits, 32}, DType::f32, 97, {.ranks = {4}});
  expect_rows({130, 40, 4, 128}, DType::f32, 13, {.ranks = {330}});  // deeper than a block
}

TEST(QuantKernels, LowRankTermsInTheirOrdersOfRounding) {
  std::vector<Row> here;
  std::ranges::copy_if(tested_rows(), std::back_inserter(here), [](const Row& row) { return includes(best_isa(), row.isa); });
  for (const Case& c :
       {Case{150, 70, 4, 64, Grouping::in_order}, Case{150, 70, 8, 150, Grouping::shuffled}, Case{331, 129, 3, 32}}) {
    SCOPED_TRACE(to_string(c));
    const auto packed = pack(layer(c));
    for (const DType dtype : {DType::bf16, DType::f16})
      for (const std::int64_t m : {1, 3, 7, 20, 97})
        for (const bool transposed : {false, true})
          EXPECT_GE(expect_joined(*packed, transposed, m, dtype, here, rounded_terms(m)), 1);
    for (const std::int64_t m : {2, 7, 20, 97})
      for (const bool transposed : {false, true})
        EXPECT_GE(expect_joined(*packed, transposed, m, DType::f32, here, {{3, Join::summed, 0, m}, {5, Join::summed, m / 2, m}}),
                  1);
  }
}

TEST(QuantKernels, LowRankTermsAreAllSummedOrNone) {
  const auto packed = move_to(pack(layer({64, 32, 4, 32})), tested_device());
  const Tensor x = ones({2, 64}, DType::bf16), y = zeros({2, 32}, DType::bf16), u = ones({2, 1}), v = ones({1, 32});
  const LowRank terms[] = {{u.view(), v.view()}, {u.view(), v.view(), Join::added}};
  graft::test::expect_error<ValueError>([&] { forward(*packed, x.view(), nullptr, y.view(), terms); },
                                        "some terms are summed with the product, others are not");
}

// u = u_scale · x Aᵀ for the rows that a term is for, exactly, since operands are whole numbers; and y as when u was given.
TEST(QuantKernels, LowRankTermsWhoseNarrowFactorIsMade) {
  const auto packed = move_to(pack(layer({150, 70, 4, 32, Grouping::shuffled})), tested_device());
  for (const auto& [dtype, factor] : {std::pair{DType::f32, DType::f32},
                                      {DType::bf16, DType::f32},
                                      {DType::f16, DType::f32},
                                      {DType::bf16, DType::bf16},
                                      {DType::f64, DType::f64}})
    for (const std::int64_t m : {1, 3, 16, 17, 60})
      for (const bool transposed : {false, true}) {
        const std::int64_t in = transposed ? 70 : 150, out = transposed ? 150 : 70, first = m / 3, rows = m - first;
        const Tensor x = placed(whole_numbers({m, in}, dtype, 1)), A = placed(whole_numbers({5, in}, factor, 2));
        const DType wide = dtype == DType::f64 ? DType::f64 : DType::f32;
        const Tensor v = placed(whole_numbers({5, out}, wide, 3)), u = full({m, 5}, 99, wide);
        const Tensor wanted = matmul(to(slice(x, 0, first, m), wide), to(A, wide).t()) * 0.75;
        View part = u.view();
        part.data = static_cast<char*>(part.data) + first * 5 * size_of(wide), part.sizes[0] = rows;
        const Join join = is_half(dtype) ? Join::added : Join::summed;
        LowRank term{.u = part, .v = v.view(), .join = join, .first_row = first, .A = A.view(), .u_scale = 0.75};
        const auto product = [&, dtype = dtype] {
          const Tensor y = zeros({m, out}, dtype);
          if (transposed) backward(*packed, x.view(), y.view(), {&term, 1});
          else forward(*packed, x.view(), nullptr, y.view(), {&term, 1});
          return y.to_vector<double>();
        };
        const auto y = product();
        const auto what = fmt::format("{} by {}, m {}{}", dtype, factor, m, transposed ? ", transposed" : "");
        EXPECT_EQ(slice(u, 0, first, m).to_vector<double>(), wanted.to_vector<double>()) << what;
        EXPECT_EQ(slice(u, 0, 0, first).to_vector<double>(), full({first, 5}, 99, wide).to_vector<double>()) << what;
        term.u = wanted.view(), term.A = {};
        EXPECT_EQ(y, product()) << what;
      }
}

TEST(QuantKernels, Int8Activations) {
  const auto expect = [](const Case& c, DType dtype, std::int64_t m, bool columns_first = false,
                         const std::vector<std::int64_t>& ranks = {}) {
    expect_rows(c, dtype, m, {.columns_first = columns_first, .ranks = ranks, .compute = Compute::int8_activations});
  };
  for (int bits = 2; bits <= 8; ++bits)
    for (auto [in, out] : ragged)
      for (std::int64_t m : {1, 5}) expect({in, out, bits, 32}, DType::f32, m);
  for (int bits : {2, 3, 4, 8}) {
    for (std::int64_t m : {1, 2, 3, 4, 5, 6, 7, 13, 31}) expect({160, 70, bits, 64}, DType::f32, m);
    for (Grouping grouping : {Grouping::shuffled, Grouping::irregular}) expect({200, 40, bits, 32, grouping}, DType::f32, 3);
    for (DType dtype : {DType::f32, DType::f16, DType::bf16})
      for (std::int64_t m : {3, 20}) expect({300, 70, bits, 300, Grouping::in_order, true}, dtype, m, true, {3, 8});
  }
}

TEST(QuantKernels, Int8ActivationsAtTheirLimits) {
  // All codes 255 and activations of ±127 steps: what bytes saturate at, if anything does. Zeros and numbers without a factor besides.
  Decoded d = layer({256, 64, 8, 128});
  d.codes = [](std::int64_t k0, std::int64_t k1, std::int64_t n0, std::int64_t n1, std::uint8_t* codes) {
    std::fill_n(codes, (k1 - k0) * (n1 - n0), std::uint8_t{255});
  };
  for (std::int64_t i = 0; i < 2 * 64; ++i) d.scales.data<float>()[i] = 1, d.zeros.data<float>()[i] = 0;
  const auto packed = pack(d);
  for (const Row& row : rows()) {
    if (!includes(best_isa(), row.isa)) continue;
    std::vector<float> x(4 * 256), y(4 * 64);
    for (int k = 0; k < 256; ++k) x[k] = 1, x[256 + k] = -1, x[512 + k] = 0, x[768 + k] = k == 200 ? INFINITY : 1e-42f;
    View in{x.data(), DType::f32, 2, {4, 256}, {256, 1}}, out{y.data(), DType::f32, 2, {4, 64}, {64, 1}};
    const Problem problem{*packed, false, in, nullptr, out, {}, Compute::int8_activations};
    if (!row.supports(problem)) continue;
    row.run(problem);
    EXPECT_FLOAT_EQ(y[0], 255 * 256) << row.name;
    EXPECT_FLOAT_EQ(y[64 + 63], -255 * 256) << row.name;
    EXPECT_EQ(y[128], 0) << row.name;
    EXPECT_TRUE(std::isnan(y[192])) << row.name;
  }
}

// As with dense weights: infinite where the weight is not zero, NaN where it is, and other rows as ever.
TEST(QuantKernels, InfiniteActivationsMeetDenseWeightsInEveryRowOfTheCpu) {
  for (int bits : {2, 3, 4, 8}) {
    const Decoded d = layer({160, 70, bits, 64});
    const auto packed = pack(d);
    const std::vector<double> w = dense(d);
    for (DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (std::int64_t m : {1, 2, 4, 20}) {
        Tensor x = Tensor::full({m, 160}, 1, DType::f32);
        x.data<float>()[(m - 1) * 160 + 77] = -INFINITY;
        const Tensor from = to(x, dtype), y = Tensor::zeros({m, 70}, DType::f32);
        for (const Row& row : rows()) {
          const Problem problem{*packed, false, from.view(), nullptr, y.view()};
          if (!includes(best_isa(), row.isa) || !row.supports(problem)) continue;
          row.run(problem);
          const float* last = y.data<float>() + (m - 1) * 70;
          for (std::size_t n = 0; n < 70; ++n) {
            const double weight = w[n * 160 + 77];
            EXPECT_EQ(weight == 0, std::isnan(last[n])) << row.name << " " << bits << " bits, m " << m << ", " << name(dtype);
            if (weight != 0) {
              EXPECT_EQ(last[n], weight > 0 ? -INFINITY : INFINITY) << row.name << " " << bits << " bits, m " << m;
            }
            if (m > 1) {
              EXPECT_TRUE(std::isfinite(y.data<float>()[n])) << row.name;
            }
          }
        }
      }
  }
}

// Near the ends of f32's range, where digits have no unit or sums no room; and an element beside which the others are small in its unit.
TEST(QuantKernels, ActivationsOfEverySizeInEveryRowOfTheCpu) {
  for (int bits : {3, 4, 8}) {
    const Decoded d = layer({160, 70, bits, 64});
    const auto packed = pack(d);
    const std::vector<double> w = dense(d);
    for (DType dtype : {DType::f32, DType::bf16})
      for (std::int64_t m : {1, 2})
        for (float size : {0x1p118f, 0x1p112f, 0x1p90f, 0x1p-80f, 0x1p-89f, 0x1p-91f, 0x1p-100f, 0.0f})
          for (float largest : {1.0f, 0x1p6f}) {
            std::vector<float> values;
            for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(m) * 160; ++i)
              values.push_back((to_uniform(word(5, i)) * 2 - 1) * size * (i % 160 == 77 ? largest : 1));
            const Tensor from = Tensor::from(values, {m, 160}).to(dtype), to = Tensor::zeros({m, 70}, DType::f32);
            const auto x = from.to_vector<double>();
            for (const Row& row : rows()) {
              const Problem problem{*packed, false, from.view(), nullptr, to.view()};
              if (!includes(best_isa(), row.isa) || !row.supports(problem)) continue;
              row.run(problem);
              const auto y = to.to_vector<double>();
              for (std::size_t i = 0; i < y.size(); ++i) {
                double sum = 0;
                for (std::size_t k = 0; k < 160; ++k) sum += x[i / 70 * 160 + k] * w[i % 70 * 160 + k];
                EXPECT_LE(std::abs(y[i] - sum), tolerance(DType::f32, 160) * largest * size)
                    << row.name << " " << bits << " bits, m " << m << ", " << name(dtype) << " " << size << " " << largest;
              }
            }
          }
  }
}

TEST(QuantKernels, ManyTiles) {
  expect_rows({600, 300, 4, 128}, DType::f32, 3);
  expect_rows({600, 300, 4, 128}, DType::f32, 130);
  expect_rows({300, 130, 4, 128}, DType::bf16, 600);  // more rows than share an unpacked tile
}

TEST(QuantKernels, DequantizeIsExact) {
  for (const Case& c : {Case{150, 70, 4, 64}, Case{150, 70, 3, 32, Grouping::shuffled},
                        Case{64, 33, 8, 64, Grouping::in_order, true}, Case{48, 5, 2, 16, Grouping::irregular}}) {
    const Decoded d = layer(c);
    const auto packed = move_to(pack(d), tested_device());
    const std::vector<double> w = dense(d);
    const std::int64_t begin = 2, end = c.out - 1;
    std::vector<float> out(static_cast<std::size_t>((end - begin) * c.in));
    dequantize(*packed, begin, end, out.data());
    for (std::size_t i = 0; i < out.size(); ++i)
      ASSERT_EQ(out[i], static_cast<float>(w[i + static_cast<std::size_t>(begin * c.in)])) << to_string(c);
  }
}

TEST(QuantKernels, SameBitsForAnyNumberOfThreads) {
  const Case c{400, 300, 4, 64, Grouping::shuffled};
  const auto packed = pack(layer(c));
  const struct {
    DType dtype;
    Compute compute;
  } kinds[] = {{DType::f32, Compute::exact}, {DType::bf16, Compute::exact}, {DType::f32, Compute::int8_activations}};
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    for (const auto& [dtype, compute] : kinds)
      for (std::int64_t m : {1, 3, 40})
        for (bool transposed : {false, true}) {
          Buffers b(dtype, dtype, m, transposed ? c.out : c.in, transposed ? c.in : c.out, false);
          std::vector<double> first;
          for (int threads : {1, 2, 3, 7}) {
            set_thread_pool(make_thread_pool(threads));
            if (transposed) backward(*packed, b.x.view(), b.y.view());
            else forward(*packed, b.x.view(), nullptr, b.y.view(), {}, compute);
            const auto y = b.y.values();
            if (first.empty()) first = y;
            EXPECT_EQ(std::memcmp(first.data(), y.data(), y.size() * sizeof(double)), 0) << threads << " threads, m " << m;
          }
          set_thread_pool(nullptr);
        }
  }
}

// Tasks are runs of columns, and a term's sums may depend on how many there are in a run.
TEST(QuantKernels, WideMatricesAreCutTheSameForAnyNumberOfThreads) {
  const Case c{8192, 1104, 4, 128};
  const auto packed = pack(layer(c));
  const Term term(DType::f32, 1, 16, c.out, false);
  const LowRank terms[] = {{term.u.view(), term.v.view()}};
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    for (DType dtype : {DType::f32, DType::bf16}) {
      Buffers b(dtype, DType::f32, 1, c.in, c.out, false);
      std::vector<double> first;
      for (int threads : {1, 2, 5}) {
        set_thread_pool(make_thread_pool(threads));
        forward(*packed, b.x.view(), nullptr, b.y.view(), terms);
        const auto y = b.y.values();
        if (first.empty()) first = y;
        EXPECT_EQ(std::memcmp(first.data(), y.data(), y.size() * sizeof(double)), 0) << threads << " threads";
      }
      set_thread_pool(nullptr);
    }
  }
}

TEST(QuantKernels, EveryPinnedSetFindsARow) {
  const auto packed = pack(layer({40, 20, 4, 16}));
  for (Isa isa : isas()) {
    Pinned pinned(isa);
    for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      Buffers b(dtype, dtype, 2, 40, 20, false);
      EXPECT_NO_THROW(forward(*packed, b.x.view(), nullptr, b.y.view()));
    }
    const Buffers f32(DType::f32, DType::f32, 2, 40, 20, false), bf16(DType::bf16, DType::bf16, 2, 40, 20, false);
    const auto takes = [&](const Row& row, const Buffers& b) {
      return row.isa == isa && row.supports({*packed, false, b.x.view(), nullptr, b.y.view()});
    };
    EXPECT_GE(std::ranges::count_if(rows(), [&](const Row& row) { return takes(row, f32) || takes(row, bf16); }), 2)
        << "of its own, on " << name(isa);
  }
}

template <class E, class F>
std::string message(F f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "no error";
}

TEST(QuantKernels, Refusals) {  // before any memory is looked at
  const auto packed = move_to(pack(layer({40, 20, 4, 16})), tested_device());
  Guarded x(DType::f32, {2, 40}, {40, 1}), y(DType::f32, {2, 20}, {20, 1}), wrong(DType::f32, {2, 41}, {41, 1});
  Guarded doubles(DType::f64, {2, 20}, {20, 1}), bias(DType::f32, {19}, {1});
  EXPECT_EQ(message<ValueError>([&] { forward(*packed, wrong.view(), nullptr, y.view()); }),
            "quantized product: a weight of 40 × 20 cannot take [2, 41] to [2, 20]");
  EXPECT_EQ(message<ValueError>([&] { backward(*packed, x.view(), y.view()); }),
            "quantized product's gradient: a weight of 40 × 20 cannot take [2, 40] to [2, 20]");
  EXPECT_EQ(message<TypeError>([&] { forward(*packed, x.view(), nullptr, doubles.view()); }), "quantized product: f32 meets f64");
  EXPECT_EQ(message<ValueError>([&] { forward(*packed, x.view(), &bias.view(), y.view()); }),
            "quantized product: the bias must have 20 elements");
  Guarded u(DType::f32, {2, 3}, {3, 1}), v(DType::f32, {4, 20}, {20, 1}), wide(DType::f64, {3, 20}, {20, 1});
  const LowRank lame{u.view(), v.view()}, mixed{u.view(), wide.view()};
  EXPECT_EQ(message<ValueError>([&] {
              forward(*packed, x.view(), nullptr, y.view(), {&lame, 1});
            }),
            "quantized product: a term of [2, 3] by [4, 20], from row 0 on, is not one of [2, 20]");
  EXPECT_EQ(message<TypeError>([&] {
              forward(*packed, x.view(), nullptr, y.view(), {&mixed, 1});
            }),
            "quantized product: f32 meets f64");
  Guarded rows(DType::f32, {3, 20}, {20, 1});
  const LowRank narrow{.u = u.view(), .v = rows.view(), .A = y.view()};
  EXPECT_EQ(message<ValueError>([&] {
              forward(*packed, x.view(), nullptr, y.view(), {&narrow, 1});
            }),
            "quantized product: a factor of [2, 20] for groups of 1 does not make [2, 3] from [2, 40]");
  Guarded A(DType::f64, {3, 40}, {40, 1});
  const LowRank other{.u = u.view(), .v = rows.view(), .A = A.view()};
  EXPECT_EQ(message<TypeError>([&] {
              forward(*packed, x.view(), nullptr, y.view(), {&other, 1});
            }),
            "quantized product: f32 meets f64");
  EXPECT_EQ(
      message<TypeError>([&] {
        forward(*packed, Guarded(DType::f64, {2, 40}, {40, 1}).view(), nullptr, doubles.view(), {}, Compute::int8_activations);
      }),
      "quantized product: int8 activations are made of f32, f16 or bf16, not of f64");
  View integers = x.view();
  integers.dtype = DType::i32;
  EXPECT_EQ(message<TypeError>([&] { forward(*packed, integers, nullptr, y.view()); }),
            "quantized product: does not take elements of type i32");
  float out[1];
  EXPECT_EQ(message<ValueError>([&] { dequantize(*packed, 5, 21, out); }), "dequantize: rows 5 to 21 of 20");
}

}  // namespace
}  // namespace graft::quant
