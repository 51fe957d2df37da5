// How strided views are walked: several views of one shape together, or the rows of one view. Plain data, so that a kernel of any
// device takes it by value.
#pragma once

#include <algorithm>
#include <array>

#include "graft/core/host_device.h"
#include "graft/core/view.h"

namespace graft {

/// N views of the same shape. Dimensions are ordered by the strides of the first view (the output) and merged where every view
/// allows it, so that contiguous tensors of any rank have one dimension.
template <int N>
struct Strided {
  using Offsets = std::array<std::int64_t, N>;

  int rank = 0;  // at least 1
  std::array<std::int64_t, max_rank> sizes{};
  std::array<Offsets, max_rank> strides{};  // in elements

  Strided() = default;
  explicit Strided(const std::array<const View*, N>& views) {
    const View& first = *views[0];
    std::array<int, max_rank> order;
    int count = 0;
    for (int i = 0; i < first.rank; ++i)
      if (first.sizes[i] != 1) order[count++] = i;
    std::stable_sort(order.begin(), order.begin() + count, [&](int a, int b) { return first.strides[a] > first.strides[b]; });
    for (int i = 0; i < count; ++i) {
      Offsets step;
      for (int v = 0; v < N; ++v) step[v] = views[v]->strides[order[i]];
      append(first.sizes[order[i]], step);
    }
    if (rank == 0) append(1, {});
  }

  /// Where element `i` of each view lies, in the order of this walk.
  GRAFT_HD Offsets at(std::int64_t i) const {
    Offsets offsets{};
    for (int d = rank - 1; d > 0; --d) {
      const std::int64_t index = divide(i, sizes[d]);
      for (int v = 0; v < N; ++v) offsets[v] += index * strides[d][v];
    }
    for (int v = 0; v < N; ++v) offsets[v] += i * strides[0][v];
    return offsets;
  }

  /// i % n, with i / n left in i. Half as wide where that does: a GPU takes several times as long for 64 bits.
  static GRAFT_HD std::int64_t divide(std::int64_t& i, std::int64_t n) {
    const std::int64_t whole = i;
    if (((whole | n) >> 32) == 0) i = static_cast<std::uint32_t>(whole) / static_cast<std::uint32_t>(n);
    else i = whole / n;
    return whole - i * n;
  }

 private:
  void append(std::int64_t size, const Offsets& step) {
    bool merges = rank > 0;
    for (int v = 0; merges && v < N; ++v) merges = strides[rank - 1][v] == step[v] * size;
    if (merges) {
      sizes[rank - 1] *= size;
    } else {
      sizes[rank++] = size;
    }
    strides[rank - 1] = step;
  }
};

/// The rows of a view: everything but its last `inner` dimensions, in row-major order.
class Rows {
 public:
  Rows() = default;
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

  GRAFT_HD std::int64_t count() const { return count_; }
  /// Where row `row` begins, in elements.
  GRAFT_HD std::int64_t operator()(std::int64_t row) const {
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

}  // namespace graft
