#include <limits>
#include <vector>

#include "graft/core/cpu/block.h"
#include "graft/core/cpu/cpu.h"
#include "graft/core/cpu/loop.h"
#include "graft/core/cpu/vector.h"

namespace graft::cpu {
namespace {

/// What a reduction does with accumulators: start, fold a block into one, fold two rows of them.
template <class A>
struct Folding {
  explicit Folding(ReduceOp op) : loops(vector_loops<A>()) {
    constexpr A greatest = std::is_integral_v<A> ? std::numeric_limits<A>::max() : std::numeric_limits<A>::infinity();
    constexpr A least = std::is_integral_v<A> ? std::numeric_limits<A>::lowest() : -std::numeric_limits<A>::infinity();
    switch (op) {
      case ReduceOp::sum: fold = loops.sum, pairwise = BinaryOp::add, start = 0; break;
      case ReduceOp::max: fold = loops.max, pairwise = BinaryOp::maximum, start = least; break;
      case ReduceOp::min: fold = loops.min, pairwise = BinaryOp::minimum, start = greatest; break;
    }
  }
  /// total = op(total, part), element by element.
  void combine(A* total, const A* part, std::int64_t n) const { loops.binary(pairwise, total, part, total, n); }

  const VectorLoops<A>& loops;
  A (*fold)(const A*, std::int64_t) = nullptr;
  BinaryOp pairwise{};
  A start{};
};

/// x seen as kept × reduced dimensions.
struct Split {
  View kept, reduced;    // of x; outermost first by stride
  View y;                // y's strides over the kept dimensions
  bool row_wise = true;  // whether neighbours in memory are reduced together
};

/// Adds a dimension inside the others; it merges with the last one where both views allow it.
void append(View& x, View& y, std::int64_t size, std::int64_t x_stride, std::int64_t y_stride) {
  const int last = x.rank - 1;
  if (last >= 0 && x.strides[last] == x_stride * size && y.strides[last] == y_stride * size) {
    x.sizes[last] = y.sizes[last] = x.sizes[last] * size;
  } else {
    x.sizes[x.rank++] = size;
    y.sizes[y.rank++] = size;
  }
  x.strides[x.rank - 1] = x_stride;
  y.strides[y.rank - 1] = y_stride;
}

Split split(const View& x, const View& y) {
  int order[max_rank];
  for (int i = 0; i < x.rank; ++i) order[i] = i;
  std::stable_sort(order, order + x.rank, [&](int a, int b) { return x.strides[a] > x.strides[b]; });
  Split s{{x.data, x.dtype}, {x.data, x.dtype}, {y.data, y.dtype}};
  View nowhere;
  for (int i = 0; i < x.rank; ++i) {
    const int d = order[i];
    if (x.sizes[d] == 1) continue;
    s.row_wise = y.sizes[d] == 1;
    s.row_wise ? append(s.reduced, nowhere, x.sizes[d], x.strides[d], 0)
               : append(s.kept, s.y, x.sizes[d], x.strides[d], y.strides[d]);
  }
  s.row_wise |= s.kept.rank == 0;
  if (s.reduced.rank == 0) append(s.reduced, nowhere, 1, 1, 0);
  return s;
}

// Each output is cut into pieces of at most 32 blocks of what it reduces; pieces are folded in order.
template <class A>
void reduce_rows(const Split& s, const Folding<A>& folding) {
  const Rows outputs(s.kept, 0), y_at(s.y, 0), runs(s.reduced);
  const std::int64_t length = last_size(s.reduced), stride = last_stride(s.reduced);
  const std::int64_t per_run = (length + block - 1) / block, blocks = runs.count() * per_run;
  constexpr std::int64_t piece_blocks = 32;
  const std::int64_t pieces = (blocks + piece_blocks - 1) / piece_blocks;
  std::vector<A> parts(outputs.count() * pieces);
  parallel_ranges(static_cast<std::int64_t>(parts.size()),
                  steps_per_chunk(std::min(piece_blocks, blocks) * std::min(length, block)),
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t part = begin; part < end; ++part) {
                      const std::int64_t base = outputs(part / pieces), first = part % pieces * piece_blocks;
                      A total = folding.start;
                      for (std::int64_t b = first; b < std::min(first + piece_blocks, blocks); ++b) {
                        const std::int64_t at = b % per_run * block, n = std::min(block, length - at);
                        A buffer[block];
                        const A folded = folding.fold(load(s.kept, base + runs(b / per_run) + at * stride, stride, n, buffer), n);
                        folding.combine(&total, &folded, 1);
                      }
                      parts[part] = total;
                    }
                  });
  parallel_ranges(outputs.count(), grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t output = begin; output < end; ++output) {
      A total = parts[output * pieces];
      for (std::int64_t i = 1; i < pieces; ++i) folding.combine(&total, &parts[output * pieces + i], 1);
      store(&total, s.y, y_at(output), 1, 1);
    }
  });
}

