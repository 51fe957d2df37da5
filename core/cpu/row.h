// Rows along the last dimension, in the type that arithmetic happens in.
#pragma once

#include <vector>

#include "graft/core/cpu/block.h"
#include "graft/core/cpu/loop.h"
#include "graft/core/cpu/vector.h"

namespace graft::cpu {

/// The rows of one view; load, target and store as in block.h.
template <class A>
class RowsOf {
 public:
  explicit RowsOf(const View& view) : view_(view), rows_(view, view.rank > 0 ? 1 : 0) {}
  std::int64_t count() const { return rows_.count(); }
  std::int64_t size() const { return last_size(view_); }
  const A* load(std::int64_t row, A* buffer) const { return cpu::load(view_, rows_(row), last_stride(view_), size(), buffer); }
  A* target(std::int64_t row, A* buffer) const { return cpu::target(view_, rows_(row), last_stride(view_), size(), buffer); }
  void store(std::int64_t row, const A* values) const { cpu::store(values, view_, rows_(row), last_stride(view_), size()); }

 private:
  View view_;
  Rows rows_;
};

/// Calls f(row, buffers) for every row of `like`, in parallel; `buffers` are `count` arrays as long as a row.
template <class A, class F>
void for_each_row(const View& like, int count, F&& f) {
  const RowsOf<A> rows(like);
  parallel_ranges(rows.count(), steps_per_chunk(rows.size()), [&](std::int64_t begin, std::int64_t end) {
    std::vector<A> memory(count * rows.size());
    std::vector<A*> buffers;
    for (int i = 0; i < count; ++i) buffers.push_back(memory.data() + i * rows.size());
    for (std::int64_t row = begin; row < end; ++row) f(row, buffers);
  });
}

/// Σ exp(x − shift), without keeping the terms.
template <class A>
A exp_sum(const VectorLoops<A>& loops, const A* x, A shift, std::int64_t n) {
  A total = 0;
  for (std::int64_t i = 0; i < n; i += block) {
    A terms[block];
    const std::int64_t length = std::min(block, n - i);
    loops.exp_minus(x + i, shift, terms, length);
    total += loops.sum(terms, length);
  }
  return total;
}

}  // namespace graft::cpu
