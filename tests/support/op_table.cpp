#include "op_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "graft/autograd/ops.h"

namespace graft::test {
namespace {

using Kind = Input::Kind;
using Tensors = std::span<const Tensor>;
using Arrays = std::vector<Array>;

// ---- makers of rows that look alike ----

template <class F>
Array mapped(const Array& x, F f) {
  Array y(x.shape);
  for (std::size_t i = 0; i < x.data.size(); ++i) y.data[i] = f(x.data[i]);
  return y;
}

template <class F>
Array broadcast_map(const Array& a, const Array& b, F f) {
  Array y(broadcast(a.shape, b.shape, "reference"));
  y.each([&](const Array::Index& at, double& out) { out = f(a.broadcast(at, y.shape.rank()), b.broadcast(at, y.shape.rank())); });
  return y;
}

Row unary(const char* name, Tensor (*op)(const Tensor&), double (*f)(double), double low = -2, double high = 2) {
  return {.name = name,
          .inputs = [=](std::int64_t n) { return std::vector<Input>{{{3 * n, 5}, low, high}}; },
          .op = [=](Tensors x) { return op(x[0]); },
          .reference = [=](const Arrays& x) { return mapped(x[0], f); }};
}

Row binary(const char* name, Tensor (*op)(const Tensor&, const Tensor&), double (*f)(double, double), double low = -2) {
  return {.name = name,
          .inputs = [=](std::int64_t n) { return std::vector<Input>{{{3 * n, 1, 5}, low, 2}, {{4, 5}, low, 2}}; },
          .op = [=](Tensors x) { return op(x[0], x[1]); },
          .reference = [=](const Arrays& x) { return broadcast_map(x[0], x[1], f); }};
}

Row comparison(const char* name, Tensor (*op)(const Tensor&, const Tensor&), double (*f)(double, double)) {
  Row row = binary(name, op, f);
  row.inputs = [](std::int64_t n) { return std::vector<Input>{{{3 * n, 1, 5}, -2, 2, Kind::whole}, {{4, 5}, -2, 2, Kind::whole}}; };
  row.differentiable = false;
  row.floating_only = false;
  return row;
}

Row integers_too(Row row) {
  row.floating_only = false;
  return row;
}

double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

// Σ or another fold over the dimensions that are 1 in `kept`.
template <class F>
Array folded(const Array& x, const Shape& kept, double start, F fold) {
  Array y(kept);
  std::fill(y.data.begin(), y.data.end(), start);
  Array source = x;
  source.each([&](const Array::Index& at, double& element) {
    Array::Index to = at;
    for (int i = 0; i < kept.rank(); ++i)
      if (kept[i] == 1) to[static_cast<std::size_t>(i)] = 0;
    std::int64_t offset = 0;
    for (int i = 0; i < kept.rank(); ++i) offset = offset * kept[i] + to[static_cast<std::size_t>(i)];
    double& out = y.data[static_cast<std::size_t>(offset)];
    out = fold(out, element);
  });
  return y;
}

Array reshaped(Array x, const Shape& shape) {
  x.shape = shape;
  return x;
}

double plus(double a, double b) { return a + b; }
double larger(double a, double b) { return std::max(a, b); }
double smaller(double a, double b) { return std::min(a, b); }
constexpr double infinity = std::numeric_limits<double>::infinity();

// ---- references with more than a line ----

// [..., m, k] × [..., k, n]
Array product(const Array& a, const Array& b) {
  const int ra = a.shape.rank(), rb = b.shape.rank();
  auto lead = [](const Shape& s) { return Shape(std::span(s.begin(), static_cast<std::size_t>(s.rank() - 2))); };
  Shape shape = broadcast(lead(a.shape), lead(b.shape), "reference");
  shape.push_back(a.shape[ra - 2]);
  shape.push_back(b.shape[rb - 1]);
  Array y(shape);
  const auto rank = static_cast<std::size_t>(shape.rank());
  y.each([&](const Array::Index& at, double& out) {
    for (std::int64_t k = 0; k < a.shape[ra - 1]; ++k) {
      Array::Index left = at, right = at;
      left[rank - 1] = k;
      right[rank - 2] = k;
      // The extent of 1 of an operand's own matrix must not repeat: it is its only index anyway.
      out += a.broadcast(left, shape.rank()) * b.broadcast(right, shape.rank());
    }
  });
  return y;
}

Array transposed(const Array& x) {
  Shape shape = x.shape;
  const int rank = shape.rank();
  std::swap(shape[rank - 2], shape[rank - 1]);
  Array y(shape);
  y.each([&](const Array::Index& at, double& out) {
    Array::Index from = at;
    std::swap(from[static_cast<std::size_t>(rank - 2)], from[static_cast<std::size_t>(rank - 1)]);
    out = x.broadcast(from, rank);
  });
  return y;
}

// f(row in, row out) over the last dimension.
template <class F>
Array by_rows(const Array& x, F f) {
  Array y = x;
  const auto n = static_cast<std::size_t>(x.shape.back());
  for (std::size_t at = 0; at < x.data.size(); at += n) f(&x.data[at], &y.data[at], n);
  return y;
}

void softmax_row(const double* x, double* y, std::size_t n) {
  double total = 0;
  for (std::size_t i = 0; i < n; ++i) total += std::exp(x[i]);
  for (std::size_t i = 0; i < n; ++i) y[i] = std::exp(x[i]) / total;
}

Array attended(const Arrays& in, const AttentionOptions& options, const Array* mask) {
  const Array &q = in[0], &k = in[1], &v = in[2];
  const std::int64_t b = q.shape[0], heads = q.shape[1], t = q.shape[2], d = q.shape[3], s = k.shape[2], group = heads / k.shape[1];
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
          for (std::int64_t j = 0; j < s; ++j) y(bi, h, i, c) += weights[static_cast<std::size_t>(j)] / total * v(bi, h / group, j, c);
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

Array index_selected(const Array& x, const Array& index) {  // along dimension 1 of three
  Array y({x.shape[0], index.shape[0], x.shape[2]});
  y.each([&](const Array::Index& at, double& out) { out = x(at[0], static_cast<std::int64_t>(index(at[1])), at[2]); });
  return y;
}

// ---- the rows, in the order of ops.h ----

void elementwise_rows(std::vector<Row>& rows) {
  rows.push_back(integers_too(binary("add", add, [](double a, double b) { return a + b; })));
  rows.push_back(integers_too(binary("sub", sub, [](double a, double b) { return a - b; })));
  rows.push_back(integers_too(binary("mul", mul, [](double a, double b) { return a * b; })));
  rows.push_back(binary("div", div, [](double a, double b) { return a / b; }, 0.5));
  rows.push_back(integers_too(unary("affine", [](const Tensor& x) { return affine(x, 3, -1); }, [](double x) { return 3 * x - 1; })));
  rows.push_back(integers_too(unary("neg", neg, [](double x) { return -x; })));
  rows.push_back(integers_too(unary("abs", abs, [](double x) { return std::abs(x); })));
  rows.push_back(unary("exp", exp, [](double x) { return std::exp(x); }));
  rows.push_back(unary("log", log, [](double x) { return std::log(x); }, 0.1, 3));
  rows.push_back(unary("sqrt", sqrt, [](double x) { return std::sqrt(x); }, 0.1, 3));
  rows.push_back(unary("rsqrt", rsqrt, [](double x) { return 1 / std::sqrt(x); }, 0.3, 3));
  rows.push_back(unary("sin", sin, [](double x) { return std::sin(x); }));
  rows.push_back(unary("cos", cos, [](double x) { return std::cos(x); }));
  rows.push_back(unary("tanh", tanh, [](double x) { return std::tanh(x); }));
  rows.push_back(unary("sigmoid", sigmoid, sigmoid_of));
  rows.push_back(unary("silu", silu, [](double x) { return x * sigmoid_of(x); }, -4, 4));
  rows.push_back(unary("gelu", gelu, [](double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); }, -4, 4));
  rows.push_back(unary("gelu_tanh", gelu_tanh,
                       [](double x) { return x * sigmoid_of(2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)); }, -4, 4));
  rows.push_back(unary("relu", relu, [](double x) { return std::max(x, 0.0); }));
  rows.push_back(unary("pow", [](const Tensor& x) { return pow(x, 3); }, [](double x) { return x * x * x; }));
  rows.back().variant = "cube";
  rows.push_back(unary("pow", [](const Tensor& x) { return pow(x, -0.5); }, [](double x) { return 1 / std::sqrt(x); }, 0.3, 3));
  rows.back().variant = "negative";
  rows.push_back(unary("pow", [](const Tensor& x) { return pow(x, 0); }, [](double) { return 1.0; }));
  rows.back().variant = "zero";
  rows.push_back(integers_too(
      unary("clamp", [](const Tensor& x) { return clamp(x, -1, 1); }, [](double x) { return std::clamp(x, -1.0, 1.0); })));
  rows.push_back(integers_too(binary("maximum", maximum, larger)));
  rows.push_back(integers_too(binary("minimum", minimum, smaller)));
  rows.push_back({.name = "where",
                  .inputs = [](std::int64_t n) { return std::vector<Input>{{{4, 5}, 0, 1, Kind::boolean}, {{3 * n, 1, 5}}, {{5}}}; },
                  .op = [](Tensors x) { return where(x[0], x[1], x[2]); },
                  .reference =
                      [](const Arrays& x) {
                        Array y({x[1].shape[0], 4, 5});
                        y.each([&](const Array::Index& at, double& out) { out = x[x[0].broadcast(at, 3) != 0 ? 1 : 2].broadcast(at, 3); });
                        return y;
                      },
                  .floating_only = false});
  rows.push_back(comparison("equal", equal, [](double a, double b) { return double(a == b); }));
  rows.push_back(comparison("less", less, [](double a, double b) { return double(a < b); }));
  rows.push_back(comparison("less_equal", less_equal, [](double a, double b) { return double(a <= b); }));
}

Row shape_row(const char* name, std::function<Tensor(const Tensor&)> op, std::function<Array(const Array&)> reference, bool unit = false) {
  return {.name = name,
          .inputs = [=](std::int64_t n) { return std::vector<Input>{{unit ? Shape{2, 1, 3 * n} : Shape{2, 4, 3 * n}}}; },
          .op = [=](Tensors x) { return op(x[0]); },
          .reference = [=](const Arrays& x) { return reference(x[0]); },
          .floating_only = false};
}

void shape_rows(std::vector<Row>& rows) {
  auto same = [](const Array& x) { return x; };
  rows.push_back(shape_row("reshape", [](const Tensor& x) { return reshape(x, {4, -1, 2}); },
                           [](const Array& x) { return reshaped(x, {4, static_cast<std::int64_t>(x.data.size()) / 8, 2}); }));
  rows.push_back(shape_row("permute", [](const Tensor& x) { return permute(x, std::vector<int>{2, 0, -2}); }, [](const Array& x) {
    Array y({x.shape[2], x.shape[0], x.shape[1]});
    y.each([&](const Array::Index& at, double& out) { out = x(at[1], at[2], at[0]); });
    return y;
  }));
  rows.push_back(shape_row("transpose", [](const Tensor& x) { return transpose(x, 1, -1); }, transposed));
  rows.push_back(shape_row("unsqueeze", [](const Tensor& x) { return unsqueeze(x, -2); },
                           [](const Array& x) { return reshaped(x, {x.shape[0], x.shape[1], 1, x.shape[2]}); }));
  rows.push_back(shape_row("squeeze", [](const Tensor& x) { return squeeze(x, 1); },
                           [](const Array& x) { return reshaped(x, {x.shape[0], x.shape[2]}); }, true));
  rows.push_back(shape_row("expand", [](const Tensor& x) { return expand(x, {2, 2, 3, x.dim(2)}); },
                           [](const Array& x) { return broadcast_map(x, Array(Shape{2, 2, 3, x.shape[2]}), plus); }, true));
  rows.push_back(shape_row("slice", [](const Tensor& x) { return slice(x, 1, 1, 3); }, [](const Array& x) {
    Array y({x.shape[0], 2, x.shape[2]});
    y.each([&](const Array::Index& at, double& out) { out = x(at[0], at[1] + 1, at[2]); });
    return y;
  }));
  rows.push_back({.name = "concat",
                  .inputs = [](std::int64_t n) { return std::vector<Input>{{{2, 3, 2 * n}}, {{2, 1, 2 * n}}, {{2, 2, 2 * n}}}; },
                  .op = [](Tensors x) { return concat(x, -2); },
                  .reference =
                      [](const Arrays& x) {
                        Array y({2, 6, x[0].shape[2]});
                        y.each([&](const Array::Index& at, double& out) {
                          out = at[1] < 3 ? x[0](at[0], at[1], at[2]) : at[1] < 4 ? x[1](at[0], 0, at[2]) : x[2](at[0], at[1] - 4, at[2]);
                        });
                        return y;
                      },
                  .floating_only = false});
  rows.push_back(shape_row("contiguous", [](const Tensor& x) { return contiguous(x.t()); }, transposed));
  rows.push_back(shape_row("to", [](const Tensor& x) { return to(x, DType::f64); }, same));
  rows.push_back(shape_row("sum_to", [](const Tensor& x) { return sum_to(x, {4, 1}); },
                           [](const Array& x) { return reshaped(folded(x, {1, 4, 1}, 0, plus), {4, 1}); }));
}

void reduction_rows(std::vector<Row>& rows) {
  constexpr static int outer[] = {0, 2};
  rows.push_back(shape_row("sum", [](const Tensor& x) { return sum(x); },
                           [](const Array& x) { return reshaped(folded(x, {1, 1, 1}, 0, plus), {}); }));
  rows.push_back(shape_row("sum", [](const Tensor& x) { return sum(x, outer, true); },
                           [](const Array& x) { return folded(x, {1, 4, 1}, 0, plus); }));
  rows.back().variant = "dims";
  const std::size_t floating = rows.size();
  rows.push_back(shape_row("mean", [](const Tensor& x) { return mean(x, outer); }, [](const Array& x) {
    const double count = static_cast<double>(x.data.size()) / 4;
    return reshaped(mapped(folded(x, {1, 4, 1}, 0, plus), [=](double s) { return s / count; }), {4});
  }));
  rows.push_back(shape_row("norm", [](const Tensor& x) { return norm(x, outer, true); }, [](const Array& x) {
    return mapped(folded(mapped(x, [](double v) { return v * v; }), {1, 4, 1}, 0, plus), [](double s) { return std::sqrt(s); });
  }));
  rows.push_back(shape_row("norm", [](const Tensor& x) { return norm(x); }, [](const Array& x) {
    return reshaped(mapped(folded(mapped(x, [](double v) { return v * v; }), {1, 1, 1}, 0, plus), [](double s) { return std::sqrt(s); }), {});
  }));
  rows.back().variant = "all";
  rows.push_back(shape_row("logsumexp", [](const Tensor& x) { return logsumexp(x, 1); }, [](const Array& x) {
    const Array exps = mapped(x, [](double v) { return std::exp(v); });
    return reshaped(mapped(folded(exps, {2, 1, x.shape[2]}, 0, plus), [](double s) { return std::log(s); }), {2, x.shape[2]});
  }));
  for (std::size_t i = floating; i < rows.size(); ++i) rows[i].floating_only = true;
  rows.push_back(shape_row("amax", [](const Tensor& x) { return amax(x, 1); },
                           [](const Array& x) { return reshaped(folded(x, {2, 1, x.shape[2]}, -infinity, larger), {2, x.shape[2]}); }));
  rows.push_back(shape_row("amin", [](const Tensor& x) { return amin(x, -1, true); },
                           [](const Array& x) { return folded(x, {2, 4, 1}, infinity, smaller); }));
  rows.push_back(shape_row("argmax", [](const Tensor& x) { return argmax(x); }, [](const Array& x) {
    Array y({2, 4});
    y.each([&](const Array::Index& at, double& out) {
      const double* row = &x.data[static_cast<std::size_t>((at[0] * 4 + at[1]) * x.shape[2])];
      out = static_cast<double>(std::max_element(row, row + x.shape[2]) - row);
    });
    return y;
  }));
  rows.back().differentiable = false;
  rows.push_back(shape_row("all_finite", [](const Tensor& x) { return Tensor::scalar(all_finite(x), DType::boolean); }, [](const Array&) {
    Array y(Shape{});
    y.data[0] = 1;
    return y;
  }));
  rows.back().differentiable = false;
}

void product_rows(std::vector<Row>& rows) {
  auto matmul_row = [](const char* variant, auto shapes) {
    return Row{.name = "matmul",
               .variant = variant,
               .inputs =
                   [=](std::int64_t n) {
                     const auto [a, b] = shapes(n);
                     return std::vector<Input>{{a}, {b}};
                   },
               .op = [](Tensors x) { return matmul(x[0], x[1]); },
               .reference = [](const Arrays& x) { return product(x[0], x[1]); },
               .large = 24};
  };
  using Shapes = std::pair<Shape, Shape>;
  rows.push_back(matmul_row("matrices", [](std::int64_t n) { return Shapes({3 * n, 4}, {4, 2 * n}); }));
  rows.push_back(matmul_row("folded", [](std::int64_t n) { return Shapes({2, 3 * n, 4}, {4, 5}); }));
  rows.push_back(matmul_row("batched", [](std::int64_t n) { return Shapes({2, 1, 3 * n, 4}, {3, 4, 2}); }));
  rows.push_back(matmul_row("left", [](std::int64_t n) { return Shapes({3, 4}, {2 * n, 4, 2}); }));
  for (const bool biased : {false, true})
    rows.push_back({.name = "linear",
                    .variant = biased ? "bias" : "",
                    .inputs =
                        [=](std::int64_t n) {
                          std::vector<Input> inputs{{{2, 3 * n, 4}}, {{5, 4}}};
                          if (biased) inputs.push_back({{5}});
                          return inputs;
                        },
                    .op = [=](Tensors x) { return linear(x[0], x[1], biased ? x[2] : Tensor()); },
                    .reference =
                        [=](const Arrays& x) {
                          const Array y = product(x[0], transposed(x[1]));
                          return biased ? broadcast_map(y, x[2], plus) : y;
                        },
                    .large = 64});
  rows.push_back(shape_row("lower", autocast::lower, [](const Array& x) { return x; }));
}

void index_rows(std::vector<Row>& rows) {
  rows.push_back({.name = "index_select",
                  .inputs = [](std::int64_t n) { return std::vector<Input>{{{2, 4, 3 * n}}, {{6}, 0, 4, Kind::index}}; },
                  .op = [](Tensors x) { return index_select(x[0], 1, x[1]); },
                  .reference = [](const Arrays& x) { return index_selected(x[0], x[1]); },
                  .floating_only = false});
  rows.push_back({.name = "index_add",
                  .inputs = [](std::int64_t n) { return std::vector<Input>{{{2, 4, 3 * n}}, {{6}, 0, 4, Kind::index}, {{2, 6, 3 * n}}}; },
                  .op = [](Tensors x) { return index_add(x[0], 1, x[1], x[2]); },
                  .reference =
                      [](const Arrays& x) {
                        Array y = x[0], source = x[2];
                        source.each([&](const Array::Index& at, double& v) {
                          y(at[0], static_cast<std::int64_t>(x[1](at[1])), at[2]) += v;
                        });
                        return y;
                      },
                  .floating_only = false,
                  .slack = 2});
  rows.push_back({.name = "gather",
                  .inputs = [](std::int64_t n) { return std::vector<Input>{{{3, 4, 3 * n}}, {{2, 6, 3 * n}, 0, 4, Kind::index}}; },
                  .op = [](Tensors x) { return gather(x[0], 1, x[1]); },
                  .reference =
                      [](const Arrays& x) {
                        Array y(x[1].shape);
                        y.each([&](const Array::Index& at, double& out) {
                          out = x[0](at[0], static_cast<std::int64_t>(x[1](at[0], at[1], at[2])), at[2]);
                        });
                        return y;
                      },
                  .floating_only = false,
                  .slack = 2});
  rows.push_back(
      {.name = "scatter_add",
       .inputs = [](std::int64_t n) { return std::vector<Input>{{{3, 4, 3 * n}}, {{2, 6, 3 * n}, 0, 4, Kind::index}, {{2, 6, 3 * n}}}; },
       .op = [](Tensors x) { return scatter_add(x[0], 1, x[1], x[2]); },
       .reference =
           [](const Arrays& x) {
             Array y = x[0], source = x[2];
             source.each([&](const Array::Index& at, double& v) {
               y(at[0], static_cast<std::int64_t>(x[1](at[0], at[1], at[2])), at[2]) += v;
             });
             return y;
           },
       .floating_only = false,
       .slack = 2});
  rows.push_back({.name = "embedding",
                  .inputs = [](std::int64_t n) { return std::vector<Input>{{{7, 3 * n}}, {{2, 5}, 0, 7, Kind::index}}; },
                  .op = [](Tensors x) { return embedding(x[0], x[1]); },
                  .reference =
                      [](const Arrays& x) {
                        Array y({2, 5, x[0].shape[1]});
                        y.each([&](const Array::Index& at, double& out) { out = x[0](static_cast<std::int64_t>(x[1](at[0], at[1])), at[2]); });
                        return y;
                      },
                  .floating_only = false,
                  .slack = 2});
}

void norm_rows(std::vector<Row>& rows) {
  rows.push_back(unary("softmax", softmax, nullptr));
  rows.back().reference = [](const Arrays& x) { return by_rows(x[0], softmax_row); };
  rows.push_back(unary("log_softmax", log_softmax, nullptr));
  rows.back().reference = [](const Arrays& x) { return mapped(by_rows(x[0], softmax_row), [](double p) { return std::log(p); }); };
  rows.push_back({.name = "rms_norm",
                  .inputs = [](std::int64_t n) { return std::vector<Input>{{{2, 3 * n, 5}}, {{5}, 0.5, 2}}; },
                  .op = [](Tensors x) { return rms_norm(x[0], x[1], 0.01); },
                  .reference =
                      [](const Arrays& x) {
                        return by_rows(x[0], [&](const double* in, double* out, std::size_t n) {
                          double squares = 0;
                          for (std::size_t i = 0; i < n; ++i) squares += in[i] * in[i];
                          for (std::size_t i = 0; i < n; ++i)
                            out[i] = x[1].data[i] * in[i] / std::sqrt(squares / static_cast<double>(n) + 0.01);
                        });
                      }});
  for (const bool with : {true, false})
    rows.push_back({.name = "layer_norm",
                    .variant = with ? "affine" : "plain",
                    .inputs =
                        [=](std::int64_t n) {
                          std::vector<Input> inputs{{{2, 3 * n, 5}}};
                          if (with) inputs.insert(inputs.end(), {{{5}, 0.5, 2}, {{5}}});
                          return inputs;
                        },
                    .op = [=](Tensors x) { return layer_norm(x[0], with ? x[1] : Tensor(), with ? x[2] : Tensor(), 0.01); },
                    .reference =
                        [=](const Arrays& x) {
                          return by_rows(x[0], [&](const double* in, double* out, std::size_t n) {
                            double mean = 0, variance = 0;
                            for (std::size_t i = 0; i < n; ++i) mean += in[i] / static_cast<double>(n);
                            for (std::size_t i = 0; i < n; ++i) variance += (in[i] - mean) * (in[i] - mean) / static_cast<double>(n);
                            for (std::size_t i = 0; i < n; ++i) {
                              out[i] = (in[i] - mean) / std::sqrt(variance + 0.01);
                              if (with) out[i] = out[i] * x[1].data[i] + x[2].data[i];
                            }
                          });
                        }});
}

void attention_rows(std::vector<Row>& rows) {
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

void loss_rows(std::vector<Row>& rows) {
  rows.push_back({.name = "cross_entropy",
                  .inputs = [](std::int64_t n) { return std::vector<Input>{{{2, 3 * n, 5}}, {{2, 3 * n}, 0, 5, Kind::index}}; },
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
                  .inputs = [](std::int64_t n) { return std::vector<Input>{{{3 * n, 5}}, {{3 * n, 5}}}; },
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

void random_rows(std::vector<Row>& rows) {
  rows.push_back({.name = "dropout",
                  .inputs = [](std::int64_t n) { return std::vector<Input>{{{3 * n, 5}}}; },
                  .op =
                      [](Tensors x) {
                        Generator generator{7, 3};
                        return dropout(x[0], 0.25, generator);
                      },
                  .reference =
                      [](const Arrays& x) {
                        Array y = x[0];
                        for (std::size_t i = 0; i < y.data.size(); ++i) y.data[i] = drawn_uniform(i) < 0.75 ? y.data[i] / 0.75 : 0;
                        return y;
                      }});
  auto drawing = [](const char* name, auto op, auto reference) {
    return Row{.name = name,
               .inputs = [](std::int64_t n) { return std::vector<Input>{{{3 * n, 5}}}; },
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
      "uniform", [](const Tensor& x, Generator& g) { return uniform(x.shape(), -1, 3, g, x.dtype()); },
      [](std::uint64_t i) { return -1 + 4 * drawn_uniform(i); }));
  rows.push_back(drawing(
      "normal", [](const Tensor& x, Generator& g) { return normal(x.shape(), 1, 2, g, x.dtype()); },
      [](std::uint64_t i) {
        // Box and Muller, two normals from each pair of words.
        const double u = 1 - drawn_uniform(i & ~std::uint64_t{1}), angle = 2 * std::numbers::pi * drawn_uniform(i | 1);
        return 1 + 2 * std::sqrt(-2 * std::log(u)) * (i % 2 == 0 ? std::cos(angle) : std::sin(angle));
      }));
}

void linalg_rows(std::vector<Row>& rows) {
  const std::size_t first = rows.size();
  auto square = [](bool symmetric) {
    return [=](std::int64_t n) { return std::vector<Input>{{{2 * n, 4, 4}, -1, 1, Kind::dominant, symmetric}}; };
  };
  rows.push_back({.name = "inverse",
                  .inputs = square(false),
                  .op = [](Tensors x) { return inverse(x[0]); },
                  .reference =
                      [](const Arrays& x) {  // Gauss and Jordan; the matrices need no pivots
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
                    .inputs = [](std::int64_t n) { return std::vector<Input>{{{4, 4}, -1, 1, Kind::dominant}, {{2 * n, 4, 3}}}; },
                    .op = [=](Tensors x) { return solve_triangular(x[0], x[1], upper); },
                    .reference =
                        [=](const Arrays& x) {
                          Array y = x[1];
                          for (std::int64_t b = 0; b < y.shape[0]; ++b)
                            for (std::int64_t c = 0; c < 3; ++c)
                              for (std::int64_t step = 0; step < 4; ++step) {
                                const std::int64_t i = upper ? 3 - step : step;
                                for (std::int64_t j = upper ? i + 1 : 0; j < (upper ? 4 : i); ++j) y(b, i, c) -= x[0](i, j) * y(b, j, c);
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

}  // namespace

const std::vector<Row>& op_table() {
  static const std::vector<Row> table = [] {
    std::vector<Row> rows;
    elementwise_rows(rows);
    shape_rows(rows);
    reduction_rows(rows);
    product_rows(rows);
    index_rows(rows);
    norm_rows(rows);
    attention_rows(rows);
    loss_rows(rows);
    random_rows(rows);
    linalg_rows(rows);
    return rows;
  }();
  return table;
}

}  // namespace graft::test
