// The host's half of rotations: which ones their kernels take.
#include "graft/cuda/rotation.h"

#include <algorithm>
#include <optional>

#include "graft/core/tf32.h"
#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"

namespace graft::cuda {
namespace {

using quant::Problem;
using quant::Rotated;

bool takes(const Rotated& r) {
  return r.from.dtype != DType::f64 && rotation::takes(r.from.sizes[0], r.from.sizes[1], r.blocks.sizes[1]) &&
         properties().capability >= 80;
}
/// Whether quads of its rows can be written.
bool has_quads(const View& x) {
  return x.strides[1] == 1 && (x.sizes[0] == 1 || x.strides[0] % rotation::quad == 0) &&
         reinterpret_cast<std::uintptr_t>(x.data) % static_cast<std::uintptr_t>(rotation::quad * size_of(x.dtype)) == 0;
}
bool lies(const View& blocks) { return is_dense(blocks) && reinterpret_cast<std::uintptr_t>(blocks.data) % piece_bytes == 0; }

rotation::Cut cut_of(const Problem& problem, bool arranged) {
  const Properties gpu = properties();
  return rotation::cut(problem.m(), problem.x.sizes[1], static_cast<int>(size_of(problem.rotated->from.dtype)), arranged,
                       gpu.multiprocessors, static_cast<std::int64_t>(gpu.most_shared));
}

void run(const Problem& problem, const rotation::Cut& cut, const Arranged& arranged) {
  const auto& [from, blocks] = *problem.rotated;
  const View& x = problem.x;
  const Lines lines(from);
  std::optional<Dense> straight;
  if (!lies(blocks)) copy(blocks, straight.emplace(blocks, blocks.dtype).view());
  Rotate p{};
  p.from = lines.data(), p.ld = lines.ld(), p.blocks = straight ? straight->data() : blocks.data;
  p.b = static_cast<int>(blocks.sizes[1]), p.block_elements = blocks.sizes[0] == 1 ? 0 : blocks.sizes[1] * blocks.sizes[1];
  p.m = static_cast<int>(problem.m()), p.columns = static_cast<int>(x.sizes[1]), p.parts = cut.parts;
  p.x = x.data, p.dtype = x.dtype, p.x_ld = x.strides[0], p.arranged = arranged;
  launch({"rotation", fmt::format("rotate_{}_by_{}_{}", from.dtype, blocks.dtype, cut.rows)},
         {std::int64_t{cut.row_blocks} * cut.parts}, cut.threads, p, static_cast<std::size_t>(cut.shared_bytes));
}

}  // namespace

void rotate(const Problem& problem) {
  if (!problem.rotated) return;
  const auto& [from, blocks] = *problem.rotated;
  if (takes(*problem.rotated) && has_quads(problem.x)) return run(problem, cut_of(problem, false), {});
  const tf32::Guard off(false);  // no kernel of packed weights rounds
  quant::multiply_blocks(from, blocks, problem.x, matmul);
}

bool rotate(const Problem& problem, const Arranged& to) {
  const bool alone = std::ranges::all_of(problem.terms, [](const quant::LowRank& term) { return !term.A.data; });
  if (!problem.rotated || !alone || !takes(*problem.rotated) || problem.x.dtype != problem.rotated->from.dtype) return false;
  const rotation::Cut cut = cut_of(problem, true);
  if (cut.arranged) run(problem, cut, to);
  return cut.arranged;
}

}  // namespace graft::cuda
