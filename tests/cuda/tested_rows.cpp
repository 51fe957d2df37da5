// The products of a GPU for weights and operands in the host's memory.
#include "graft/tests/quant/tested_rows.h"

#include <utility>

#include "graft/cuda/backend.h"
#include "graft/cuda/products.h"
#include "graft/tests/cuda/transfer.h"

namespace graft::quant::test {
namespace {

using graft::test::gpu;
using graft::test::Transfer;

/// The problem there, while f runs.
template <class F>
void with_moved(const Problem& problem, F f) {
  Transfer transfer;
  transfer.add(problem.x), transfer.add(problem.y);
  if (problem.bias) transfer.add(*problem.bias);
  std::vector<LowRank> terms(problem.terms.begin(), problem.terms.end());
  std::vector<Outer> outer(problem.outer.begin(), problem.outer.end());
  const auto each_view = [&](auto use) {
    for (LowRank& term : terms) use(term.u), use(term.v), use(term.A);
    for (Outer& one : outer) use(one.a), use(one.b), use(one.product);
  };
  each_view([&](const View& view) { transfer.add(view); });
  transfer.upload();
  each_view([&](View& view) { view = transfer.there(view); });
  const View x = transfer.there(problem.x), y = transfer.there(problem.y),
             bias = problem.bias ? transfer.there(*problem.bias) : View();
  const auto weight = move_to({std::shared_ptr<void>(), &problem.weight}, gpu);
  f(Problem{*weight, problem.transposed, x, problem.bias ? &bias : nullptr, y, terms, problem.compute, outer});
  transfer.download();
}

template <std::size_t i>
constexpr Row row{.name = {},
                  .isa = Isa::scalar,
                  .supports =
                      [](const Problem& problem) {
                        return problem.compute != Compute::int8_activations && graft::cuda::products()[i].supports(problem);
                      },
                  .run =
                      [](const Problem& problem) {
                        const graft::cuda::Current here(gpu.index);
                        with_moved(problem, graft::cuda::products()[i].run);
                      }};

}  // namespace

std::span<const Row> tested_rows() {
  static const auto all = []<std::size_t... i>(std::index_sequence<i...>) {
    std::vector<Row> rows{row<i>...};
    check(graft::cuda::products().size() <= rows.size(), "a GPU has {} products", graft::cuda::products().size());
    rows.resize(graft::cuda::products().size());
    for (std::size_t at = 0; at < rows.size(); ++at) rows[at].name = graft::cuda::products()[at].name;
    return rows;
  }
  (std::make_index_sequence<8>());
  return all;
}

double weight_rounding(const Row& row, DType x) {
  if (!is_half(x) || row.name.starts_with("few rows")) return 0;
  return x == DType::f16 ? 0x1p-11 : 0x1p-8;
}

void tested_backward(const Packed& weight, const View& dy, const View& dx, std::span<const Outer> outer) {
  with_moved({.weight = weight, .transposed = true, .x = dy, .y = dx, .outer = outer},
             [](const Problem& there) { backward(there.weight, there.x, there.y, {}, there.outer); });
}

void tested_outer_products(std::span<const Outer> all) {
  Transfer transfer;
  for (const Outer& one : all) transfer.add(one.a), transfer.add(one.b), transfer.add(one.product);
  transfer.upload();
  std::vector<Outer> there;
  for (const Outer& one : all) there.push_back({transfer.there(one.a), transfer.there(one.b), transfer.there(one.product)});
  outer_products(there, gpu);
  transfer.download();
}

}  // namespace graft::quant::test
