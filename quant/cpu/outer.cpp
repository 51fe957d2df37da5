#include "graft/quant/cpu/outer.h"

#include <algorithm>

#include "graft/core/cpu/block.h"
#include "graft/core/kernels.h"
#include "graft/core/parallel.h"
#include "graft/quant/cpu/rows.h"

namespace graft::quant {
namespace {

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Elements.
constexpr std::int64_t line = 64 / sizeof(float);

// Elements of b that stay in the first-level cache from one row of the product to the next, and columns that are few enough for several rows
// at a time, as in a shallow product (core/cpu/gemm_matmul.cpp).
constexpr std::int64_t near = 4096, narrow = 256;

}  // namespace

OuterParts::OuterParts(std::span<const Outer> all, std::int64_t parts)
    : all_(fit(all) ? all : std::span<const Outer>()), parts_(parts), kernels_(cpu::gemm_kernels<float>(isa())) {}

void check_operands(std::span<const Outer> all) {
  for (const auto& [a, b, product] : all) {
    check(a.rank == 2 && b.rank == 2 && product.rank == 2 && a.sizes[0] == b.sizes[0] && a.sizes[1] == product.sizes[0] &&
              b.sizes[1] == product.sizes[1],
          "outer product: {} and {} do not make {}", shape_of(a), shape_of(b), shape_of(product));
    for (const View* view : {&a, &b, &product})
      check<TypeError>(is_floating(view->dtype) && (view->dtype == DType::f64) == (product.dtype == DType::f64),
                       "outer product: {} meets {}", view->dtype, product.dtype);
  }
}

bool OuterParts::fit(std::span<const Outer> all) {
  return std::ranges::all_of(all, [](const Outer& outer) {
    const auto& [a, b, product] = outer;
    return a.dtype != DType::f64 && b.dtype != DType::f64 && b.strides[1] == 1 && product.dtype == DType::f32 &&
           product.strides[1] == 1 && product.strides[0] == product.sizes[1] && a.sizes[0] > 0 && a.sizes[0] <= few_rows;
  });
}

OuterParts::Run OuterParts::run_of(const Outer& outer, std::int64_t part) const {
  const std::int64_t all = outer.product.sizes[0] * outer.product.sizes[1], lines = divide_up(all, line);
  return {lines * part / parts_ * line, std::min(all, lines * (part + 1) / parts_ * line)};
}

std::vector<Ahead> OuterParts::memory(std::int64_t part, std::int64_t steps) const {
  std::vector<Ahead> all;
  for (const Outer& outer : all_) {
    const auto [begin, end] = run_of(outer, part);
    const std::int64_t lines = divide_up(end - begin, line);
    all.push_back({reinterpret_cast<const char*>(outer.product.as<float>() + begin), lines, divide_up(lines, steps)});
  }
  return all;
}

void OuterParts::run(std::int64_t part) const {
  for (const auto& outer : all_) {
    const auto& [a, b, product] = outer;
    const std::int64_t depth = a.sizes[0], columns = product.sizes[1], widest = near / depth;
    // The rest of a row, whole rows where several are written at a time, the beginning of a row.
    for (auto [begin, end] = run_of(outer, part); begin < end;) {
      const std::int64_t row = begin / columns, column = begin % columns, left = end - begin;
      const bool whole = column == 0 && left >= columns && columns <= narrow;
      const std::int64_t rows = whole ? std::min(left / columns, near / depth) : 1;
      const std::int64_t width = whole ? columns : std::min({columns - column, left, widest});
      const float* x = a.as<float>() + row * a.strides[1];
      std::int64_t x_row = a.strides[1], x_depth = a.strides[0];
      float widened[near];
      if (a.dtype != DType::f32) {
        for (std::int64_t d = 0; d < depth; ++d)
          cpu::convert(a.dtype, cpu::element(a, d * a.strides[0] + row * a.strides[1]), a.strides[1], DType::f32,
                       widened + d * rows, 1, rows);
        x = widened, x_row = 1, x_depth = rows;
      }
      kernels_.axpy(x, x_row, x_depth, rows, depth, static_cast<const char*>(b.data) + column * size_of(b.dtype), b.dtype,
                    b.strides[0], width, product.as<float>() + begin, columns, false);
      begin += rows * width;
    }
  }
}

void outer_products(std::span<const Outer> all, Device device) {
  constexpr std::int64_t parts = 4;
  if (all.empty()) return;
  check_operands(all);
  if (device.is_cpu() && OuterParts::fit(all)) {
    const OuterParts outer(all, parts);
    return parallel_for(parts, [&](std::int64_t part) { outer.run(part); });
  }
  for (const auto& [a, b, product] : all) kernel(device, &Kernels::linear_backward, "linear")(a, b, {}, {}, product);
}

}  // namespace graft::quant
