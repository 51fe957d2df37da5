// The rows of products, indexing and normalisation.
#include "op_rows.h"

namespace graft::test {
namespace {

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

Array index_selected(const Array& x, const Array& index) {  // along dimension 1 of three
  Array y({x.shape[0], index.shape[0], x.shape[2]});
  y.each([&](const Array::Index& at, double& out) { out = x(at[0], static_cast<std::int64_t>(index(at[1])), at[2]); });
  return y;
}

}  // namespace

void add_product_rows(std::vector<Row>& rows) {
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

void add_index_rows(std::vector<Row>& rows) {
  rows.push_back({.name = "index_select",
                  .inputs =
                      [](std::int64_t n) {
                        return std::vector<Input>{{{2, 4, 3 * n}}, {{6}, 0, 4, Kind::index}};
                      },
                  .op = [](Tensors x) { return index_select(x[0], 1, x[1]); },
                  .reference = [](const Arrays& x) { return index_selected(x[0], x[1]); },
                  .floating_only = false});
  rows.push_back({.name = "index_add",
                  .inputs =
                      [](std::int64_t n) {
                        return std::vector<Input>{{{2, 4, 3 * n}}, {{6}, 0, 4, Kind::index}, {{2, 6, 3 * n}}};
                      },
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
                  .inputs =
                      [](std::int64_t n) {
                        return std::vector<Input>{{{3, 4, 3 * n}}, {{2, 6, 3 * n}, 0, 4, Kind::index}};
                      },
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
  rows.push_back({.name = "scatter_add",
                  .inputs =
                      [](std::int64_t n) {
                        return std::vector<Input>{{{3, 4, 3 * n}}, {{2, 6, 3 * n}, 0, 4, Kind::index}, {{2, 6, 3 * n}}};
                      },
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
                  .inputs =
                      [](std::int64_t n) {
                        return std::vector<Input>{{{7, 3 * n}}, {{2, 5}, 0, 7, Kind::index}};
                      },
                  .op = [](Tensors x) { return embedding(x[0], x[1]); },
                  .reference =
                      [](const Arrays& x) {
                        Array y({2, 5, x[0].shape[1]});
                        y.each([&](const Array::Index& at, double& out) {
                          out = x[0](static_cast<std::int64_t>(x[1](at[0], at[1])), at[2]);
                        });
                        return y;
                      },
                  .floating_only = false,
                  .slack = 2});
}

void add_norm_rows(std::vector<Row>& rows) {
  rows.push_back(unary("softmax", softmax, nullptr));
  rows.back().reference = [](const Arrays& x) { return by_rows(x[0], softmax_row); };
  rows.back().slack = 2;  // its gradient is a small difference of larger numbers
  rows.push_back(unary("log_softmax", log_softmax, nullptr));
  rows.back().reference = [](const Arrays& x) {
    return mapped(by_rows(x[0], softmax_row), [](double p) { return std::log(p); });
  };
  rows.push_back({.name = "rms_norm",
                  .inputs =
                      [](std::int64_t n) {
                        return std::vector<Input>{{{2, 3 * n, 5}}, {{5}, 0.5, 2}};
                      },
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
                            for (std::size_t i = 0; i < n; ++i)
                              variance += (in[i] - mean) * (in[i] - mean) / static_cast<double>(n);
                            for (std::size_t i = 0; i < n; ++i) {
                              out[i] = (in[i] - mean) / std::sqrt(variance + 0.01);
                              if (with) out[i] = out[i] * x[1].data[i] + x[2].data[i];
                            }
                          });
                        }});
}

}  // namespace graft::test
