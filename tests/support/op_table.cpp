// The rows of elementwise functions, shapes and reductions, and the table itself.
#include <numbers>

#include "op_rows.h"

namespace graft::test {
namespace {

Row comparison(const char* name, Tensor (*op)(const Tensor&, const Tensor&), double (*f)(double, double)) {
  Row row = binary(name, op, f);
  row.inputs = [](std::int64_t n) {
    return std::vector<Input>{{{3 * n, 1, 5}, -2, 2, Kind::whole}, {{4, 5}, -2, 2, Kind::whole}};
  };
  row.differentiable = false;
  row.floating_only = false;
  return row;
}

}  // namespace

void add_elementwise_rows(std::vector<Row>& rows) {
  rows.push_back(integers_too(binary("add", add, [](double a, double b) { return a + b; })));
  rows.push_back(integers_too(binary("sub", sub, [](double a, double b) { return a - b; })));
  rows.push_back(integers_too(binary("mul", mul, [](double a, double b) { return a * b; })));
  rows.push_back(binary(
      "div", div, [](double a, double b) { return a / b; }, 0.5));
  rows.push_back(integers_too(unary(
      "affine", [](const Tensor& x) { return affine(x, 3, -1); }, [](double x) { return 3 * x - 1; })));
  rows.push_back(integers_too(unary("neg", neg, [](double x) { return -x; })));
  rows.push_back(integers_too(unary("abs", abs, [](double x) { return std::abs(x); })));
  rows.push_back(unary("exp", exp, [](double x) { return std::exp(x); }));
  rows.push_back(unary(
      "log", log, [](double x) { return std::log(x); }, 0.1, 3));
  rows.push_back(unary(
      "sqrt", sqrt, [](double x) { return std::sqrt(x); }, 0.1, 3));
  rows.push_back(unary(
      "rsqrt", rsqrt, [](double x) { return 1 / std::sqrt(x); }, 0.3, 3));
  rows.push_back(unary("sin", sin, [](double x) { return std::sin(x); }));
  rows.push_back(unary("cos", cos, [](double x) { return std::cos(x); }));
  rows.push_back(unary("tanh", tanh, [](double x) { return std::tanh(x); }));
  rows.push_back(unary("sigmoid", sigmoid, sigmoid_of));
  rows.push_back(unary(
      "silu", silu, [](double x) { return x * sigmoid_of(x); }, -4, 4));
  const auto gated = [](double gate, double x) { return gate * sigmoid_of(gate) * x; };
  rows.push_back(binary("silu_mul", silu_mul, gated));
  rows.push_back(binary("silu_mul", silu_mul, gated));
  rows.back().variant = "same";
  rows.back().inputs = [](std::int64_t n) { return std::vector<Input>{{{3 * n, 4, 5}}, {{3 * n, 4, 5}}}; };
  rows.push_back(unary(
      "gelu", gelu, [](double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); }, -4, 4));
  rows.push_back(unary(
      "gelu_tanh", gelu_tanh,
      [](double x) { return x * sigmoid_of(2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)); }, -4, 4));
  rows.push_back(unary("relu", relu, [](double x) { return std::max(x, 0.0); }));
  rows.push_back(unary(
      "pow", [](const Tensor& x) { return pow(x, 3); }, [](double x) { return x * x * x; }));
  rows.back().variant = "cube";
  rows.push_back(unary(
      "pow", [](const Tensor& x) { return pow(x, -0.5); }, [](double x) { return 1 / std::sqrt(x); }, 0.3, 3));
  rows.back().variant = "negative";
  rows.push_back(unary(
      "pow", [](const Tensor& x) { return pow(x, 0); }, [](double) { return 1.0; }));
  rows.back().variant = "zero";
  rows.push_back(integers_too(unary(
      "clamp", [](const Tensor& x) { return clamp(x, -1, 1); }, [](double x) { return std::clamp(x, -1.0, 1.0); })));
  rows.push_back(integers_too(binary("maximum", maximum, larger)));
  rows.push_back(integers_too(binary("minimum", minimum, smaller)));
  rows.push_back(
      {.name = "where",
       .inputs =
           [](std::int64_t n) {
             return std::vector<Input>{{{4, 5}, 0, 1, Kind::boolean}, {{3 * n, 1, 5}}, {{5}}};
           },
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

void add_shape_rows(std::vector<Row>& rows) {
  auto same = [](const Array& x) { return x; };
  rows.push_back(shape_row(
      "reshape",
      [](const Tensor& x) {
        return reshape(x, {4, -1, 2});
      },
      [](const Array& x) {
        return reshaped(x, {4, static_cast<std::int64_t>(x.data.size()) / 8, 2});
      }));
  rows.push_back(shape_row(
      "permute",
      [](const Tensor& x) {
        return permute(x, std::vector<int>{2, 0, -2});
      },
      [](const Array& x) {
        Array y({x.shape[2], x.shape[0], x.shape[1]});
        y.each([&](const Array::Index& at, double& out) { out = x(at[1], at[2], at[0]); });
        return y;
      }));
  rows.push_back(shape_row(
      "transpose", [](const Tensor& x) { return transpose(x, 1, -1); }, transposed));
  rows.push_back(shape_row(
      "unsqueeze", [](const Tensor& x) { return unsqueeze(x, -2); },
      [](const Array& x) {
        return reshaped(x, {x.shape[0], x.shape[1], 1, x.shape[2]});
      }));
  rows.push_back(shape_row(
      "squeeze", [](const Tensor& x) { return squeeze(x, 1); },
      [](const Array& x) {
        return reshaped(x, {x.shape[0], x.shape[2]});
      },
      true));
  rows.push_back(shape_row(
      "expand",
      [](const Tensor& x) {
        return expand(x, {2, 2, 3, x.dim(2)});
      },
      [](const Array& x) {
        return broadcast_map(x, Array(Shape{2, 2, 3, x.shape[2]}), plus);
      },
      true));
  rows.push_back(shape_row(
      "slice", [](const Tensor& x) { return slice(x, 1, 1, 3); },
      [](const Array& x) {
        Array y({x.shape[0], 2, x.shape[2]});
        y.each([&](const Array::Index& at, double& out) { out = x(at[0], at[1] + 1, at[2]); });
        return y;
      }));
  rows.push_back(
      {.name = "concat",
       .inputs =
           [](std::int64_t n) {
             return std::vector<Input>{{{2, 3, 2 * n}}, {{2, 1, 2 * n}}, {{2, 2, 2 * n}}};
           },
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
  rows.push_back(shape_row(
      "contiguous", [](const Tensor& x) { return contiguous(x.t()); }, transposed));
  rows.push_back(shape_row(
      "to", [](const Tensor& x) { return to(x, DType::f64); }, same));
  rows.push_back(shape_row(
      "sum_to",
      [](const Tensor& x) {
        return sum_to(x, {4, 1});
      },
      [](const Array& x) {
        return reshaped(folded(x, {1, 4, 1}, 0, plus), {4, 1});
      }));
}

void add_reduction_rows(std::vector<Row>& rows) {
  constexpr static int outer[] = {0, 2};
  rows.push_back(shape_row(
      "sum", [](const Tensor& x) { return sum(x); },
      [](const Array& x) {
        return reshaped(folded(x, {1, 1, 1}, 0, plus), {});
      }));
  rows.push_back(shape_row(
      "sum", [](const Tensor& x) { return sum(x, outer, true); },
      [](const Array& x) {
        return folded(x, {1, 4, 1}, 0, plus);
      }));
  rows.back().variant = "dims";
  const std::size_t floating = rows.size();
  rows.push_back(shape_row(
      "mean", [](const Tensor& x) { return mean(x, outer); },
      [](const Array& x) {
        const double count = static_cast<double>(x.data.size()) / 4;
        return reshaped(mapped(folded(x, {1, 4, 1}, 0, plus), [=](double s) { return s / count; }), {4});
      }));
  rows.push_back(shape_row(
      "norm", [](const Tensor& x) { return norm(x, outer, true); },
      [](const Array& x) {
        return mapped(folded(mapped(x, [](double v) { return v * v; }), {1, 4, 1}, 0, plus),
                      [](double s) { return std::sqrt(s); });
      }));
  rows.push_back(shape_row(
      "norm", [](const Tensor& x) { return norm(x); },
      [](const Array& x) {
        return reshaped(
            mapped(folded(mapped(x, [](double v) { return v * v; }), {1, 1, 1}, 0, plus), [](double s) { return std::sqrt(s); }),
            {});
      }));
  rows.back().variant = "all";
  rows.push_back(shape_row(
      "logsumexp", [](const Tensor& x) { return logsumexp(x, 1); },
      [](const Array& x) {
        const Array exps = mapped(x, [](double v) { return std::exp(v); });
        return reshaped(mapped(folded(exps, {2, 1, x.shape[2]}, 0, plus), [](double s) { return std::log(s); }), {2, x.shape[2]});
      }));
  for (std::size_t i = floating; i < rows.size(); ++i) rows[i].floating_only = true;
  rows.push_back(shape_row(
      "amax", [](const Tensor& x) { return amax(x, 1); },
      [](const Array& x) {
        return reshaped(folded(x, {2, 1, x.shape[2]}, -infinity, larger), {2, x.shape[2]});
      }));
  rows.push_back(shape_row(
      "amin", [](const Tensor& x) { return amin(x, -1, true); },
      [](const Array& x) {
        return folded(x, {2, 4, 1}, infinity, smaller);
      }));
  rows.push_back(shape_row(
      "argmax", [](const Tensor& x) { return argmax(x); },
      [](const Array& x) {
        Array y({2, 4});
        y.each([&](const Array::Index& at, double& out) {
          const double* row = &x.data[static_cast<std::size_t>((at[0] * 4 + at[1]) * x.shape[2])];
          out = static_cast<double>(std::max_element(row, row + x.shape[2]) - row);
        });
        return y;
      }));
  rows.back().differentiable = false;
  rows.push_back(shape_row(
      "all_finite", [](const Tensor& x) { return Tensor::scalar(all_finite(x), DType::boolean); },
      [](const Array&) {
        Array y(Shape{});
        y.data[0] = 1;
        return y;
      }));
  rows.back().differentiable = false;
}

const std::vector<Row>& op_table() {
  static const std::vector<Row> table = [] {
    std::vector<Row> rows;
    add_elementwise_rows(rows);
    add_shape_rows(rows);
    add_reduction_rows(rows);
    add_product_rows(rows);
    add_index_rows(rows);
    add_norm_rows(rows);
    add_attention_rows(rows);
    add_loss_rows(rows);
    add_random_rows(rows);
    add_tape_rows(rows);
    add_linalg_rows(rows);
    return rows;
  }();
  return table;
}

}  // namespace graft::test
