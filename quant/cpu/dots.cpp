#include "graft/quant/cpu/dots.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
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

// Activations of a segment, a whole number of units, as the numbers of items, with what the segment's sums need besides: a factor, which is
// not a number where there are no such numbers.
struct Halves {
  using Number = bf16;
  static constexpr Dot dot = Dot::bf16;
  static constexpr int digits = 1;
  // The factor says no more than whether sums have room.
  static void encode(const float* x, std::int64_t n, float& factor, float& total, bf16 (*numbers)[Packed::tile_rows]) {
    for (std::int64_t i = 0; i < n; ++i)  // exactly: they were bf16 before they were read
      numbers[0][i].bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x[i]) >> 16);
    total = sum(x, n);
    factor = have_room(x, n) ? 1 : std::numeric_limits<float>::quiet_NaN();
  }
};

struct Bytes {
  using Number = std::int8_t;
  static constexpr Dot dot = Dot::int8;
  static constexpr int digits = 1;
  // The largest becomes ±127. What is not finite makes results that are not numbers.
  static void encode(const float* x, std::int64_t n, float& factor, float& sum, std::int8_t (*numbers)[Packed::tile_rows]) {
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
      numbers[0][i] = static_cast<std::int8_t>(number);
      total += number;
    }
    if (!finite) factor = std::numeric_limits<float>::quiet_NaN();
    sum = factor * static_cast<float>(total);
  }
};

// Integers of so many bytes. The unit is a power of two for which the largest leaves two bits free: what is exact with it stays so, and
// others lose half a unit, 2^-22 (three bytes) or 2^-30 of the largest. A byte is a digit from −128 to 127, the first the highest.
// Products with codes are then sums of integers.
template <int count>
struct Digits {
  using Number = std::int8_t;
  static constexpr Dot dot = Dot::int8;
  static constexpr int digits = count;
  // The factor is the highest digit's. There are no such integers for what is not finite, where sums would have no room, and where all is
  // so small that the unit would be near the subnormal ones.
  static void encode(const float* x, std::int64_t n, float& factor, float& sum, std::int8_t (*numbers)[Packed::tile_rows]) {
    constexpr int least = -90, most = 100, highest = 8 * count - 3;
    const auto power = [](int exponent) { return std::bit_cast<float>((127 + exponent) << 23); };
    std::int32_t largest = 0;  // of positive floats, as their bits are ordered
    for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<std::int32_t>(x[i]) & 0x7fffffff);
    const int exponent = largest == 0 ? 0 : (largest >> 23) - 127;
    if (exponent > most || exponent < least) {
      factor = std::numeric_limits<float>::quiet_NaN(), sum = 0;
      std::fill_n(numbers[0], count * Packed::tile_rows, Number{0});
      return;
    }
    const float units = power(highest - exponent);
    constexpr auto middle = static_cast<std::int32_t>(0x80808080u >> (8 * (5 - count)));  // 128 for each digit but the highest
    std::int64_t total = 0;
    std::int32_t bytes[Packed::tile_rows];
    for (std::int64_t i = 0; i < n; ++i) {
      // To nearest even: added to a number that is small enough, these leave an integer at the end of the mantissa.
      std::int32_t number;
      if constexpr (highest < 22)
        number = std::bit_cast<std::int32_t>(x[i] * units + 0x1.8p23f) - std::bit_cast<std::int32_t>(0x1.8p23f);
      else number = static_cast<std::int32_t>(std::bit_cast<std::int64_t>(static_cast<double>(x[i] * units) + 0x1.8p52));
      total += number;
      bytes[i] = (number + middle) ^ middle;
    }
    for (int d = 0; d < count; ++d)
      for (std::int64_t i = 0; i < n; ++i) numbers[d][i] = static_cast<std::int8_t>(bytes[i] >> (8 * (count - 1 - d)));
    sum = static_cast<float>(static_cast<double>(total) / units);
    factor = power(exponent - highest + 8 * (count - 1));
  }
};

