#include "graft/quant/cpu/dots.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

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
  static void encode(const float* x, std::int64_t n, float&, float& sum, bf16* numbers) {
    constexpr int lanes = 8;  // added up side by side
    double sums[lanes] = {};
    for (std::int64_t i = 0; i < n; i += lanes)
      for (int l = 0; l < lanes; ++l) sums[l] += x[i + l];
    for (std::int64_t i = 0; i < n; ++i) numbers[i] = bf16(x[i]);  // which it was before it was read
    sum = static_cast<float>(std::accumulate(sums, sums + lanes, 0.0));
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

// Everything that passes read, of all of them: pass by pass as in DotInput.
template <class Kind, Dot dot>
class Input {
 public:
  Input(const Problem& problem, const std::vector<Pass>& passes)
      : weight_(problem.weight),
        segments_(static_cast<std::int64_t>(weight_.segments.size())),
        items_(problem.m() * weight_.rows / numbers),
        factors_(problem.m() * segments_),
        sums_(problem.m() * segments_) {
    const std::int64_t grain = std::max<std::int64_t>(1, (std::int64_t{1} << 15) / (dot_rows * weight_.rows));
    parallel_ranges(static_cast<std::int64_t>(passes.size()), grain, [&](std::int64_t begin, std::int64_t end) {
      dispatch(problem.x.dtype, FloatingTypes{}, "quantized product", [&]<class From>() {
        for (std::int64_t i = begin; i < end; ++i) fill<From>(problem.x, passes[static_cast<std::size_t>(i)]);
      });
    });
  }

  DotInput of(const Pass& pass) const {
    return {items_.get() + pass.begin * weight_.rows / numbers, factors_.get() + pass.begin * segments_,
            sums_.get() + pass.begin * segments_, pass.count};
  }

 private:
  static constexpr int numbers = static_cast<int>(dot);

  template <class From>
  void fill(const View& x, const Pass& pass) const {
    const int per_word = static_cast<int>(Packed::rows_per_word(weight_.bits));
    auto* to = reinterpret_cast<typename Kind::Number*>(items_.get() + pass.begin * weight_.rows / numbers);
    for (int m = 0; m < pass.count; ++m) {
      std::int64_t places[Packed::unit] = {};  // in the items of a word, of its rows
      for (int item = 0; item < per_word / numbers; ++item)
        for (int part = 0; part < numbers; ++part)
          places[row_in_word(weight_.bits, dot, item, part)] = (item * pass.count + m) * numbers + part;
      for (std::int64_t s = 0; s < segments_; ++s) {
        const Packed::Segment& segment = weight_.segments[static_cast<std::size_t>(s)];
        const std::int64_t n = segment.end - segment.begin, at = pass.begin * segments_ + s * pass.count + m;
        float values[Packed::tile_rows];
        typename Kind::Number encoded[Packed::tile_rows];
        gather(x.as<From>() + (pass.begin + m) * x.strides[0], x.strides[1], segment, values);
        Kind::encode(values, n, factors_.get()[at], sums_.get()[at], encoded);
        for (std::int64_t i = 0; i < n; i += per_word)
          for (int row = 0; row < per_word; ++row) to[(segment.begin + i) * pass.count + places[row]] = encoded[i + row];
      }
    }
  }

  // The channels of a segment out of a row of activations, zeros for filling.
  template <class From>
  void gather(const From* row, std::int64_t stride, const Packed::Segment& segment, float* values) const {
    const std::int64_t n = segment.end - segment.begin;
    if (weight_.order.empty()) {
      const std::int64_t real = std::clamp<std::int64_t>(weight_.in - segment.begin, 0, n);
      row += segment.begin * stride;
      for (std::int64_t i = 0; i < real; ++i) values[i] = static_cast<float>(row[i * stride]);
      std::fill(values + real, values + n, 0.0f);
      return;
    }
    const std::int32_t* order = weight_.order.data() + segment.begin;
    for (std::int64_t i = 0; i < n; ++i) values[i] = order[i] < 0 ? 0.0f : static_cast<float>(row[order[i] * stride]);
  }

  const Packed& weight_;
  std::int64_t segments_;
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
  const std::int64_t tile_bytes = Packed::tile_bytes(weight.bits), weights = weight.rows * Packed::tile_columns;
  const std::int64_t tiles =
      std::clamp<std::int64_t>(task_weights / (weights * divide_up(count, rounds)), 1, weight.column_tiles());
  const std::int64_t column_tasks = divide_up(weight.column_tiles(), tiles);
  parallel_for(rounds * column_tasks, [&](std::int64_t task) {
    const std::int64_t round = task / column_tasks, first_pass = round * count / rounds, last_pass = (round + 1) * count / rounds;
    const std::int64_t first_tile = task % column_tasks * tiles, last_tile = std::min(first_tile + tiles, weight.column_tiles());
    const Pass& last = all[static_cast<std::size_t>(last_pass - 1)];
    const std::int64_t row = all[static_cast<std::size_t>(first_pass)].begin, rows = last.begin + last.count - row;
    const std::int64_t column = first_tile * Packed::tile_columns, columns = (last_tile - first_tile) * Packed::tile_columns;
    const cpu::Scratch<float> y(rows * columns);
    const cpu::Scratch<std::uint32_t> items(unpacked ? Packed::tile_rows / static_cast<int>(dot) * Packed::tile_columns : 0);
    std::fill_n(y.get(), rows * columns, 0.0f);
    for (std::int64_t t = 0; t < weight.row_tiles(); ++t)
      for (std::int64_t c = first_tile; c < last_tile; ++c) {
        const std::uint8_t* tile = plain.codes + (t * weight.column_tiles() + c) * tile_bytes;
        const std::uint8_t* next = c + 1 < last_tile ? tile + tile_bytes
                                   : t + 1 < weight.row_tiles()
                                       ? plain.codes + ((t + 1) * weight.column_tiles() + first_tile) * tile_bytes
                                       : tile;
        if (unpacked) kernels.unpack(tile, items.get());
        for (std::int64_t i = first_pass; i < last_pass; ++i) {
          const Pass& pass = all[static_cast<std::size_t>(i)];
          (unpacked ? kernels.unpacked : kernels.packed)(
              plain, unpacked ? static_cast<const void*>(items.get()) : tile, next, input.of(pass), t, c * Packed::tile_columns,
              y.get() + (pass.begin - row) * columns + (c - first_tile) * Packed::tile_columns, columns);
        }
      }
    terms.add(row, rows, column, columns, y.get(), columns);
    cpu::write(to, row, column, rows, std::min(columns, weight.out - column), y.get(), columns);
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
