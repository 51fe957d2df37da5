// Products for few rows: codes are unpacked in registers, and again for every few rows of activations.
#include <algorithm>

#include "graft/core/cpu/block.h"
#include "graft/core/parallel.h"
#include "graft/quant/cpu/low_rank.h"
#include "graft/quant/cpu/outer.h"
#include "graft/quant/cpu/passes.h"

namespace graft::quant {
namespace {

// Weights per task: some tens of microseconds, so that a delayed thread costs little.
constexpr std::int64_t task_weights = std::int64_t{1} << 19;

// x of one pass as [rows][count], and its sums as [segments][count].
void pack(const Problem& problem, const Pass& pass, float* x, float* sums) {
  const Packed& weight = problem.weight;
  const View& from = problem.x;
  dispatch(from.dtype, FloatingTypes{}, "quantized product", [&]<class From>() {
    for (int i = 0; i < pass.count; ++i) {
      const From* row = from.as<From>() + (pass.begin + i) * from.strides[0];
      for (std::size_t s = 0; s < weight.segments.size(); ++s) {
        const Packed::Segment& segment = weight.segments[s];
        const std::int64_t n = segment.end - segment.begin;
        float values[Packed::tile_rows];
        gather(weight, row, from.strides[1], segment, values);
        sums[static_cast<std::int64_t>(s) * pass.count + i] = sum(values, n);
        for (std::int64_t r = 0; r < n; ++r) x[(segment.begin + r) * pass.count + i] = values[r];
      }
    }
  });
}

// False, and nothing done, if sums might not be finite: an offset times that of activations would make NaN of an infinite result.
bool forward(const Problem& problem, const CodeKernels& kernels, const LowRankPanels<float>& terms) {
  const Packed& weight = problem.weight;
  const Weights plain = weights(weight);
  const auto segments = static_cast<std::int64_t>(weight.segments.size());
  const std::int64_t m = problem.m();
  const cpu::Scratch<float> x(m * weight.rows), sums(m * segments);
  const std::vector<Pass> all = passes(m, fused_forward_rows);
  for (const Pass& pass : all) pack(problem, pass, x.get() + pass.begin * weight.rows, sums.get() + pass.begin * segments);
  if (!have_room(x.get(), m * weight.rows)) return false;

  std::vector<float> bias;
  const cpu::Target<float> to = target<float>(problem, bias);
  parallel_ranges(weight.column_tiles(), tiles_per_task(weight, task_weights, all.size()), [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t columns = (end - begin) * Packed::tile_columns, column = begin * Packed::tile_columns;
    const cpu::Scratch<float> y(fused_forward_rows * columns);
    for (const Pass& pass : all) {
      kernels.forward(plain, x.get() + pass.begin * weight.rows, sums.get() + pass.begin * segments, pass.count, begin,
                      end - begin, y.get());
      terms.add(pass.begin, pass.count, column, columns, y.get(), columns);
      cpu::write(to, pass.begin, column, pass.count, std::min(columns, weight.out - column), y.get(), columns);
    }
  });
  return true;
}

void backward(const Problem& problem, const CodeKernels& kernels, const LowRankPanels<float>& terms) {
  const Packed& weight = problem.weight;
  const Weights plain = weights(weight);
  const View& from = problem.x;
  const std::int64_t m = problem.m();
  const bool lies = from.dtype == DType::f32 && from.strides[1] == 1 && weight.out == weight.columns &&
                    (m == 1 || from.strides[0] == weight.columns);
  const cpu::Scratch<float> copy(lies ? 0 : m * weight.columns);
  const float* dy = lies ? from.as<float>() : copy.get();
  for (std::int64_t i = 0; !lies && i < m; ++i) {
    float* row = copy.get() + i * weight.columns;
    cpu::convert(from.dtype, cpu::element(from, i * from.strides[0]), from.strides[1], DType::f32, row, 1, weight.out);
    std::fill(row + weight.out, row + weight.columns, 0.0f);
  }

  std::vector<float> no_bias;
  const cpu::Target<float> to = target<float>(problem, no_bias);
  const std::vector<Pass> all = passes(m, fused_backward_rows);
  const std::int64_t columns = weight.order.empty() ? weight.in : weight.rows;
  const OuterParts outer(problem.outer, weight.row_tiles());
  parallel_for(weight.row_tiles(), [&](std::int64_t tile) {
    float dx[fused_backward_rows * Packed::tile_rows];
    const std::int64_t column = tile * Packed::tile_rows;
    const std::vector<Ahead> ahead = outer.memory(tile, weight.column_tiles());
    for (const Pass& pass : all) {
      if (column >= columns) break;
      kernels.backward(plain, dy + pass.begin * weight.columns, pass.count, tile, dx, ahead);
      terms.add(pass.begin, pass.count, column, Packed::tile_rows, dx, Packed::tile_rows);
      cpu::write(to, pass.begin, column, pass.count, std::min(Packed::tile_rows, columns - column), dx, Packed::tile_rows);
    }
    outer.run(tile);
  });
}

}  // namespace

void run_fused(const Problem& problem, Isa isa) {
  const CodeKernels& kernels = *code_kernels(isa, problem.weight.bits);
  const LowRankPanels<float> terms(cpu::gemm_kernels<float>(isa), problem);
  if (problem.transposed) backward(problem, kernels, terms);
  else if (!forward(problem, kernels, terms)) run_panels(problem, isa);
}

}  // namespace graft::quant
