// The rows of attention, losses, random numbers, what concerns the tape alone, and dense linear algebra.
#include <numbers>

#include "graft/autograd/checkpoint.h"
#include "graft/autograd/hook.h"

#include "op_rows.h"

namespace graft::test {
namespace {

Array attended(const Arrays& in, const AttentionOptions& options, const Array* mask) {
  const Array &q = in[0], &k = in[1], &v = in[2];
  const std::int64_t b = q.shape[0], heads = q.shape[1], t = q.shape[2], d = q.shape[3], s = k.shape[2],
                     group = heads / k.shape[1];
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(d));
  Array y(q.shape);
  for (std::int64_t bi = 0; bi < b; ++bi)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t i = 0; i < t; ++i) {
        std::vector<double> weights(static_cast<std::size_t>(s));
        double total = 0;
        for (std::int64_t j = 0; j < s; ++j) {
          if ((options.causal && j > i + s - t) || (mask && (*mask)(bi, j) == 0)) continue;
          double score = 0;
          for (std::int64_t c = 0; c < d; ++c) score += q(bi, h, i, c) * k(bi, h / group, j, c);
          total += weights[static_cast<std::size_t>(j)] = std::exp(score * scale);
        }
        for (std::int64_t c = 0; c < d && total > 0; ++c)
          for (std::int64_t j = 0; j < s; ++j)
            y(bi, h, i, c) += weights[static_cast<std::size_t>(j)] / total * v(bi, h / group, j, c);
      }
  return y;
}

Row attention_row(const char* variant, std::int64_t t, std::int64_t s, AttentionOptions options, bool masked) {
  return {.name = "attention",
          .variant = variant,
          .inputs =
              [=](std::int64_t n) {
                std::vector<Input> inputs{{{2, 4, t * n, 6}}, {{2, 2, s * n, 6}}, {{2, 2, s * n, 6}}};
                if (masked) inputs.push_back({{2, s * n}, 0, 1, Kind::boolean});
                return inputs;
              },
          .op =
              [=](Tensors x) {
                AttentionOptions with = options;
                if (masked) with.key_mask = x[3];
                return attention(x[0], x[1], x[2], with);
              },
          .reference = [=](const Arrays& x) { return attended(x, options, masked ? &x[3] : nullptr); },
          .slack = 2,
          .large = 40};
}

// A word of the generator's stream 3, for element i.
double drawn_uniform(std::uint64_t i) { return to_uniform(random_block(7, 3, i / 4)[i % 4]); }

}  // namespace

void add_attention_rows(std::vector<Row>& rows) {
  for (const bool shared : {true, false})
    rows.push_back({.name = "rotary",
                    .variant = shared ? "shared" : "batched",
                    .inputs =
                        [=](std::int64_t n) {
                          const std::int64_t tables = shared ? 1 : 2;
                          return std::vector<Input>{{{2, 2, 3 * n, 6}}, {{tables, 3 * n, 3}, -1, 1}, {{tables, 3 * n, 3}, -1, 1}};
                        },
                    .op = [](Tensors x) { return rotary(x[0], x[1], x[2]); },
                    .reference =
                        [](const Arrays& x) {
                          Array y(x[0].shape);
                          y.each([&](const Array::Index& at, double& out) {
                            const std::int64_t b = x[1].shape[0] == 1 ? 0 : at[0], pair = at[3] % 3;
                            const double c = x[1](b, at[2], pair), s = x[2](b, at[2], pair);
                            const double first = x[0](at[0], at[1], at[2], pair), second = x[0](at[0], at[1], at[2], pair + 3);
                            out = at[3] < 3 ? first * c - second * s : second * c + first * s;
                          });
                          return y;
                        }});
  rows.push_back(attention_row("causal", 3, 3, {}, false));
  rows.push_back(attention_row("cached", 2, 5, {.scale = 0.3}, false));
  rows.push_back(attention_row("masked", 4, 4, {}, true));
  rows.push_back(attention_row("full", 3, 4, {.causal = false}, true));
  rows.push_back(attention_row("keyless", 4, 2, {}, false));
}

