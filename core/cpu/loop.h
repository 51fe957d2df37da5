// Walking strided views on threads.
#pragma once

#include "graft/core/parallel.h"
#include "graft/core/strided.h"

namespace graft::cpu {

/// Elements that are worth a thread: below this many, a cheap operation runs inline.
inline constexpr std::int64_t grain = 32768;

/// The pieces into which `n` equal steps of `cost` elements are split; it depends on the problem alone.
inline std::int64_t steps_per_chunk(std::int64_t cost) {
  return std::max<std::int64_t>(1, grain / std::max<std::int64_t>(cost, 1));
}

/// N views of the same shape, walked together in runs along one common dimension.
template <int N>
class Loop {
 public:
  using Offsets = typename Strided<N>::Offsets;

  explicit Loop(const std::array<const View*, N>& views) : walk_(views) {}

  std::int64_t length() const { return walk_.sizes[walk_.rank - 1]; }
  /// Step of view `v` between the elements of a run.
  std::int64_t stride(int v) const { return walk_.strides[walk_.rank - 1][v]; }

  /// Calls f(offsets, n) for runs that cover everything: element i of view v is at offsets[v] + i · stride(v). Parallel.
  template <class F>
  void run(F&& f) const {
    std::int64_t runs = 1;
    for (int i = 0; i + 1 < walk_.rank; ++i) runs *= walk_.sizes[i];
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

  Position offsets_of(std::int64_t run) const {
    Position position;
    for (int i = walk_.rank - 2; i >= 0; --i) {
      position.index[i] = run % walk_.sizes[i];
      run /= walk_.sizes[i];
      for (int v = 0; v < N; ++v) position.offsets[v] += position.index[i] * walk_.strides[i][v];
    }
    return position;
  }

  void advance(Position& position) const {
    for (int i = walk_.rank - 2; i >= 0; --i) {
      for (int v = 0; v < N; ++v) position.offsets[v] += walk_.strides[i][v];
      if (++position.index[i] < walk_.sizes[i]) return;
      for (int v = 0; v < N; ++v) position.offsets[v] -= walk_.sizes[i] * walk_.strides[i][v];
      position.index[i] = 0;
    }
  }

  Strided<N> walk_;
};

}  // namespace graft::cpu
