#include "graft/cuda/reduce.h"

#include <bit>

#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"

namespace graft::cuda {
namespace {

constexpr const char* names[] = {"sum", "max", "min"};

/// The dimensions of x that y keeps, or those that it reduces, with y's strides or x's own.
View part(const View& x, const View& y, bool kept, const View& strides) {
  View view{strides.data, strides.dtype};
  for (int i = 0; i < x.rank; ++i) {
    if ((y.sizes[i] == x.sizes[i] && x.sizes[i] != 1) != kept || x.sizes[i] == 1) continue;
    view.sizes[view.rank] = x.sizes[i];
    view.strides[view.rank++] = strides.strides[i];
  }
  return view;
}

/// Outputs that a block takes when each has no more than `length` elements to share among threads.
int lanes_beside(std::int64_t length) {
  return block_threads / static_cast<int>(std::bit_ceil(static_cast<unsigned>(std::min<std::int64_t>(length, block_threads))));
}

}  // namespace

void reduce(ReduceOp op, const View& x, const View& y) {
  if (y.count() == 0) return;
  if (x.count() == 0) {
    check(op == ReduceOp::sum, "{}: no elements to choose from", names[static_cast<int>(op)]);
    return fill(y, 0);
  }
  const View kept = part(x, y, true, x), kept_y = part(x, y, true, y), reduced = part(x, y, false, x);
  // Outputs are walked in x's order, so that neighbouring threads read neighbours.
  const Strided<2> by_x({&kept, &kept_y});
  Reduce r{x.data, y.data, x.dtype, y.dtype, {}, Strided<1>({&reduced}), kept.count(), reduced.count(), 1, 0, nullptr, 1};
  r.kept = by_x;
  for (auto& strides : r.kept.strides) std::swap(strides[0], strides[1]);

  // Threads lie along the outputs where those are the neighbours in memory, or where there is little to reduce.
  const std::int64_t step_kept = by_x.strides[by_x.rank - 1][0], step_reduced = r.reduced.strides[r.reduced.rank - 1][0];
  const bool across = r.outputs > 1 && (step_kept < step_reduced || r.length == 1);
  r.lanes = r.outputs == 1 ? 1 : std::max(across ? 32 : 1, lanes_beside(r.length));
  const std::int64_t shares = block_threads / r.lanes, blocks = divide_up(r.outputs, r.lanes);
  // Long sums of few outputs are cut, so that there are some hundred blocks; a piece is worth a block.
  constexpr std::int64_t wanted_blocks = 512, least_turns = 16;
  r.pieces = std::clamp<std::int64_t>(std::min(divide_up(wanted_blocks, blocks), r.length / (shares * least_turns)), 1, 1024);
  r.piece = divide_up(r.length, r.pieces);
  r.pieces = divide_up(r.length, r.piece);

  with_accumulator(x.dtype, [&]<class A>() {
    const Kernel kernel{"reduce", fmt::format("{}{}", names[static_cast<int>(op)], suffix<A>)};
    if (r.pieces == 1) return launch(kernel, {blocks}, block_threads, r);
    const Scratch parts(static_cast<std::size_t>(r.outputs * r.pieces) * sizeof(A));
    r.parts = parts.data();
    launch(kernel, {blocks, r.pieces}, block_threads, r);
    // The pieces are folded by the same kernel, as rows of their own.
    Reduce last = r;
    last.x = r.parts;
    last.x_dtype = dtype_of<A>;
    const View pieces{r.parts, dtype_of<A>, 1, {r.pieces}, {1}};
    last.reduced = Strided<1>({&pieces});
    for (std::int64_t d = r.kept.rank - 1, step = r.pieces; d >= 0; step *= r.kept.sizes[d--]) last.kept.strides[d][1] = step;
    last.length = last.piece = r.pieces;
    last.pieces = 1;
    last.lanes = lanes_beside(r.pieces);
    launch(kernel, {divide_up(r.outputs, last.lanes)}, block_threads, last);
  });
}

void argmax(const View& x, const View& index) {
  const int inner = x.rank > 0 ? 1 : 0;
  const ArgMax m{x.data,
                 index.as<std::int64_t>(),
                 x.dtype,
                 Rows(x, inner),
                 Rows(index, x.rank == index.rank ? inner : 0),
                 inner ? x.sizes[x.rank - 1] : 1,
                 inner ? x.strides[x.rank - 1] : 1};
  if (m.rows.count() == 0) return;
  check(m.length > 0, "argmax: no elements to choose from");
  with_accumulator(x.dtype, [&]<class A>() {
    launch({"reduce", fmt::format("argmax{}", suffix<A>)}, {m.rows.count()}, block_threads, m);
  });
}

}  // namespace graft::cuda
