// The rows of activations, a few at a time.
#pragma once

#include <cstdint>
#include <vector>

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

}  // namespace graft::quant