// Everything that passes read, of all of them: items by tile, so that the passes over one read on where the last one stopped, and what
// belongs to segments by segment.
template <class Kind>
class Input {
 public:
  Input(const Problem& problem, const std::vector<Pass>& passes)
      : weight_(problem.weight),
        m_(problem.m()),
        items_(m_ * digits * weight_.row_tiles() * tile_items),
        starts_(digits > 1 ? m_ * digits * static_cast<std::int64_t>(weight_.segments.size()) : 0),
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
    return {items_.get() + pass.begin * digits * tile_items,
            factors_.get() + pass.begin,
            sums_.get() + pass.begin,
            starts_.get() + pass.begin * digits,
            m_,
            pass.count};
  }

  /// Whether all factors are numbers.
  bool has_factors() const {
    return std::none_of(factors_.get(), factors_.get() + m_ * static_cast<std::int64_t>(weight_.segments.size()),
                        [](float factor) { return std::isnan(factor); });
  }

 private:
  static constexpr int numbers = static_cast<int>(Kind::dot), digits = Kind::digits;
  static constexpr std::int64_t tile_items = Packed::tile_rows / numbers;

  template <class From>
  void fill(const View& x, const Pass& pass) const {
    for (int m = 0; m < pass.count; ++m)
      for (std::size_t s = 0; s < weight_.segments.size(); ++s) {
        const Packed::Segment& segment = weight_.segments[s];
        const std::int64_t n = segment.end - segment.begin, at = static_cast<std::int64_t>(s) * m_ + pass.begin + m;
        float values[Packed::tile_rows];
        typename Kind::Number encoded[digits][Packed::tile_rows];
        gather(weight_, x.as<From>() + (pass.begin + m) * x.strides[0], x.strides[1], segment, values);
        Kind::encode(values, n, factors_.get()[at], sums_.get()[at], encoded);
        std::uint32_t* to = items_.get() + (segment.begin / Packed::tile_rows * m_ + pass.begin) * digits * tile_items +
                            (segment.begin % Packed::tile_rows / numbers * pass.count + m) * digits;
        for (int d = 0; d < digits; ++d, ++to) {
          switch (Packed::rows_per_word(weight_.bits)) {
            case 4: interleave<4>(encoded[d], n, to, pass.count * digits); break;
            case 8: interleave<8>(encoded[d], n, to, pass.count * digits); break;
            default: interleave<16>(encoded[d], n, to, pass.count * digits);
          }
          if constexpr (digits > 1)
            starts_.get()[at * digits + d] =
                static_cast<std::uint32_t>(-digits_origin(weight_.bits) * std::accumulate(encoded[d], encoded[d] + n, 0));
        }
      }
  }

  // n numbers as items, `stride` apart.
  template <int per_word>
  static void interleave(const typename Kind::Number* from, std::int64_t n, std::uint32_t* to, int stride) {
    for (std::int64_t i = 0; i < n; i += per_word)
      for (int item = 0; item < per_word / numbers; ++item, to += stride) {
        typename Kind::Number parts[numbers];
        for (int part = 0; part < numbers; ++part) parts[part] = from[i + row_in_word(per_word, Kind::dot, item, part)];
        std::memcpy(to, parts, sizeof parts);
      }
  }

  const Packed& weight_;
  std::int64_t m_;
  cpu::Scratch<std::uint32_t> items_, starts_;
  cpu::Scratch<float> factors_, sums_;
};

// By the kernels for unpacked tiles, or by `packed`.
template <class Kind>
void run(const Problem& problem, const DotKernels& kernels, PackedProduct packed, const std::vector<Pass>& all,
         const Input<Kind>& input, const LowRankPanels<float>& terms) {
  const Packed& weight = problem.weight;
  const Weights plain = weights(weight);
  const bool unpacked = packed == nullptr;
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
    const cpu::Scratch<std::uint32_t> items(unpacked ? Packed::tile_rows / static_cast<int>(Kind::dot) * Packed::tile_columns
                                                     : 0);
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
        for (const Pass& pass : own) packed(plain, input.of(pass), c, together, y.get() + (pass.begin - row) * columns);
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
  const std::vector<Pass> all = passes(problem.m(), dot_rows);
  const auto run_as = [&]<class Kind>(Kind) {
    const Input<Kind> input(problem, all);
    if (Kind::dot == Dot::bf16 && !input.has_factors()) return run_panels(problem, isa);
    run<Kind>(problem, kernels, unpacked ? nullptr : kernels.packed, all, input,
              LowRankPanels<float>(cpu::gemm_kernels<float>(isa), problem));
  };
  if (dot == Dot::bf16) run_as(Halves{});
  else run_as(Bytes{});
}

PackedProduct digits_kernel(const Problem& problem, Isa isa) {
  const int bits = problem.weight.bits, digits = problem.x.dtype == DType::bf16 ? bf16_digits : f32_digits;
  const DotKernels* kernels = dot_kernels(Dot::int8, isa, bits);
  if (!kernels || problem.m() > most_rows_of_digits(bits, digits)) return nullptr;
  return digits == bf16_digits ? kernels->bf16_digits_packed : kernels->f32_digits_packed;
}

void run_digits(const Problem& problem, Isa isa) {
  const DotKernels& kernels = *dot_kernels(Dot::int8, isa, problem.weight.bits);
  const std::vector<Pass> all{{0, static_cast<int>(problem.m())}};
  const auto run_as = [&]<class Kind>(Kind) {
    const Input<Kind> input(problem, all);
    if (!input.has_factors()) return run_panels(problem, isa);
    run<Kind>(problem, kernels, digits_kernel(problem, isa), all, input,
              LowRankPanels<float>(cpu::gemm_kernels<float>(isa), problem));
  };
  if (problem.x.dtype == DType::bf16) run_as(Digits<bf16_digits>{});
  else run_as(Digits<f32_digits>{});
}

}  // namespace graft::quant
