// The rows of activations, a few at a time, and each a segment at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "graft/core/cpu/block.h"
#include "graft/quant/kernels.h"

namespace graft::quant {

/// Rows [begin, begin + count).
struct Pass {
  std::int64_t begin;
  int count;
};

/// m rows in passes of equal size, at most `most` rows each.
inline std::vector<Pass> passes(std::int64_t m, int most) {
  const std::int64_t n = (m + most - 1) / most;
  std::vector<Pass> all;
  for (std::int64_t i = 0; i < n; ++i) all.push_back({i * m / n, static_cast<int>((i + 1) * m / n - i * m / n)});
  return all;
}

/// Column tiles that a task goes through row by row, of so many weights at least. Memory is faster in longer runs, up to some pages (a wide
/// matrix twice as fast as tile by tile); but there should be many tasks, and what several passes read again should be near.
inline std::int64_t tiles_per_task(const Packed& weight, std::int64_t least_weights, std::size_t passes) {
  constexpr std::int64_t longest = 16, wanted_tasks = 16;
  const std::int64_t run = passes == 1 ? std::min(longest, weight.column_tiles() / wanted_tasks) : 1;
  return std::clamp<std::int64_t>(std::max(least_weights / (weight.rows * Packed::tile_columns), run), 1, weight.column_tiles());
}

/// values[tile_rows]: what a row of activations has for the channels of a segment, zeros for filling.
template <class From>
void gather(const Packed& weight, const From* row, std::int64_t stride, const Packed::Segment& segment, float* values) {
  const std::int64_t n = segment.end - segment.begin;
  if (weight.order.empty()) {
    const std::int64_t real = std::clamp<std::int64_t>(weight.in - segment.begin, 0, n);
    cpu::convert(dtype_of<From>, row + segment.begin * stride, stride, DType::f32, values, 1, real);
    std::fill(values + real, values + n, 0.0f);
    return;
  }
  const std::int32_t* order = weight.order.data() + segment.begin;
  for (std::int64_t i = 0; i < n; ++i) values[i] = order[i] < 0 ? 0.0f : static_cast<float>(row[order[i] * stride]);
}

/// Whether sums of codes times so large values, and of the values themselves, stay finite: none is beyond 2^100, or not a number.
inline bool have_room(const float* values, std::int64_t n) {
  bool have = true;
  for (std::int64_t i = 0; i < n; ++i) have &= std::abs(values[i]) < 0x1p100f;
  return have;
}

/// Of a segment's values, a whole number of units: added up side by side in double.
inline float sum(const float* values, std::int64_t n) {
  constexpr int lanes = 8;
  static_assert(Packed::unit % lanes == 0);
  double sums[lanes] = {};
  for (std::int64_t i = 0; i < n; i += lanes)
    for (int l = 0; l < lanes; ++l) sums[l] += values[i + l];
  double total = 0;
  for (double each : sums) total += each;
  return static_cast<float>(total);
}

}  // namespace graft::quant