void add_loss_rows(std::vector<Row>& rows) {
  rows.push_back({.name = "cross_entropy",
                  .inputs =
                      [](std::int64_t n) {
                        return std::vector<Input>{{{2, 3 * n, 5}}, {{2, 3 * n}, 0, 5, Kind::index}};
                      },
                  .op = [](Tensors x) { return cross_entropy(x[0], x[1], 2); },
                  .reference =
                      [](const Arrays& x) {
                        const Array p = by_rows(x[0], softmax_row);
                        Array total(Shape{}), labels = x[1];
                        double counted = 0;
                        labels.each([&](const Array::Index& at, double& label) {
                          if (label == 2) return;
                          total.data[0] -= std::log(p(at[0], at[1], static_cast<std::int64_t>(label)));
                          ++counted;
                        });
                        total.data[0] /= counted;
                        return total;
                      }});
  rows.push_back({.name = "mse_loss",
                  .inputs =
                      [](std::int64_t n) {
                        return std::vector<Input>{{{3 * n, 5}}, {{3 * n, 5}}};
                      },
                  .op = [](Tensors x) { return mse_loss(x[0], x[1]); },
                  .reference =
                      [](const Arrays& x) {
                        Array total(Shape{});
                        for (std::size_t i = 0; i < x[0].data.size(); ++i)
                          total.data[0] += std::pow(x[0].data[i] - x[1].data[i], 2) / static_cast<double>(x[0].data.size());
                        return total;
                      },
                  .slack = 2});
}

void add_random_rows(std::vector<Row>& rows) {
  rows.push_back({.name = "dropout",
                  .inputs =
                      [](std::int64_t n) {
                        return std::vector<Input>{{{3 * n, 5}}};
                      },
                  .op =
                      [](Tensors x) {
                        Generator generator{7, 3};
                        return dropout(x[0], 0.25, generator);
                      },
                  .reference =
                      [](const Arrays& x) {
                        Array y = x[0];
                        for (std::size_t i = 0; i < y.data.size(); ++i)
                          y.data[i] = drawn_uniform(i) < 0.75 ? y.data[i] / 0.75 : 0;
                        return y;
                      }});
  auto drawing = [](const char* name, auto op, auto reference) {
    return Row{.name = name,
               .inputs =
                   [](std::int64_t n) {
                     return std::vector<Input>{{{3 * n, 5}}};
                   },
               .op =
                   [=](Tensors x) {
                     Generator generator{7, 3};
                     return op(x[0], generator);
                   },
               .reference =
                   [=](const Arrays& x) {
                     Array y = x[0];
                     for (std::size_t i = 0; i < y.data.size(); ++i) y.data[i] = reference(i);
                     return y;
                   },
               .differentiable = false};
  };
  rows.push_back(drawing(
      "uniform", [](const Tensor& x, Generator& g) { return uniform(x.shape(), -1, 3, g, x.dtype(), x.device()); },
      [](std::uint64_t i) { return -1 + 4 * drawn_uniform(i); }));
  rows.push_back(drawing(
      "normal", [](const Tensor& x, Generator& g) { return normal(x.shape(), 1, 2, g, x.dtype(), x.device()); },
      [](std::uint64_t i) {
        // Box and Muller, two normals from each pair of words.
        const double u = 1 - drawn_uniform(i & ~std::uint64_t{1}), angle = 2 * std::numbers::pi * drawn_uniform(i | 1);
        return 1 + 2 * std::sqrt(-2 * std::log(u)) * (i % 2 == 0 ? std::cos(angle) : std::sin(angle));
      }));
}

void add_tape_rows(std::vector<Row>& rows) {
  rows.push_back({.name = "hook",
                  .inputs =
                      [](std::int64_t n) {
                        return std::vector<Input>{{{3 * n, 5}}};
                      },
                  .op = [](Tensors x) { return hook(x[0], [](const Tensor& dy) { return dy * 1.0; }); },
                  .reference = [](const Arrays& x) { return x[0]; },
                  .floating_only = false});
  rows.push_back(
      {.name = "checkpoint",
       .inputs =
           [](std::int64_t n) {
             return std::vector<Input>{{{3 * n, 5}}, {{5}}};
           },
       .op = [](Tensors x) { return checkpoint([](Tensors in) { return silu(in[0]) * in[1]; }, x); },
       .reference =
           [](const Arrays& x) { return broadcast_map(x[0], x[1], [](double a, double b) { return a * sigmoid_of(a) * b; }); },
       .twice = false});
}

