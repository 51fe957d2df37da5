#include <algorithm>
#include <cmath>

#include "graft/core/cpu/block.h"
#include "graft/core/cpu/cpu.h"
#include "graft/core/cpu/loop.h"
#include "graft/core/cpu/temporary.h"
#include "graft/core/rng.h"

namespace graft::cpu {
namespace {

/// What n random words mean; n is a multiple of four.
template <class A>
void interpret(Draw kind, const std::uint32_t* words, double p0, double p1, A* values, std::int64_t n) {
  switch (kind) {
    case Draw::uniform:
      for (std::int64_t i = 0; i < n; ++i) values[i] = static_cast<A>(p0 + (p1 - p0) * static_cast<double>(to_uniform(words[i])));
      break;
    case Draw::normal:
      for (std::int64_t i = 0; i < n; i += 2) {
        const auto pair = to_normals(words[i], words[i + 1]);
        values[i] = static_cast<A>(p0 + p1 * pair[0]);
        values[i + 1] = static_cast<A>(p0 + p1 * pair[1]);
      }
      break;
    case Draw::bernoulli: {
      // word · 2⁻²⁴ < p0 in whole numbers, of the upper 24 bits.
      const auto below = static_cast<std::int32_t>(std::ceil(std::clamp(p0, 0.0, 1.0) * 0x1p24));
      for (std::int64_t i = 0; i < n; ++i) values[i] = static_cast<std::int32_t>(words[i] >> 8) < below ? A(1) : A(0);
      break;
    }
  }
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
  with_floating(y.dtype == DType::f64 ? DType::f64 : DType::f32, "draw", [&]<class A>() {
    parallel_ranges(y.count(), 4 * block, [&](std::int64_t begin, std::int64_t end) {
      for (; begin < end; begin += block) {
        const std::int64_t n = std::min(block, end - begin), whole = (n + 3) / 4 * 4;
        std::uint32_t words[block];
        A values[block];
        for (std::int64_t i = 0; i < whole; i += 4) {
          const auto four = random_block(seed, stream, static_cast<std::uint64_t>(begin + i) / 4);
          std::copy_n(four.begin(), 4, words + i);
        }
        interpret(kind, words, p0, p1, values, whole);
        store(values, y, begin, 1, n);
      }
    });
  });
}

}  // namespace graft::cpu
