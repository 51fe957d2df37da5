#include "graft/bench/cuda/operands.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>

#include "graft/autograd/ops.h"
#include "graft/bench/random_layer.h"
#include "graft/core/kernels.h"
#include "graft/quant/pack.h"

namespace graft::bench {
namespace {

constexpr Device gpu{Device::Type::cuda, 0};

// As a layer takes them in half precision, and PEFT's LoRA on GPTQ joins them (quant/quant_linear.cpp).
constexpr DType factors = DType::f32;
quant::Join join_of(const Cell& cell) { return cell.backward ? quant::Join::rounded : quant::Join::added; }

LayerShape shape_of(const Cell& cell, std::int64_t n) {
  const Format& f = *cell.format;
  return {cell.k, n, f.bits, f.group_size == 0 ? cell.k : f.group_size, f.act_order, f.affine};
}

Tensor drawn(const Shape& shape, std::uint64_t stream, DType dtype, double size = 1) {
  Generator generator{2, stream};
  return uniform(shape, -size, size, generator, dtype, gpu);
}

void multiply(const Tensor& a, const Tensor& b, const Tensor& y) { runtime(gpu).kernels().matmul(a.view(), b.view(), y.view()); }

/// Rows of a matrix, on the CPU and in f32.
Tensor rows_of(const Tensor& x, const std::vector<std::int64_t>& rows) {
  std::vector<Tensor> found;
  for (const std::int64_t row : rows) found.push_back(to(to(slice(x, 0, row, row + 1), Device::cpu()), DType::f32));
  return concat(found, 0);
}

double relative(const Tensor& got, const Tensor& wanted) {
  const auto a = got.to_vector<double>(), b = wanted.to_vector<double>();
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / size);
}

}  // namespace

bool supports(const cuda::Product& product, const Cell& cell) {
  // What rows look at follows from the input channels; a weight of a few outputs stands for one of all.
  static std::map<std::string, quant::Packed> sketches;
  constexpr std::int64_t few = quant::Packed::tile_columns;
  const auto [found, is_new] = sketches.try_emplace(fmt::format("{}/{}", cell.format->name, cell.k));
  if (is_new) found->second = *quant::move_to(quant::pack(random_layer(shape_of(cell, few))), gpu);
  quant::Packed weight = found->second;
  weight.out = cell.n;
  weight.columns = (cell.n + few - 1) / few * few;
  static const Tensor memory = Tensor::empty({256}, DType::f32, gpu);
  const auto matrix = [&](std::int64_t rows, std::int64_t columns) {
    return View{memory.view().data, cell.dtype, 2, {rows, columns}, {columns, 1}};
  };
  const View x = matrix(cell.m, cell.from()), y = matrix(cell.m, cell.to());
  View u = matrix(cell.m, cell.rank), v = matrix(cell.rank, cell.to());
  u.dtype = v.dtype = factors;
  const quant::LowRank term{u, v, join_of(cell)};
  quant::Problem problem{weight, cell.backward, x, nullptr, y};
  if (cell.rank > 0) problem.terms = {&term, 1};
  return product.supports(problem);
}

const Weights& weights_for(const Cell& cell, std::int64_t copies) {
  static std::string kept;
  static Weights weights;
  const auto name = fmt::format("{}/{}/{}", cell.format->name, cell.k, cell.n);
  if (kept != name) {
    weights = {};
    weights.here = quant::pack(random_layer(shape_of(cell, cell.n)));
    kept = name;
  }
  while (static_cast<std::int64_t>(weights.there.size()) < copies) weights.there.push_back(quant::move_to(weights.here, gpu));
  return weights;
}

const std::vector<Tensor>& dense_weights_for(const Cell& cell, std::int64_t copies) {
  static std::string kept;
  static std::vector<Tensor> weights;
  const auto name = fmt::format("{}/{}/{}", cell.dtype, cell.k, cell.n);
  if (kept != name) weights.clear(), kept = name;
  while (static_cast<std::int64_t>(weights.size()) < copies)
    weights.push_back(drawn({cell.k, cell.n}, 100 + weights.size(), cell.dtype, 1 / std::sqrt(static_cast<double>(cell.k))));
  return weights;
}

