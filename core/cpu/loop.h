// Walking strided views: several views of one shape together, or the rows of one view.
#pragma once

#include <algorithm>
#include <array>

#include "graft/core/parallel.h"
#include "graft/core/view.h"

namespace graft::cpu {

/// Elements that are worth a thread: below this many, a cheap operation runs inline.
inline constexpr std::int64_t grain = 32768;

/// The pieces into which `n` equal steps of `cost` elements are split; it depends on the problem alone.
inline std::int64_t steps_per_chunk(std::int64_t cost) {
  return std::max<std::int64_t>(1, grain / std::max<std::int64_t>(cost, 1));
}

/// N views of the same shape, walked together in runs along one common dimension. Dimensions are ordered by the strides of the
/// first view (the output) and merged where every view allows it, so that contiguous tensors of any rank are one run.
template <int N>
class Loop {
 public:
  using Offsets = std::array<std::int64_t, N>;

  explicit Loop(const std::array<const View*, N>& views) {
    const View& first = *views[0];
    std::array<int, max_rank> order;
    int rank = 0;
    for (int i = 0; i < first.rank; ++i)
      if (first.sizes[i] != 1) order[rank++] = i;
    std::stable_sort(order.begin(), order.begin() + rank, [&](int a, int b) { return first.strides[a] > first.strides[b]; });
    for (int i = 0; i < rank; ++i) {
      Offsets strides;
      for (int v = 0; v < N; ++v) strides[v] = views[v]->strides[order[i]];
      append(first.sizes[order[i]], strides);
    }
    if (rank_ == 0) append(1, {});
  }

  std::int64_t length() const { return sizes_[rank_ - 1]; }
  /// Step of view `v` between the elements of a run.
  std::int64_t stride(int v) const { return strides_[rank_ - 1][v]; }

  /// Calls f(offsets, n) for runs that cover everything: element i of view v is at offsets[v] + i · stride(v). Parallel.
  template <class F>
  void run(F&& f) const {
    std::int64_t runs = 1;
    for (int i = 0; i + 1 < rank_; ++i) runs *= sizes_[i];
    if (runs == 0 || length() == 0) return;
    if (length() > grain) {
      const std::int64_t pieces = (length() + grain - 1) / grain;
      parallel_for(runs * pieces, [&](std::int64_t chunk) {
        Offsets offsets = offsets_of(chunk / pieces).offsets;
        const std::int64_t begin = chunk % pieces * grain;
        for (int v = 0; v < N; ++v) offsets[v] += begin * stride(v);
        f(offsets, std::min(grain, length() - begin));
      });
    } else {
      parallel_ranges(runs, steps_per_chunk(length()), [&](std::int64_t begin, std::int64_t end) {
        Position position = offsets_of(begin);
        for (std::int64_t i = begin; i < end; ++i, advance(position)) f(position.offsets, length());
      });
    }
  }

 private:
  struct Position {
    std::array<std::int64_t, max_rank> index{};
    Offsets offsets{};
  };

  void append(std::int64_t size, const Offsets& strides) {
    bool merges = rank_ > 0;
    for (int v = 0; merges && v < N; ++v) merges = strides_[rank_ - 1][v] == strides[v] * size;
    if (merges) {
      sizes_[rank_ - 1] *= size;
    } else {
      sizes_[rank_++] = size;
    }
    strides_[rank_ - 1] = strides;
  }

  Position offsets_of(std::int64_t run) const {
    Position position;
    for (int i = rank_ - 2; i >= 0; --i) {
      position.index[i] = run % sizes_[i];
      run /= sizes_[i];
      for (int v = 0; v < N; ++v) position.offsets[v] += position.index[i] * strides_[i][v];
    }
    return position;
  }

  void advance(Position& position) const {
    for (int i = rank_ - 2; i >= 0; --i) {
      for (int v = 0; v < N; ++v) position.offsets[v] += strides_[i][v];
      if (++position.index[i] < sizes_[i]) return;
      for (int v = 0; v < N; ++v) position.offsets[v] -= sizes_[i] * strides_[i][v];
      position.index[i] = 0;
    }
  }

  int rank_ = 0;
  std::array<std::int64_t, max_rank> sizes_{};
  std::array<Offsets, max_rank> strides_{};
};

/// The rows of a view: everything but its last `inner` dimensions, in row-major order.
class Rows {
 public:
  explicit Rows(const View& view, int inner = 1) {
    for (int i = 0; i < view.rank - inner; ++i) {
      count_ *= view.sizes[i];
      if (view.sizes[i] == 1) continue;
      if (rank_ > 0 && strides_[rank_ - 1] == view.strides[i] * view.sizes[i]) {
        sizes_[rank_ - 1] *= view.sizes[i];
      } else {
        sizes_[rank_++] = view.sizes[i];
      }
      strides_[rank_ - 1] = view.strides[i];
    }
  }

  std::int64_t count() const { return count_; }
  /// Where row `row` begins, in elements.
  std::int64_t operator()(std::int64_t row) const {
    std::int64_t offset = 0;
    for (int i = rank_ - 1; i > 0; --i) {
      offset += row % sizes_[i] * strides_[i];
      row /= sizes_[i];
    }
    return rank_ > 0 ? offset + row * strides_[0] : 0;
  }

 private:
  int rank_ = 0;
  std::int64_t count_ = 1;
  std::int64_t sizes_[max_rank] = {}, strides_[max_rank] = {};
};

}  // namespace graft::cpu
