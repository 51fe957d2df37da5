// The kernels of units.h over a vector type V (core/cpu/simd_*.h) and its codes C (codes_*.h). Included by one unit per instruction
// set, which is why everything is in an unnamed namespace: each unit keeps its own copy.

#include "graft/quant/cpu/units.h"

namespace graft::quant {
namespace {

// Calls f<0>() … f<N − 1>(): positions inside a word are part of the instruction.
template <int N, int I = 0, class F>
[[gnu::always_inline]] inline void unroll(F&& f) {
  if constexpr (I < N) {
    f.template operator()<I>();
    unroll<N, I + 1>(f);
  }
}

constexpr std::int64_t tile_rows = Packed::tile_rows, tile_columns = Packed::tile_columns;
constexpr std::int64_t cache_line = 64;  // bytes

template <int bits>
struct Layout {
  static constexpr int rows_per_word = Packed::rows_per_word(bits);
  static constexpr std::int64_t word_bytes = Packed::bytes_per_word(bits),
                                line_bytes = tile_columns * word_bytes;  // a line: one word of each column
  static constexpr std::int64_t tile_bytes = Packed::tile_bytes(bits);
  static constexpr int centre = 1 << (bits - 1);

  static const std::uint8_t* tile(const Weights& w, std::int64_t row_tile, std::int64_t column_tile) {
    return w.codes + (row_tile * w.column_tiles + column_tile) * tile_bytes;
  }
  /// The tile after that one, when column tiles [first, first + count) are gone through row by row; the last is its own.
  static const std::uint8_t* next(const Weights& w, std::int64_t row_tile, std::int64_t column_tile, std::int64_t first,
                                  std::int64_t count) {
    return column_tile + 1 < first + count ? tile(w, row_tile, column_tile + 1)
           : row_tile + 1 < w.row_tiles    ? tile(w, row_tile + 1, first)
                                           : tile(w, row_tile, column_tile);
  }
  /// The words that hold (row, column) and its neighbours; row is the first of its word.
  static const std::uint8_t* words(const Weights& w, std::int64_t row, std::int64_t column) {
    return tile(w, row / tile_rows, column / tile_columns) + row % tile_rows / rows_per_word * line_bytes +
           column % tile_columns * word_bytes;
  }
  /// The word of one of the columns whose words begin at p; of the last of them, nothing behind its word is read.
  template <int column, int columns>
  [[gnu::always_inline]] static std::uint32_t word(const std::uint8_t* p) {
    constexpr int early = word_bytes == 3 && column == columns - 1;
    std::uint32_t word;
    __builtin_memcpy(&word, p + column * word_bytes - early, sizeof word);
    return word >> (8 * early);
  }
};

// ---- panels ----

// Scales and zeros of a tile lie apart from its codes, those of the next row of tiles beyond the reach of the processor's own prefetching.
[[gnu::always_inline]] inline void prefetch_scales(const Weights& w, std::int64_t row_tile, std::int64_t column) {
  if (row_tile >= w.row_tiles) return;
  const std::int64_t first = w.segments[w.tiles[row_tile]].group * w.columns + column;
  for (std::int64_t i = first; i < first + tile_columns; i += cache_line / std::int64_t{sizeof(float)}) {
    __builtin_prefetch(w.scales + i);
    __builtin_prefetch(w.zeros + i);
  }
}

// scale · (code − zero) or scale · code + zero, as plain f32 arithmetic has it.
template <class V, bool affine>
[[gnu::always_inline]] inline typename V::Reg weight(typename V::Reg code, typename V::Reg scale, typename V::Reg zero) {
  if constexpr (affine) return V::fma(code, scale, zero);
  else return V::mul(scale, V::sub(code, zero));
}

// Rows of one segment, Vectors vectors of columns side by side.
template <class V, template <int> class C, int bits, bool affine, int Vectors>
[[gnu::always_inline]] inline void forward_panel_segment(const Weights& w, std::int32_t group, std::int64_t row, std::int64_t end,
                                                         std::int64_t depth, std::int64_t column, int lanes, float* panel) {
  using L = Layout<bits>;
  typename V::Reg scale[Vectors], zero[Vectors];
  for (int v = 0; v < Vectors; ++v) {
    scale[v] = V::load(w.scales + group * w.columns + column + v * V::width);
    zero[v] = V::load(w.zeros + group * w.columns + column + v * V::width);
  }
  const std::uint8_t* p = L::words(w, row, column);
  for (std::int64_t r = row; r < end; r += L::rows_per_word, p += L::line_bytes) {
    typename C<bits>::Words words[Vectors];
    for (int v = 0; v < Vectors; ++v) words[v] = C<bits>::load(p + v * V::width * L::word_bytes);
    // The panel below this one comes after the few beside it, the next lines at once.
    const std::uint8_t* below = r + depth < w.rows ? L::words(w, r + depth, column) : p;
    for (std::int64_t byte = 0; byte < Vectors * V::width * L::word_bytes; byte += cache_line) {
      __builtin_prefetch(below + byte);
      __builtin_prefetch(p + 2 * L::line_bytes + byte);
    }
    unroll<L::rows_per_word>([&]<int j>() __attribute__((always_inline)) {
      const typename C<bits>::template Field<j, 0> code;
      for (int v = 0; v < Vectors; ++v) V::store(panel + v * V::width, weight<V, affine>(code(words[v]), scale[v], zero[v]));
      panel += lanes;
    });
  }
}

template <class V, template <int> class C, int bits, bool affine>
void forward_panel_of(const Weights& w, std::int64_t row, std::int64_t depth, std::int64_t column, int lanes, float* panel) {
  constexpr int vectors = 16 / V::width > 2 ? 1 : 2;
  const std::int64_t last = row + depth;
  for (std::int64_t r = last; r < last + depth; r += tile_rows) prefetch_scales(w, r / tile_rows, column);
  for (const Packed::Segment* s = w.segments + w.tiles[row / tile_rows]; row < last; ++s) {
    if (s->end <= row) continue;
    const std::int64_t end = s->end < last ? s->end : last;
    for (int l = 0; l < lanes; l += vectors * V::width)
      forward_panel_segment<V, C, bits, affine, vectors>(w, s->group, row, end, depth, column + l, lanes, panel + l);
    panel += (end - row) * lanes;
    row = end;
  }
}

template <class V, template <int> class C, int bits, bool affine>
void backward_panel_of(const Weights& w, std::int64_t column, std::int64_t depth, std::int64_t row, int lanes, float* panel) {
  using L = Layout<bits>;
  constexpr int unit = Packed::unit, lines = unit / L::rows_per_word, columns = 8;
  for (int u = 0; u < lanes; u += unit) {
    if (row + u >= w.rows) {
      for (std::int64_t d = 0; d < depth; ++d)
        for (int l = u; l < lanes; l += V::width) V::store(panel + d * lanes + l, V::zero());
      return;
    }
    const Packed::Segment* s = w.segments + w.tiles[(row + u) / tile_rows];
    while (s->end <= row + u) ++s;
    const float* scales = w.scales + s->group * w.columns + column;
    const float* zeros = w.zeros + s->group * w.columns + column;
    for (std::int64_t d = 0; d < depth; d += columns) {
      const std::uint8_t* p = L::words(w, row + u, column + d);
      for (int i = 0; i < lines; ++i) __builtin_prefetch(p + (lines + i) * L::line_bytes);  // of the panel after this one
      const int kept = depth - d < columns ? static_cast<int>(depth - d) : columns;
      unroll<columns>([&]<int i>() __attribute__((always_inline)) {
        if (i >= kept) return;
        const typename V::Reg scale = V::set(scales[d + i]), zero = V::set(zeros[d + i]);
        const auto word = [&](int line) __attribute__((always_inline)) {
          return L::template word<i, columns>(p + line * L::line_bytes);
        };
        float* to = panel + (d + i) * lanes + u;
        unroll<unit / V::width>([&]<int part>() __attribute__((always_inline)) {
          V::store(to + part * V::width,
                   weight<V, affine>(C<bits>::template rows<part * V::width, L::rows_per_word>(word), scale, zero));
        });
      });
    }
  }
}

template <class V, template <int> class C, int bits>
void forward_panel(const Weights& w, std::int64_t row, std::int64_t depth, std::int64_t column, int lanes, float* panel) {
  if (w.affine) forward_panel_of<V, C, bits, true>(w, row, depth, column, lanes, panel);
  else forward_panel_of<V, C, bits, false>(w, row, depth, column, lanes, panel);
}

template <class V, template <int> class C, int bits>
void backward_panel(const Weights& w, std::int64_t column, std::int64_t depth, std::int64_t row, int lanes, float* panel) {
  if (w.affine) backward_panel_of<V, C, bits, true>(w, column, depth, row, lanes, panel);
  else backward_panel_of<V, C, bits, false>(w, column, depth, row, lanes, panel);
}

// ---- fused ----

// Fused kernels sum codes less an origin, and put scale and zero beside the sum once per segment:
// Σ w x = scale · Σ (code − origin) x + offset · Σ x, with this offset.
template <class V>
[[gnu::always_inline]] inline typename V::Reg offset(const Weights& w, int origin, typename V::Reg scale, typename V::Reg zero) {
  const typename V::Reg at = V::set(static_cast<float>(origin));
  return w.affine ? V::fma(scale, at, zero) : V::mul(scale, V::sub(at, zero));
}

// One or two rows spend more on unpacking than on sums; for them codes come as multiples of powers of two (SumField), and x is
// divided by those beforehand. More rows hide the unpacking, and take codes from the middle of their range, which keeps sums small.
template <template <int> class C, int bits, int M>
struct Fused {
  static constexpr bool scaled = M <= 2;
  static constexpr int origin = scaled ? C<bits>::sum_origin : Layout<bits>::centre;
  template <int j>
  static auto field() {
    if constexpr (scaled) return typename C<bits>::template SumField<j>();
    else return typename C<bits>::template Field<j, origin>();
  }
};

// 2^−power of each row of a tile, for M values per row.
template <template <int> class C, int bits, int M>
struct RowFactors {
  alignas(64) float values[tile_rows * M] = {};
  constexpr RowFactors() {
    for (int i = 0; i < tile_rows * M; ++i)
      values[i] = 1.0f / static_cast<float>(1u << C<bits>::power(i / M % Layout<bits>::rows_per_word));
  }
};

// One tile: y[M][ldy] += x W, Vectors vectors of columns at a time; x [tile_rows][M].
template <class V, template <int> class C, int bits, int M, int Vectors>
[[gnu::always_inline]] inline void forward_tile(const Weights& w, const std::uint8_t* tile, const std::uint8_t* next,
                                                std::int64_t row_tile, std::int64_t column, const float* x, const float* sums,
                                                float* y, std::int64_t ldy) {
  using L = Layout<bits>;
  using Reg = typename V::Reg;
  constexpr int chains = M == 1 && V::registers > 16 ? 2 : 1;  // of sums: one row alone would wait for each sum before the next
  for (std::int64_t c = 0; c < tile_columns; c += Vectors * V::width)
    for (std::int32_t i = w.tiles[row_tile]; i < w.tiles[row_tile + 1]; ++i) {
      const Packed::Segment s = w.segments[i];
      Reg acc[chains][M][Vectors];
      for (auto& chain : acc)
        for (auto& row : chain)
          for (auto& sum : row) sum = V::zero();
      const std::int64_t first = s.begin % tile_rows, skipped = first / L::rows_per_word * L::line_bytes + c * L::word_bytes;
      const std::uint8_t *p = tile + skipped, *ahead = next + skipped;
      const float* xs = x + first * M;
      for (std::int32_t r = s.begin; r < s.end; r += L::rows_per_word, p += L::line_bytes, ahead += L::line_bytes) {
        for (std::int64_t byte = 0; byte < Vectors * V::width * L::word_bytes; byte += cache_line)
          __builtin_prefetch(ahead + byte);
        typename C<bits>::Words words[Vectors];
        for (int v = 0; v < Vectors; ++v) words[v] = C<bits>::load(p + v * V::width * L::word_bytes);
        if constexpr (V::registers > 16) asm("" ::: "memory");  // or g++ would load words again for each of their codes
        unroll<L::rows_per_word>([&]<int j>() __attribute__((always_inline)) {
          const auto code = Fused<C, bits, M>::template field<j>();
          if constexpr (M <= 2) {  // x stays in registers, codes come one at a time
            Reg x_m[M];
            for (int m = 0; m < M; ++m) x_m[m] = V::set(*xs++);
            for (int v = 0; v < Vectors; ++v) {
              const Reg q = code(words[v]);
              for (int m = 0; m < M; ++m) acc[j % chains][m][v] = V::fma(x_m[m], q, acc[j % chains][m][v]);
            }
          } else {  // and the other way round
            Reg q[Vectors];
            for (int v = 0; v < Vectors; ++v) q[v] = code(words[v]);
            for (int m = 0; m < M; ++m) {
              const Reg x_m = V::set(*xs++);
              for (int v = 0; v < Vectors; ++v) acc[0][m][v] = V::fma(x_m, q[v], acc[0][m][v]);
            }
          }
        });
      }
      for (int v = 0; v < Vectors; ++v) {
        const std::int64_t at = s.group * w.columns + column + c + v * V::width;
        const Reg scale = V::load(w.scales + at), shift = offset<V>(w, Fused<C, bits, M>::origin, scale, V::load(w.zeros + at));
        for (int m = 0; m < M; ++m) {
          float* to = y + m * ldy + c + v * V::width;
          const Reg sum = chains == 2 ? V::add(acc[0][m][v], acc[chains - 1][m][v]) : acc[0][m][v];
          V::store(to, V::fma(scale, sum, V::fma(shift, V::set(sums[i * M + m]), V::load(to))));
        }
      }
    }
}

template <class V, template <int> class C, int bits, int M = fused_forward_rows>
void forward(const Weights& w, const float* x, const float* sums, int m, std::int64_t tile, std::int64_t tiles, float* y) {
  if constexpr (M > 1)
    if (m < M) return forward<V, C, bits, M - 1>(w, x, sums, m, tile, tiles, y);
  using L = Layout<bits>;
  constexpr int most = static_cast<int>(tile_columns) / V::width, wanted = V::registers <= 16 && M > 2 ? 2 : 4;
  constexpr int vectors = wanted < most ? wanted : most;
  constexpr bool scaled = Fused<C, bits, M>::scaled && C<bits>::power(1) != 0;
  static constexpr RowFactors<C, bits, M> factors;
  alignas(64) float scaled_x[scaled ? tile_rows * M : 1];

  const std::int64_t ldy = tiles * tile_columns;
  for (std::int64_t i = 0; i < M * ldy; i += V::width) V::store(y + i, V::zero());
  for (std::int64_t t = 0; t < w.row_tiles; ++t) {
    const float* x_tile = x + t * tile_rows * M;
    if constexpr (scaled) {
      const std::int64_t rows = w.rows - t * tile_rows < tile_rows ? w.rows - t * tile_rows : tile_rows;
      for (std::int64_t i = 0; i < rows * M; i += V::width)
        V::store(scaled_x + i, V::mul(V::load(x_tile + i), V::load(factors.values + i)));
      x_tile = scaled_x;
    }
    for (std::int64_t c = 0; c < tiles; ++c) {
      prefetch_scales(w, t + 1, (tile + c) * tile_columns);
      forward_tile<V, C, bits, M, vectors>(w, L::tile(w, t, tile + c), L::next(w, t, tile + c, tile, tiles), t,
                                           (tile + c) * tile_columns, x_tile, sums, y + c * tile_columns, ldy);
    }
  }
}

template <class V, template <int> class C, int bits, int M = fused_backward_rows>
void backward(const Weights& w, const float* dy, int m, std::int64_t tile, float* dx, std::span<const Ahead> ahead) {
  if constexpr (M > 1)
    if (m < M) return backward<V, C, bits, M - 1>(w, dy, m, tile, dx, ahead);
  using L = Layout<bits>;
  using Reg = typename V::Reg;
  constexpr int width = V::width, vectors = static_cast<int>(tile_columns) / width, block = 4;
  constexpr int wanted = V::registers <= 16 ? (M == 1 ? 8 : M == 2 ? 4 : 2) : (M == 1 ? 8 : 4);  // codes of a word at a time
  constexpr int codes = wanted < L::rows_per_word ? wanted : L::rows_per_word;
  constexpr std::int64_t most_segments = tile_rows / Packed::unit;
  static constexpr RowFactors<C, bits, 1> factors;

  // Sums per lane, in the first-level cache: of codes times scaled gradients by row, and of offsets times gradients by segment.
  alignas(64) float sums[tile_rows * M * width];
  alignas(64) float offsets[most_segments * M * width];
  for (std::int64_t i = 0; i < tile_rows * M; ++i) V::store(sums + i * width, V::zero());
  for (std::int64_t i = 0; i < most_segments * M; ++i) V::store(offsets + i * width, V::zero());

  const std::int32_t first = w.tiles[tile], last = w.tiles[tile + 1];
  for (std::int64_t c = 0; c < w.column_tiles; ++c) {
    for (const Ahead& a : ahead)
      for (std::int64_t i = c * a.step; i < a.lines && i < (c + 1) * a.step; ++i) __builtin_prefetch(a.begin + i * 64, 1);
    const std::uint8_t* words = L::tile(w, tile, c);
    const float* gradients = dy + c * tile_columns;
    for (std::int32_t i = first; i < last; ++i) {
      const Packed::Segment s = w.segments[i];
      Reg scaled[M][vectors];
      for (int k = 0; k < M; ++k) {
        float* to = offsets + ((i - first) * M + k) * width;
        Reg sum = V::load(to);
        for (int v = 0; v < vectors; ++v) {
          const std::int64_t at = s.group * w.columns + c * tile_columns + v * width;
          const Reg scale = V::load(w.scales + at), d = V::load(gradients + k * w.columns + v * width);
          scaled[k][v] = V::mul(scale, d);
          sum = V::fma(offset<V>(w, C<bits>::sum_origin, scale, V::load(w.zeros + at)), d, sum);
        }
        V::store(to, sum);
      }
      const std::uint8_t* p = words + s.begin % tile_rows / L::rows_per_word * L::line_bytes;
      float* to = sums + s.begin % tile_rows * M * width;
      for (std::int32_t r = s.begin; r < s.end; r += L::rows_per_word, p += L::line_bytes)
        unroll<L::rows_per_word / codes>([&]<int part>() __attribute__((always_inline)) {
          Reg acc[codes][M];
          for (int j = 0; j < codes; ++j)
            for (int k = 0; k < M; ++k) acc[j][k] = V::load(to + (j * M + k) * width);
          for (int v0 = 0; v0 < vectors; v0 += block) {
            typename C<bits>::Words word[block];
            for (int v = 0; v < block; ++v) word[v] = C<bits>::load(p + (v0 + v) * width * L::word_bytes);
            unroll<codes>([&]<int j>() __attribute__((always_inline)) {
              const typename C<bits>::template SumField<part * codes + j> code;
              for (int v = 0; v < block; ++v) {
                const Reg q = code(word[v]);
                for (int k = 0; k < M; ++k) acc[j][k] = V::fma(scaled[k][v0 + v], q, acc[j][k]);
              }
            });
          }
          for (int j = 0; j < codes; ++j)
            for (int k = 0; k < M; ++k) V::store(to + (j * M + k) * width, acc[j][k]);
          to += codes * M * width;
        });
    }
  }
  for (std::int32_t i = first; i < last; ++i)
    for (int k = 0; k < M; ++k) {
      const float shift = V::sum(V::load(offsets + ((i - first) * M + k) * width));
      for (std::int32_t r = w.segments[i].begin; r < w.segments[i].end; ++r)
        dx[k * tile_rows + r % tile_rows] =
            V::sum(V::load(sums + (r % tile_rows * M + k) * width)) * factors.values[r % tile_rows] + shift;
    }
}

// ---- the table ----

template <class V, template <int> class C, int bits>
constexpr CodeKernels code_kernels() {
  return {forward_panel<V, C, bits>, backward_panel<V, C, bits>, forward<V, C, bits>, backward<V, C, bits>};
}

template <class V, template <int> class C>
constexpr Unit unit_of() {
  return {code_kernels<V, C, 2>(), code_kernels<V, C, 3>(), code_kernels<V, C, 4>(), code_kernels<V, C, 8>()};
}

}  // namespace
}  // namespace graft::quant