void add_linalg_rows(std::vector<Row>& rows) {
  const std::size_t first = rows.size();
  auto square = [](bool symmetric) {
    return [=](std::int64_t n) { return std::vector<Input>{{{2 * n, 4, 4}, -1, 1, Kind::dominant, symmetric}}; };
  };
  rows.push_back({.name = "inverse",
                  .inputs = square(false),
                  .op = [](Tensors x) { return inverse(x[0]); },
                  .reference = [](const Arrays& x) {  // Gauss and Jordan; the matrices need no pivots
                    Array y(x[0].shape);
                    for (std::int64_t b = 0; b < y.shape[0]; ++b) {
                      double a[4][8] = {};
                      for (int i = 0; i < 4; ++i) {
                        for (int j = 0; j < 4; ++j) a[i][j] = x[0](b, i, j);
                        a[i][4 + i] = 1;
                      }
                      for (int p = 0; p < 4; ++p) {
                        for (int j = 7; j >= p; --j) a[p][j] /= a[p][p];
                        for (int i = 0; i < 4; ++i)
                          for (int j = 7; j >= p && i != p; --j) a[i][j] -= a[i][p] * a[p][j];
                      }
                      for (int i = 0; i < 4; ++i)
                        for (int j = 0; j < 4; ++j) y(b, i, j) = a[i][4 + j];
                    }
                    return y;
                  }});
  for (const bool upper : {false, true})
    rows.push_back({.name = "solve_triangular",
                    .variant = upper ? "upper" : "lower",
                    .inputs =
                        [](std::int64_t n) {
                          return std::vector<Input>{{{4, 4}, -1, 1, Kind::dominant}, {{2 * n, 4, 3}}};
                        },
                    .op = [=](Tensors x) { return solve_triangular(x[0], x[1], upper); },
                    .reference =
                        [=](const Arrays& x) {
                          Array y = x[1];
                          for (std::int64_t b = 0; b < y.shape[0]; ++b)
                            for (std::int64_t c = 0; c < 3; ++c)
                              for (std::int64_t step = 0; step < 4; ++step) {
                                const std::int64_t i = upper ? 3 - step : step;
                                for (std::int64_t j = upper ? i + 1 : 0; j < (upper ? 4 : i); ++j)
                                  y(b, i, c) -= x[0](i, j) * y(b, j, c);
                                y(b, i, c) /= x[0](i, i);
                              }
                          return y;
                        }});
  // Factors are not unique to the last bit or sign: what they multiply to is.
  auto itself = [](const Arrays& x) { return x[0]; };
  rows.push_back({.name = "cholesky",
                  .inputs = square(true),
                  .op =
                      [](Tensors x) {
                        const Tensor lower = cholesky(x[0]);
                        return matmul(lower, lower.t());
                      },
                  .reference = itself,
                  .differentiable = false});
  auto wide = [](std::int64_t n) { return std::vector<Input>{{{2 * n, 4, 3}}}; };
  rows.push_back({.name = "qr",
                  .inputs = wide,
                  .op =
                      [](Tensors x) {
                        const QR f = qr(x[0]);
                        return matmul(f.q, f.r);
                      },
                  .reference = itself,
                  .differentiable = false});
  rows.push_back({.name = "svd",
                  .inputs = wide,
                  .op =
                      [](Tensors x) {
                        const SVD f = svd(x[0]);
                        return matmul(mul(f.u, unsqueeze(f.s, -2)), f.vt);
                      },
                  .reference = itself,
                  .differentiable = false});
  for (std::size_t i = first; i < rows.size(); ++i) {
    rows[i].halves = false;
    rows[i].slack = 8;
    rows[i].large = 64;
  }
}

}  // namespace graft::test
