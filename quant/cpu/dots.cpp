#include "graft/quant/cpu/dots.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "graft/core/parallel.h"
#include "graft/quant/cpu/low_rank.h"
#include "graft/quant/cpu/passes.h"

namespace graft::quant {
namespace {

// Weights per task, as often as passes go over them: some tens of microseconds, so that a delayed thread costs little.
constexpr std::int64_t task_weights = std::int64_t{1} << 20;
// Passes that share an unpacked tile: their sums over a tile's columns (150 KB) stay in the second-level cache.
constexpr std::int64_t task_passes = 96;

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Activations of a segment, a whole number of units, as the numbers of items, with what the segment's sums need besides.
struct Halves {
  using Number = bf16;
  static void encode(const float* x, std::int64_t n, float&, float& total, bf16* numbers) {
    for (std::int64_t i = 0; i < n; ++i)  // exactly: they were bf16 before they were read
      numbers[i].bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x[i]) >> 16);
    total = sum(x, n);
  }
};

struct Bytes {
  using Number = std::int8_t;
  // The largest becomes ±127. A segment that is not finite has a factor that is not a number, and makes such results.
  static void encode(const float* x, std::int64_t n, float& factor, float& sum, std::int8_t* numbers) {
    float largest = 0;
    bool finite = true;
    for (std::int64_t i = 0; i < n; ++i) {
      largest = std::max(largest, std::abs(x[i]));
      finite = finite && std::isfinite(x[i]);
    }
    factor = largest / 127;
    const bool zero = !finite || factor == 0;
    constexpr float rounds = 0x1.8p23f;  // added to a number below 2^22 it leaves an integer, to nearest even
    int total = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const int number = zero ? 0 : static_cast<int>(std::clamp(x[i] / factor, -127.0f, 127.0f) + rounds - rounds);
      numbers[i] = static_cast<std::int8_t>(number);
      total += number;
    }
    if (!finite) factor = std::numeric_limits<float>::quiet_NaN();
    sum = factor * static_cast<float>(total);
  }
};

// Everything that passes read, of all of them: items by tile, so that the passes over one read on where the last one stopped, and what
// belongs to segments by segment.
template <class Kind, Dot dot>
class Input {
 public:
  Input(const Problem& problem, const std::vector<Pass>& passes)
      : weight_(problem.weight),
        m_(problem.m()),
        items_(m_ * weight_.row_tiles() * tile_items),
        factors_(m_ * static_cast<std::int64_t>(weight_.segments.size())),
        sums_(m_ * static_cast<std::int64_t>(weight_.segments.size())) {
    const std::int64_t grain = std::max<std::int64_t>(1, (std::int64_t{1} << 15) / (dot_rows * weight_.rows));
    parallel_ranges(static_cast<std::int64_t>(passes.size()), grain, [&](std::int64_t begin, std::int64_t end) {
      dispatch(problem.x.dtype, FloatingTypes{}, "quantized product", [&]<class From>() {
        for (std::int64_t i = begin; i < end; ++i) fill<From>(problem.x, passes[static_cast<std::size_t>(i)]);
      });
    });
  }

  DotInput of(const Pass& pass) const {
    return {items_.get() + pass.begin * tile_items, factors_.get() + pass.begin, sums_.get() + pass.begin, m_, pass.count};
  }

 private:
  static constexpr int numbers = static_cast<int>(dot);
  static constexpr std::int64_t tile_items = Packed::tile_rows / numbers;

  template <class From>
  void fill(const View& x, const Pass& pass) const {
    for (int m = 0; m < pass.count; ++m)
      for (std::size_t s = 0; s < weight_.segments.size(); ++s) {
        const Packed::Segment& segment = weight_.segments[s];
        const std::int64_t n = segment.end - segment.begin, at = static_cast<std::int64_t>(s) * m_ + pass.begin + m;
        float values[Packed::tile_rows];
        typename Kind::Number encoded[Packed::tile_rows];
        gather(weight_, x.as<From>() + (pass.begin + m) * x.strides[0], x.strides[1], segment, values);
        Kind::encode(values, n, factors_.get()[at], sums_.get()[at], encoded);
        std::uint32_t* to = items_.get() + (segment.begin / Packed::tile_rows * m_ + pass.begin) * tile_items +
                            segment.begin % Packed::tile_rows / numbers * pass.count + m;
        switch (Packed::rows_per_word(weight_.bits)) {
          case 4: interleave<4>(encoded, n, to, pass.count); break;
          case 8: interleave<8>(encoded, n, to, pass.count); break;
          default: interleave<16>(encoded, n, to, pass.count);
        }
      }
  }