Operands::Operands(const Cell& cell)
    : cell_(cell), x_(drawn({cell.m, cell.from()}, 1, cell.dtype)), y_(Tensor::empty({cell.m, cell.to()}, cell.dtype, gpu)) {
  if (cell.rank == 0) return;
  const double small = 1 / std::sqrt(static_cast<double>(cell.k));
  A_ = drawn({cell.rank, cell.k}, 2, factors, small);
  B_ = drawn({cell.n, cell.rank}, 3, factors, small);
  u_ = Tensor::empty({cell.m, cell.rank}, factors, gpu);
  if (!cell.backward) return;
  input_ = drawn({cell.m, cell.k}, 4, cell.dtype);
  narrow_ = Tensor::empty({cell.m, cell.rank}, factors, gpu);
  multiply(to(input_, factors), A_.t(), narrow_);
  dA_ = Tensor::empty(A_.shape(), factors, gpu);
  dB_ = Tensor::empty(B_.shape(), factors, gpu);
}

void Operands::run(const cuda::Product& product, const Weights& weights, std::size_t copy) const {
  const NoGrad unrecorded;
  const View x = x_.view(), y = y_.view();
  quant::Problem problem{*weights.there[copy], cell_.backward, x, nullptr, y};
  std::optional<quant::LowRank> term;
  const auto gradients = runtime(gpu).kernels().linear_backward;
  if (cell_.rank > 0) {
    term = quant::LowRank{u_.view(), (cell_.backward ? A_ : B_.t()).view(), join_of(cell_)};
    if (cell_.backward) gradients(x_.view(), narrow_.view(), B_.view(), u_.view(), dB_.view());
    else term->A = A_.view();
    problem.terms = {&*term, 1};
  }
  product.run(problem);
  if (cell_.rank == 0 || !cell_.backward) return;
  gradients(u_.view(), input_.view(), {}, {}, dA_.view());
}

void Operands::run_dense(const std::vector<Tensor>& weights, std::size_t copy) const {
  const NoGrad unrecorded;
  multiply(x_, cell_.backward ? weights[copy].t() : weights[copy], y_);
}

void Operands::poison() const { runtime(gpu).kernels().fill(y_.view(), std::numeric_limits<double>::quiet_NaN()); }

std::vector<std::int64_t> Operands::checked_rows() const {
  std::vector<std::int64_t> rows;
  for (std::uint64_t i = 0; i < 4; ++i) rows.push_back(random_block(3, 0, i)[0] % cell_.m);
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

double Operands::error(const Weights& weights) const {
  const NoGrad unrecorded;
  const auto rows = checked_rows();
  const Tensor x = rows_of(x_, rows), wanted = Tensor::empty({x.dim(0), cell_.to()});
  std::optional<quant::LowRank> term;
  Tensor u, v;
  if (cell_.rank > 0) {
    const auto here = [](const Tensor& t) { return to(t, Device::cpu()); };
    u = matmul(x, here(cell_.backward ? B_ : A_.t()));
    v = here(cell_.backward ? A_ : B_.t());
    term = quant::LowRank{u.view(), v.view()};
  }
  const std::span<const quant::LowRank> terms = term ? std::span(&*term, 1) : std::span<const quant::LowRank>();
  if (cell_.backward) quant::backward(*weights.here, x.view(), wanted.view(), terms);
  else quant::forward(*weights.here, x.view(), nullptr, wanted.view(), terms);
  return relative(rows_of(y_, rows), wanted);
}

double Operands::error(const std::vector<Tensor>& weights) const {
  const NoGrad unrecorded;
  const auto rows = checked_rows();
  const std::int64_t columns = std::min<std::int64_t>(64, cell_.to()), begin = (cell_.to() - columns) / 2;
  const Tensor whole = cell_.backward ? weights[0].t() : weights[0];
  const Tensor part = to(to(contiguous(slice(whole, 1, begin, begin + columns)), Device::cpu()), DType::f32);
  return relative(slice(rows_of(y_, rows), 1, begin, begin + columns), matmul(rows_of(x_, rows), part));
}

// A rounding moves a number by at most 2^-9 of it in bf16 and 2^-12 in f16, and by 0.29 of a unit in the mean of squares. That of the
// result, of the weight, of the product that LoRA's share joins and of a share that is rounded itself.
double Operands::largest_error() const {
  return cell_.dtype == DType::bf16 ? 0x1p-7 : cell_.dtype == DType::f16 ? 0x1p-10 : 1e-5;
}

}  // namespace graft::bench
