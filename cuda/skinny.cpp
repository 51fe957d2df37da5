// Few rows of bf16 or f16 times a packed weight: the launch of skinny.cu.
#include "graft/cuda/skinny.h"

#include <algorithm>
#include <cstdint>

#include "graft/cuda/kernel_names.h"
#include "graft/cuda/prepass.h"
#include "graft/cuda/products.h"
#include "graft/cuda/skinny_layout.h"

namespace graft::cuda {
namespace {

using namespace skinny;

/// How many tiles of 8 rows the kernel has: 1, 2 or 4.
int row_tiles_of(const quant::Problem& problem) { return problem.m() <= 8 ? 1 : problem.m() <= 16 ? 2 : 4; }

std::int64_t units_per_slab(const quant::Packed& w) { return divide_up(w.rows, unit); }
std::int64_t slabs(const quant::Packed& w) { return divide_up(w.columns, slab); }

/// Two blocks for each multiprocessor, unless their sums would be more to write than their weights are to read.
int blocks_of(int units, int row_tiles) { return std::clamp(units / (2 * row_tiles), 1, 2 * properties().multiprocessors); }

bool has_vectors(const quant::Problem& problem) {
  const View& x = problem.x;
  return problem.weight.order.empty() && x.strides[1] == 1 && (problem.m() == 1 || x.strides[0] % 8 == 0) &&
         reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
}

}  // namespace

bool is_skinny(const quant::Problem& problem) {
  const quant::Packed& w = problem.weight;
  return !problem.transposed && is_half(problem.x.dtype) && problem.m() >= 1 && problem.m() <= most_rows &&
         Added::holds(problem) && slabs(w) <= Skinny::most_slabs && w.rows < std::int64_t{1} << 30 &&
         units_per_slab(w) * slabs(w) < INT32_MAX &&
         static_cast<std::size_t>(shared_layout(w.bits, row_tiles_of(problem)).bytes) <= properties().most_shared;
}

void skinny_product(const quant::Problem& problem) {
  prepass(problem);
  const quant::Packed& w = problem.weight;
  const View &x = problem.x, &y = problem.y;
  Skinny p{};
  p.codes = static_cast<const std::uint8_t*>(w.codes->data());
  p.scales = static_cast<const float*>(w.scales->data());
  p.zeros = static_cast<const float*>(w.zeros->data());
  p.places = static_cast<const std::int32_t*>(w.places->data());
  p.x = x.data, p.y = y.data, p.y_dtype = y.dtype;
  std::copy_n(x.strides, 2, p.x_strides), std::copy_n(y.strides, 2, p.y_strides);
  p.m = static_cast<int>(problem.m()), p.in = static_cast<int>(w.in), p.out = static_cast<int>(w.out);
  p.rows = static_cast<int>(w.rows), p.columns = static_cast<int>(w.columns);
  p.units_per_slab = static_cast<int>(units_per_slab(w)), p.units = p.units_per_slab * static_cast<int>(slabs(w));
  p.affine = w.affine, p.by_vectors = has_vectors(problem);
  p.added.take(problem);
  const int row_tiles = row_tiles_of(problem), blocks = blocks_of(p.units, row_tiles);
  const std::int64_t sums = std::int64_t{slab} * p.m * meetings(blocks, static_cast<int>(slabs(w)));
  const std::int64_t shares = p.added.joins_rounded ? slab * p.added.term_rows * slabs(w) : 0;
  const Scratch memory(sizeof(float) * static_cast<std::size_t>(sums + shares));
  p.sums = static_cast<float*>(memory.data());
  if (shares) p.shares = p.sums + sums;
  launch({"skinny", fmt::format("skinny_{}_{}_bits_{}", x.dtype, w.bits, 8 * row_tiles)}, {blocks}, threads, p,
         static_cast<std::size_t>(shared_layout(w.bits, row_tiles).bytes));
}

}  // namespace graft::cuda