  // n numbers as items, `stride` apart.
  template <int per_word>
  static void interleave(const typename Kind::Number* from, std::int64_t n, std::uint32_t* to, int stride) {
    for (std::int64_t i = 0; i < n; i += per_word)
      for (int item = 0; item < per_word / numbers; ++item, to += stride) {
        typename Kind::Number parts[numbers];
        for (int part = 0; part < numbers; ++part) parts[part] = from[i + row_in_word(per_word, dot, item, part)];
        std::memcpy(to, parts, sizeof parts);
      }
  }

  const Packed& weight_;
  std::int64_t m_;
  cpu::Scratch<std::uint32_t> items_;
  cpu::Scratch<float> factors_, sums_;
};

template <class Kind, Dot dot>
void run(const Problem& problem, const DotKernels& kernels, const LowRankPanels<float>& terms, bool unpacked) {
  const Packed& weight = problem.weight;
  const Weights plain = weights(weight);
  const std::vector<Pass> all = passes(problem.m(), dot_rows);
  const Input<Kind, dot> input(problem, all);
  std::vector<float> bias;
  const cpu::Target<float> to = target<float>(problem, bias);

  const auto count = static_cast<std::int64_t>(all.size()), rounds = divide_up(count, task_passes);
  const std::int64_t tile_bytes = Packed::tile_bytes(weight.bits);
  const std::int64_t tiles = tiles_per_task(weight, task_weights / divide_up(count, rounds), all.size());
  const std::int64_t column_tasks = divide_up(weight.column_tiles(), tiles);
  parallel_for(rounds * column_tasks, [&](std::int64_t task) {
    const std::int64_t round = task / column_tasks, first_tile = task % column_tasks * tiles;
    const std::span<const Pass> own(all.begin() + round * count / rounds, all.begin() + (round + 1) * count / rounds);
    const std::int64_t row = own.front().begin, rows = own.back().begin + own.back().count - row;
    const std::int64_t last_tile = std::min(first_tile + tiles, weight.column_tiles());
    const std::int64_t together = unpacked ? 1 : last_tile - first_tile;
    const std::int64_t columns = together * Packed::tile_columns;
    const cpu::Scratch<float> y(rows * columns);
    const cpu::Scratch<std::uint32_t> items(unpacked ? Packed::tile_rows / static_cast<int>(dot) * Packed::tile_columns : 0);
    for (std::int64_t c = first_tile; c < last_tile; c += together) {
      const std::int64_t column = c * Packed::tile_columns;
      if (unpacked) {
        std::fill_n(y.get(), rows * columns, 0.0f);
        const std::uint8_t* tile = plain.codes + c * tile_bytes;
        for (std::int64_t t = 0; t < weight.row_tiles(); ++t) {
          kernels.unpack(tile, items.get());
          tile += weight.column_tiles() * tile_bytes;
          for (const Pass& pass : own) {
            // A part of the next tile, which lies far from this one. All of it at once would wait for the last-level cache.
            const std::int64_t lines = tile_bytes / 64, begin = (pass.begin - row) * lines / rows;
            for (std::int64_t i = begin; i < (pass.begin - row + pass.count) * lines / rows; ++i)
              __builtin_prefetch(tile + i * 64);
            kernels.unpacked(plain, items.get(), input.of(pass), t, column, y.get() + (pass.begin - row) * columns, columns);
          }
        }
      } else {
        for (const Pass& pass : own) kernels.packed(plain, input.of(pass), c, together, y.get() + (pass.begin - row) * columns);
      }
      terms.add(row, rows, column, columns, y.get(), columns);
      cpu::write(to, row, column, rows, std::min(columns, weight.out - column), y.get(), columns);
    }
  });
}

}  // namespace

const DotKernels* dot_kernels(Dot dot, Isa isa, int bits) {
  const bool bytes = dot == Dot::int8;
  const DotUnit* unit = isa == Isa::avx512_dot ? (bytes ? int8_dots_avx512_dot() : bf16_dots_avx512_dot())
                        : !bytes               ? nullptr
                        : isa == Isa::avx2     ? int8_dots_avx2()
                        : isa == Isa::scalar   ? int8_dots_scalar()
                                               : nullptr;
  if (!unit) return nullptr;
  return bits == 2 ? &unit->bits2 : bits == 3 ? &unit->bits3 : bits == 4 ? &unit->bits4 : &unit->bits8;
}

void run_dots(const Problem& problem, Dot dot, Isa isa, bool unpacked) {
  const DotKernels& kernels = *dot_kernels(dot, isa, problem.weight.bits);
  const LowRankPanels<float> terms(cpu::gemm_kernels<float>(isa), problem);
  if (dot == Dot::bf16) run<Halves, Dot::bf16>(problem, kernels, terms, unpacked);
  else run<Bytes, Dot::int8>(problem, kernels, terms, unpacked);
}

}  // namespace graft::quant
