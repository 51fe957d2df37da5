// The kernels of dots.h over a kind of dot product: D<bits> has vectors of items and of sums for codes of so many bits. Included by
// one unit per instruction set, which is why everything is in an unnamed namespace.

#include "graft/quant/cpu/dots.h"
#include "graft/quant/cpu/kernels.inl"

namespace graft::quant {
namespace {

template <template <int> class D, int bits>
constexpr int items_per_word = Layout<bits>::rows_per_word / static_cast<int>(D<bits>::dot);

template <template <int> class D, int bits>
void unpack(const std::uint8_t* p, std::uint32_t* items) {
  using L = Layout<bits>;
  constexpr int width = D<bits>::V::width, count = items_per_word<D, bits>;
  for (std::int64_t r = 0; r < tile_rows; r += L::rows_per_word, items += count * tile_columns)
    for (std::int64_t c = 0; c < tile_columns; c += width, p += width * L::word_bytes) {
      const typename D<bits>::Words words = D<bits>::load(p);
      unroll<count>([&]<int j>() __attribute__((always_inline)) {
        D<bits>::store(items + j * tile_columns + c, D<bits>::template item<j>(words));
      });
    }
}

// y[M][ldy] += x W over one tile, whose codes are as they lie, or unpacked. `next` is the tile that follows, to be fetched. Rows of x are
// one item for each of the codes', or one for each digit.
template <template <int> class D, int bits, bool unpacked, int M, int digits = 1>
[[gnu::always_inline]] inline void multiply_tile(const Weights& w, const void* codes, const std::uint8_t* next, const DotInput& x,
                                                 std::int64_t row_tile, std::int64_t column, float* y, std::int64_t ldy) {
  using K = D<bits>;
  using V = typename K::V;
  using L = Layout<bits>;
  constexpr int width = V::width, most = static_cast<int>(tile_columns) / width, wanted = V::registers <= 16 && M > 2 ? 2 : 4;
  constexpr int vectors = wanted < most ? wanted : most, count = items_per_word<D, bits>, numbers = static_cast<int>(K::dot);
  constexpr int rows = M * digits, origin = digits > 1 ? digits_origin(bits) : K::origin;
  constexpr int chains = rows == 1 && count > 1 ? 2 : 1;  // of sums: one row alone would wait for each sum before the next
  const std::uint32_t* x_tile = x.items + row_tile * x.stride * digits * (tile_rows / numbers);
  for (std::int64_t c = 0; c < tile_columns; c += vectors * width)
    for (std::int32_t i = w.tiles[row_tile]; i < w.tiles[row_tile + 1]; ++i) {
      const Packed::Segment s = w.segments[i];
      typename K::Sum sums[chains][rows][vectors];
      for (auto& chain : sums)
        for (int m = 0; m < rows; ++m)
          for (auto& sum : chain[m]) {
            if constexpr (digits > 1) sum = K::start(x.starts[i * x.stride * digits + m]);
            else sum = K::zero();
          }
      const std::int64_t first = s.begin % tile_rows, skipped = first / L::rows_per_word * L::line_bytes + c * L::word_bytes;
      const auto* items = static_cast<const std::uint32_t*>(codes) + first / numbers * tile_columns + c;
      const std::uint8_t *p = nullptr, *ahead = nullptr;
      if constexpr (!unpacked) p = static_cast<const std::uint8_t*>(codes) + skipped, ahead = next + skipped;
      const std::uint32_t* xs = x_tile + first / numbers * rows;
      for (std::int32_t r = s.begin; r < s.end; r += L::rows_per_word) {
        typename K::Words words[vectors];
        if constexpr (!unpacked) {
          for (int v = 0; v < vectors; ++v) words[v] = K::load(p + v * width * L::word_bytes);
          for (std::int64_t b = 0; b < vectors * width * L::word_bytes; b += cache_line) __builtin_prefetch(ahead + b);
          p += L::line_bytes, ahead += L::line_bytes;
          if constexpr (V::registers > 16) asm("" ::: "memory");  // or g++ would read x too early, and run out of registers
        }
        unroll<count>([&]<int j>() __attribute__((always_inline)) {
          typename K::Item q[vectors];
          for (int v = 0; v < vectors; ++v) {
            if constexpr (unpacked) q[v] = K::load_items(items + v * width);
            else q[v] = K::template item<j>(words[v]);
          }
          items += tile_columns;
          for (int m = 0; m < rows; ++m) {
            std::uint32_t item;
            __builtin_memcpy(&item, xs++, sizeof item);  // written as smaller numbers
            const typename K::Item x_m = K::set(item);
            for (int v = 0; v < vectors; ++v) sums[j % chains][m][v] = K::sum(sums[j % chains][m][v], q[v], x_m);
          }
        });
      }
      // Σ w x = scale · factor · Σ (code − origin) x + offset · Σ x.
#pragma GCC unroll 8  // or the sums would go through memory
      for (int v = 0; v < vectors; ++v) {
        const std::int64_t at = s.group * w.columns + column + c + v * width;
        const typename V::Reg scale = V::load(w.scales + at), shift = offset<V>(w, origin, scale, V::load(w.zeros + at));
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          typename V::Reg sum = K::value(sums[0][m * digits + digits - 1][v]);
          if constexpr (chains == 2) sum = V::add(sum, K::value(sums[1][m][v]));
#pragma GCC unroll 8
          for (int d = digits - 2; d >= 0; --d) sum = V::fma(sum, V::set(0x1p-8f), K::value(sums[0][m * digits + d][v]));
          if constexpr (K::dot == Dot::int8) sum = V::mul(sum, V::set(x.factors[i * x.stride + m]));
          float* to = y + m * ldy + c + v * width;
          V::store(to, V::fma(scale, sum, V::fma(shift, V::set(x.sums[i * x.stride + m]), V::load(to))));
        }
      }
    }
}

template <template <int> class D, int bits, int M = dot_rows, int digits = 1>
void packed(const Weights& w, const DotInput& x, std::int64_t tile, std::int64_t tiles, float* y) {
  if constexpr (M > 1)
    if (x.m < M) return packed<D, bits, M - 1, digits>(w, x, tile, tiles, y);
  using V = typename D<bits>::V;
  using L = Layout<bits>;
  const std::int64_t ldy = tiles * tile_columns;
  for (std::int64_t i = 0; i < M * ldy; i += V::width) V::store(y + i, V::zero());
  for (std::int64_t t = 0; t < w.row_tiles; ++t)
    for (std::int64_t c = tile; c < tile + tiles; ++c)
      multiply_tile<D, bits, false, M, digits>(w, L::tile(w, t, c), L::next(w, t, c, tile, tiles), x, t, c * tile_columns,
                                       y + (c - tile) * tile_columns, ldy);
}

template <template <int> class D, int bits, int M = dot_rows>
void unpacked(const Weights& w, const std::uint32_t* items, const DotInput& x, std::int64_t row_tile, std::int64_t column, float* y,
              std::int64_t ldy) {
  if constexpr (M > 1)
    if (x.m < M) return unpacked<D, bits, M - 1>(w, items, x, row_tile, column, y, ldy);
  multiply_tile<D, bits, true, M>(w, items, nullptr, x, row_tile, column, y, ldy);
}

template <template <int> class D, int bits>
constexpr DotKernels dot_kernels_of() {
  DotKernels kernels{packed<D, bits>, unpack<D, bits>, unpacked<D, bits>};
  if constexpr (D<bits>::takes_digits) {
    constexpr int of_bf16 = most_rows_of_digits(bits, bf16_digits), of_f32 = most_rows_of_digits(bits, f32_digits);
    if constexpr (of_bf16 > 0) kernels.bf16_digits_packed = packed<D, bits, of_bf16, bf16_digits>;
    if constexpr (of_f32 > 0) kernels.f32_digits_packed = packed<D, bits, of_f32, f32_digits>;
  }
  return kernels;
}

template <template <int> class D>
constexpr DotUnit dot_unit_of() {
  return {dot_kernels_of<D, 2>(), dot_kernels_of<D, 3>(), dot_kernels_of<D, 4>(), dot_kernels_of<D, 8>()};
}

}  // namespace
}  // namespace graft::quant