// Neighbours in memory belong to different outputs: whole strips of outputs are folded row by row, and the rows are cut into
// pieces that are folded in order.
template <class A>
void reduce_columns(const Split& s, const Folding<A>& folding) {
  const Rows outer(s.kept), y_outer(s.y), rows(s.reduced, 0);
  const std::int64_t width = last_size(s.kept), stride = last_stride(s.kept);
  const std::int64_t strips = (width + block - 1) / block, piece_rows = steps_per_chunk(std::min(width, block));
  const std::int64_t pieces = (rows.count() + piece_rows - 1) / piece_rows;
  // One strip's pieces lie together: [outer][strip][piece][block].
  const std::int64_t strip = std::min(width, block);
  std::vector<A> parts(outer.count() * strips * pieces * strip);
  parallel_for(outer.count() * strips * pieces, [&](std::int64_t part) {
    const std::int64_t piece = part % pieces, column = part / pieces % strips * block, base = outer(part / pieces / strips);
    const std::int64_t n = std::min(block, width - column);
    A* total = &parts[part * strip];
    std::fill_n(total, n, folding.start);
    for (std::int64_t r = piece * piece_rows; r < std::min((piece + 1) * piece_rows, rows.count()); ++r) {
      A buffer[block];
      folding.combine(total, load(s.kept, base + rows(r) + column * stride, stride, n, buffer), n);
    }
  });
  parallel_ranges(outer.count() * strips, steps_per_chunk(strip * pieces), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t column = i % strips * block, n = std::min(block, width - column);
      A* total = &parts[i * pieces * strip];
      for (std::int64_t piece = 1; piece < pieces; ++piece) folding.combine(total, total + piece * strip, n);
      store(total, s.y, y_outer(i / strips) + column * last_stride(s.y), last_stride(s.y), n);
    }
  });
}

template <class A>
std::int64_t first_largest(const View& x, std::int64_t at) {
  const std::int64_t n = last_size(x), stride = last_stride(x);
  std::int64_t best = -1;
  A largest{};
  for (std::int64_t begin = 0; begin < n; begin += block) {
    A buffer[block];
    const std::int64_t length = std::min(block, n - begin);
    const A* values = load(x, at + begin * stride, stride, length, buffer);
    for (std::int64_t i = 0; i < length; ++i) {
      // As in PyTorch, NaN is larger than every number.
      if (best < 0 || values[i] > largest || (values[i] != values[i] && largest == largest))
        best = begin + i, largest = values[i];
    }
  }
  return best;
}

}  // namespace

void reduce(ReduceOp op, const View& x, const View& y) {
  if (y.count() == 0) return;
  if (x.count() == 0) {
    check(op == ReduceOp::sum, "{}: no elements to choose from", op == ReduceOp::max ? "max" : "min");
    return fill(y, 0);
  }
  const Split s = split(x, y);
  with_accumulator(x.dtype, [&]<class A>() {
    const Folding<A> folding(op);
    s.row_wise ? reduce_rows(s, folding) : reduce_columns(s, folding);
  });
}

void argmax(const View& x, const View& index) {
  const Rows rows(x, x.rank > 0 ? 1 : 0), to(index, x.rank == index.rank && x.rank > 0 ? 1 : 0);
  if (rows.count() == 0) return;
  check(last_size(x) > 0, "argmax: no elements to choose from");
  with_accumulator(x.dtype, [&]<class A>() {
    parallel_ranges(rows.count(), steps_per_chunk(last_size(x)), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) index.as<std::int64_t>()[to(row)] = first_largest<A>(x, rows(row));
    });
  });
}

}  // namespace graft::cpu
