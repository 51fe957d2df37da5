#include "graft/core/rng.h"

#include "graft/core/cpu/block.h"
#include "graft/core/cpu/cpu.h"
#include "graft/core/cpu/loop.h"
#include "graft/core/cpu/temporary.h"

namespace graft::cpu {
namespace {

/// The four elements of one Philox block.
std::array<double, 4> draw_block(Draw kind, const std::array<std::uint32_t, 4>& words, double p0, double p1) {
  std::array<double, 4> values{};
  switch (kind) {
    case Draw::uniform:
      for (int i = 0; i < 4; ++i) values[i] = p0 + (p1 - p0) * static_cast<double>(to_uniform(words[i]));
      break;
    case Draw::normal:
      for (int i = 0; i < 4; i += 2) {
        const auto pair = to_normals(words[i], words[i + 1]);
        values[i] = p0 + p1 * pair[0];
        values[i + 1] = p0 + p1 * pair[1];
      }
      break;
    case Draw::bernoulli:
      for (int i = 0; i < 4; ++i) values[i] = static_cast<double>(to_uniform(words[i])) < p0 ? 1 : 0;
      break;
  }
  return values;
}

}  // namespace

void draw(Draw kind, std::uint64_t seed, std::uint64_t stream, const View& y, double p0, double p1) {
  check<TypeError>(kind == Draw::bernoulli || is_floating(y.dtype), "draw: random {} numbers need floating elements, not {}",
                   kind == Draw::uniform ? "uniform" : "normal", y.dtype);
  if (!is_dense(y)) {
    const Temporary dense(y, y.dtype);
    draw(kind, seed, stream, dense.view(), p0, p1);
    return copy(dense.view(), y);
  }
  static_assert(block % 4 == 0);
  parallel_ranges(y.count(), 4 * block, [&](std::int64_t begin, std::int64_t end) {
    double values[block];
    for (; begin < end; begin += block) {
      const std::int64_t n = std::min(block, end - begin);
      for (std::int64_t i = 0; i < n; i += 4) {
        const auto four = draw_block(kind, random_block(seed, stream, static_cast<std::uint64_t>(begin + i) / 4), p0, p1);
        std::copy_n(four.begin(), 4, values + i);
      }
      store(values, y, begin, 1, n);
    }
  });
}

}  // namespace graft::cpu
