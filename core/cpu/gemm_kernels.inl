// The kernels of gemm.h over a vector type V (simd_*.h). Included by one unit per instruction set, which is why everything is in
// an unnamed namespace: each unit keeps its own copy.

#include "graft/core/cpu/gemm.h"

namespace graft::cpu {
namespace {

// ---- tiles ----

template <class V>
using SumOf = Sum<typename V::Element>;

// Where the left operand of a tile is: the first row_depth steps in rows, the others in a panel.
template <class V>
struct Left {
  const typename V::Element* rows;
  std::int64_t stride, row_depth;
  const typename V::Element* panel;
  std::int64_t panel_depth;
};

// Rows × Vectors sums in registers, one broadcast and Vectors loads per depth and row.
template <class V, int MaxRows, int MaxVectors, int Rows, int Vectors>
void tile_of(const Left<V>& left, const typename V::Element* b, SumOf<V>* c, std::int64_t ldc, int columns, bool accumulate) {
  typename V::Reg sums[Rows][Vectors];
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Vectors; ++j) {
      sums[i][j] = V::zero();
      __builtin_prefetch(c + i * ldc + j * V::width, 1);  // of a wide matrix; it will be there when the sums are
    }
  constexpr std::int64_t line = 64 / sizeof(*left.rows);
  const typename V::Element* x = left.rows;
  for (std::int64_t left_depth = left.row_depth; left_depth > 0; left_depth -= line, x += line) {
    // Of the rows after these, which start streams of their own.
    for (int i = 0; i < Rows; ++i) __builtin_prefetch(x + (Rows + i) * left.stride);
    const std::int64_t steps = left_depth < line ? left_depth : line;
#pragma GCC unroll 4
    for (std::int64_t d = 0; d < steps; ++d) {
      decltype(V::load(b)) w[Vectors];
      for (int j = 0; j < Vectors; ++j) w[j] = V::load(b + j * V::width);
      for (int i = 0; i < Rows; ++i) {
        const auto x_i = V::set(x[i * left.stride + d]);
        for (int j = 0; j < Vectors; ++j) sums[i][j] = V::fma(x_i, w[j], sums[i][j]);
      }
      b += MaxVectors * V::width;
    }
  }
  const typename V::Element* a = left.panel;
#pragma GCC unroll 4
  for (std::int64_t d = 0; d < left.panel_depth; ++d) {
    __builtin_prefetch(a + 32 * MaxRows);
    decltype(V::load(b)) w[Vectors];
    for (int j = 0; j < Vectors; ++j) w[j] = V::load(b + j * V::width);
    for (int i = 0; i < Rows; ++i) {
      const auto x = V::set(a[i]);
      for (int j = 0; j < Vectors; ++j) sums[i][j] = V::fma(x, w[j], sums[i][j]);
    }
    a += MaxRows;
    b += MaxVectors * V::width;
  }
  const int last = columns - (Vectors - 1) * V::width;  // lanes of the last vector
#pragma GCC unroll 8                                    // or the sums would go through memory
  for (int i = 0; i < Rows; ++i) {
    SumOf<V>* row = c + i * ldc;
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j, row += V::width) {
      const bool whole = j + 1 < Vectors || last == V::width;
      if (accumulate) sums[i][j] = V::add(whole ? V::load(row) : V::load(row, last), sums[i][j]);
      if (whole) V::store(row, sums[i][j]);
      else V::store(row, sums[i][j], last);
    }
  }
}

// The smallest tile that covers rows × columns.
template <class V, int MaxRows, int MaxVectors, int Rows = MaxRows, int Vectors = MaxVectors>
void tile(const Left<V>& left, const typename V::Element* b, SumOf<V>* c, std::int64_t ldc, int rows, int columns,
          bool accumulate) {
  if constexpr (Rows > 1)
    if (rows < Rows) return tile<V, MaxRows, MaxVectors, Rows - 1, Vectors>(left, b, c, ldc, rows, columns, accumulate);
  if constexpr (Vectors > 1)
    if (columns <= (Vectors - 1) * V::width)
      return tile<V, MaxRows, MaxVectors, Rows, Vectors - 1>(left, b, c, ldc, rows, columns, accumulate);
  tile_of<V, MaxRows, MaxVectors, Rows, Vectors>(left, b, c, ldc, columns, accumulate);
}

template <class V, int Rows, int Vectors>
void row_tiles(const typename V::Element* x, std::int64_t ldx, std::int64_t x_depth, std::int64_t depth,
               const typename V::Element* a, int height, const typename V::Element* b, SumOf<V>* c, std::int64_t ldc,
               std::int64_t rows, int columns, bool accumulate) {
  for (; rows > 0; rows -= height, x += height * ldx, a += depth * Rows, c += height * ldc)
    tile<V, Rows, Vectors>({x, ldx, x_depth, a, depth}, b, c, ldc, rows < height ? static_cast<int>(rows) : height, columns,
                           accumulate);
}

template <class V, int Rows, int Vectors>
void tiles(std::int64_t depth, const typename V::Element* a, int height, const typename V::Element* b, SumOf<V>* c,
           std::int64_t ldc, std::int64_t rows, int columns, bool accumulate) {
  row_tiles<V, Rows, Vectors>(nullptr, 0, 0, depth, a, height, b, c, ldc, rows, columns, accumulate);
}

// ---- packing ----

// One row of a panel may be written past its end, when the next row overwrites that later; at the panel's end it may not.
template <class V, class X>
void store_row(typename V::Element* p, X x, int lanes, const typename V::Element* end) {
  if (p + V::width <= end) V::store(p, x);
  else V::store(p, x, lanes);
}

// Lanes of a panel's row, from as many rows of the operand as one of its elements holds.
template <class V, class Reg>
[[gnu::always_inline]] inline auto joined(const Reg* rows) {
  if constexpr (PanelTraits<typename V::Element>::depth == 1) return rows[0];
  else return V::pairs(rows[0], rows[1]);
}

template <class V, class From>
void pack_from(const From* source, std::int64_t depth, std::int64_t depth_stride, std::int64_t lane_stride, int valid, int lanes,
               typename V::Element* panel) {
  constexpr int width = V::width, per = PanelTraits<typename V::Element>::depth;
  using Reg = decltype(V::load(source));
  const typename V::Element* end = panel + (depth + per - 1) / per * lanes;
  const int used = (valid + width - 1) / width * width < lanes ? (valid + width - 1) / width * width : lanes;
  if (lane_stride == 1) {
    constexpr int ahead = 16;  // rows that lie pages apart are out of reach of the processor's own prefetching
    for (std::int64_t d = 0; d < depth; d += per, source += per * depth_stride, panel += lanes) {
      for (int i = 0; i < per; ++i) __builtin_prefetch(source + (ahead + i) * depth_stride);
      for (int l = 0; l < used; l += width) {
        const int left = valid - l < width ? (valid - l > 0 ? valid - l : 0) : width;
        Reg rows[per];
        for (int i = 0; i < per; ++i) {
          const From* row = source + i * depth_stride + l;
          rows[i] = d + i >= depth ? V::zero() : left == width ? V::load(row) : V::load(row, left);
        }
        store_row<V>(panel + l, joined<V>(rows), lanes - l < width ? lanes - l : width, end);
      }
    }
    return;
  }
  if (depth_stride == 1) {  // width × width blocks, transposed in registers
    for (std::int64_t d = 0; d < depth; d += width, panel += width / per * lanes) {
      const int rows = depth - d < width ? static_cast<int>(depth - d) : width;
      for (int l = (used - 1) / width * width; l >= 0; l -= width) {  // backwards, for what is written past the end of a row
        Reg block[width];
        const From* row = source + l * lane_stride + d;
        if (rows == width && l + width <= valid)
          for (int i = 0; i < width; ++i, row += lane_stride) {
            __builtin_prefetch(row + lanes * lane_stride);  // of the panel after this one
            block[i] = V::load(row);
          }
        else
          for (int i = 0; i < width; ++i, row += lane_stride)
            block[i] = l + i >= valid ? V::zero() : rows == width ? V::load(row) : V::load(row, rows);
        V::transpose(block);
        const int kept = lanes - l < width ? lanes - l : width;
        if (rows == width)
          for (int i = 0; i < width; i += per) store_row<V>(panel + i / per * lanes + l, joined<V>(block + i), kept, end);
        else
          for (int i = 0; i < rows; i += per) store_row<V>(panel + i / per * lanes + l, joined<V>(block + i), kept, end);
      }
    }
    return;
  }
  for (std::int64_t d = 0; d < depth; d += per, source += per * depth_stride, panel += lanes)
    for (int l = 0; l < used; ++l) {
      SumOf<V> one[per] = {};
      for (int i = 0; i < per; ++i)
        if (l < valid && d + i < depth) one[i] = V::get(source + i * depth_stride + l * lane_stride);
      if constexpr (per == 1) panel[l] = one[0];
      else panel[l] = V::pair(one[0], one[1]);
    }
}

// Calls f with the source as a pointer to its element type; callers have checked that it is one of these.
template <class T, class F>
[[gnu::always_inline]] inline void with_type(const void* data, DType dtype, F f) {
  if constexpr (sizeof(T) == sizeof(double)) {
    f(static_cast<const double*>(data));
  } else {
    if (dtype == DType::f16) f(static_cast<const f16*>(data));
    else if (dtype == DType::bf16) f(static_cast<const bf16*>(data));
    else f(static_cast<const float*>(data));
  }
}

template <class V>
void pack(const void* source, DType dtype, std::int64_t depth, std::int64_t depth_stride, std::int64_t lane_stride, int valid,
          int lanes, typename V::Element* panel) {
  with_type<typename V::Element>(source, dtype,
                                 [=](auto* from) { pack_from<V>(from, depth, depth_stride, lane_stride, valid, lanes, panel); });
}

// ---- skinny products: b is read once, as it lies ----

// Sums over depth of Rows × Columns products side by side: enough independent chains to hide the latency of a multiply-add.
template <class V, int Rows, int Columns, class From>
void dot_of(const typename V::Element* x, std::int64_t ldx, std::int64_t depth, const From* b, std::int64_t ldb,
            typename V::Element* y, std::int64_t ldy, bool accumulate) {
  typename V::Reg sums[Rows][Columns];
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Columns; ++j) sums[i][j] = V::zero();
  std::int64_t d = 0;
  for (; d + V::width <= depth; d += V::width)
    for (int j = 0; j < Columns; ++j) {
      const typename V::Reg w = V::load(b + j * ldb + d);
      for (int i = 0; i < Rows; ++i) sums[i][j] = V::fma(V::load(x + i * ldx + d), w, sums[i][j]);
    }
  if (const int rest = static_cast<int>(depth - d); rest > 0)
    for (int j = 0; j < Columns; ++j) {
      const typename V::Reg w = V::load(b + j * ldb + d, rest);
      for (int i = 0; i < Rows; ++i) sums[i][j] = V::fma(V::load(x + i * ldx + d, rest), w, sums[i][j]);
    }
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Columns; ++j) y[i * ldy + j] = V::sum(sums[i][j]) + (accumulate ? y[i * ldy + j] : 0);
}

// Element i is the sum of register i, which may be used up.
template <class V>
[[gnu::always_inline]] inline typename V::Reg sums_of(typename V::Reg* block) {
  if constexpr (requires { V::sums(block); }) {
    return V::sums(block);
  } else {
    V::transpose(block);
    for (int i = 1; i < V::width; ++i) block[0] = V::add(block[0], block[i]);
    return block[0];
  }
}

// The same of a short depth, where adding up lanes one sum at a time would take longest: a block of b, or for one row of its products, is
// turned in registers, and lanes are columns.
template <class V, int Rows, class From>
void dot_short(const typename V::Element* x, std::int64_t ldx, std::int64_t depth, const From* b, std::int64_t ldb,
               std::int64_t columns, typename V::Element* y, std::int64_t ldy, bool accumulate) {
  constexpr int width = V::width;
  for (std::int64_t j = 0; j < columns; j += width, b += width * ldb, y += width) {
    const int valid = columns - j < width ? static_cast<int>(columns - j) : width;
    typename V::Reg sums[Rows];
    for (int i = 0; i < Rows; ++i) sums[i] = accumulate ? V::load(y + i * ldy, valid) : V::zero();
    for (std::int64_t d = 0; d < depth; d += width) {
      const int steps = depth - d < width ? static_cast<int>(depth - d) : width;
      typename V::Reg block[width];
      for (int l = 0; l < width; ++l)
        block[l] = l >= valid ? V::zero() : steps == width ? V::load(b + l * ldb + d) : V::load(b + l * ldb + d, steps);
      const typename V::Element* at = x + d;
      if constexpr (Rows == 1) {
        const typename V::Reg factor = V::load(at, steps);
        for (int l = 0; l < width; ++l) block[l] = V::fma(factor, block[l], V::zero());
        sums[0] = V::add(sums[0], sums_of<V>(block));
        continue;
      }
      V::transpose(block);
      if (steps == width) {
#pragma GCC unroll 16
        for (int l = 0; l < width; ++l)
          for (int i = 0; i < Rows; ++i) sums[i] = V::fma(V::set(at[i * ldx + l]), block[l], sums[i]);
      } else {
        for (int l = 0; l < steps; ++l)
          for (int i = 0; i < Rows; ++i) sums[i] = V::fma(V::set(at[i * ldx + l]), block[l], sums[i]);
      }
    }
    for (int i = 0; i < Rows; ++i) V::store(y + i * ldy, sums[i], valid);
  }
}

template <class V, int Rows = max_skinny>
void dot(const typename V::Element* x, std::int64_t ldx, int rows, std::int64_t depth, const void* b, DType dtype,
         std::int64_t ldb, std::int64_t columns, typename V::Element* y, std::int64_t ldy, bool accumulate) {
  if constexpr (Rows > 1)
    if (rows < Rows) return dot<V, Rows - 1>(x, ldx, rows, depth, b, dtype, ldb, columns, y, ldy, accumulate);
  with_type<typename V::Element>(b, dtype, [=](auto* from) {
    if (depth <= Rows * V::width) return dot_short<V, Rows>(x, ldx, depth, from, ldb, columns, y, ldy, accumulate);
    constexpr int step = Rows == 1 ? 8 : Rows == 2 ? 4 : 2;
    std::int64_t j = 0;
    for (; j + step <= columns; j += step) dot_of<V, Rows, step>(x, ldx, depth, from + j * ldb, ldb, y + j, ldy, accumulate);
    for (; j < columns; ++j) dot_of<V, Rows, 1>(x, ldx, depth, from + j * ldb, ldb, y + j, ldy, accumulate);
  });
}

// y += Depth rows of b, a vector of columns at a time.
template <class V, int Rows, int Depth, class From>
void axpy_of(const typename V::Element* x, std::int64_t row_stride, std::int64_t depth_stride, const From* b, std::int64_t ldb,
             std::int64_t columns, bool accumulate, typename V::Element* y, std::int64_t ldy) {
  typename V::Reg factors[Rows][Depth];
  for (int i = 0; i < Rows; ++i)
    for (int d = 0; d < Depth; ++d) factors[i][d] = V::set(x[i * row_stride + d * depth_stride]);
  std::int64_t j = 0;
  for (; j + V::width <= columns; j += V::width) {
    typename V::Reg w[Depth];
    for (int d = 0; d < Depth; ++d) w[d] = V::load(b + d * ldb + j);
    for (int i = 0; i < Rows; ++i) {
      typename V::Reg sum = accumulate ? V::load(y + i * ldy + j) : V::zero();
      for (int d = 0; d < Depth; ++d) sum = V::fma(factors[i][d], w[d], sum);
      V::store(y + i * ldy + j, sum);
    }
  }
  if (const int rest = static_cast<int>(columns - j); rest > 0) {
    for (int i = 0; i < Rows; ++i) {
      typename V::Reg sum = accumulate ? V::load(y + i * ldy + j, rest) : V::zero();
      for (int d = 0; d < Depth; ++d) sum = V::fma(factors[i][d], V::load(b + d * ldb + j, rest), sum);
      V::store(y + i * ldy + j, sum, rest);
    }
  }
}

// For few columns the sums stay in registers over the whole depth, in enough chains to hide the latency of a multiply-add; b, which is read
// once, is asked for early.
template <class V, int Rows, int Vectors, class From>
void axpy_narrow(const typename V::Element* x, std::int64_t row_stride, std::int64_t depth_stride, std::int64_t depth,
                 const From* b, std::int64_t ldb, typename V::Element* y, std::int64_t ldy, bool accumulate) {
  constexpr std::int64_t early = 48;
  constexpr int chains = Rows * Vectors >= 8 ? 1 : Rows * Vectors >= 4 ? 2 : 4;
  typename V::Reg sums[chains][Rows][Vectors];
#pragma GCC unroll 8  // all of these, or the sums would go through memory
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      sums[0][i][v] = accumulate ? V::load(y + i * ldy + v * V::width) : V::zero();
#pragma GCC unroll 8
      for (int c = 1; c < chains; ++c) sums[c][i][v] = V::zero();
    }
  const auto step = [&](std::int64_t d, int c) __attribute__((always_inline)) {
    __builtin_prefetch(b + (d + early) * ldb);
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      const typename V::Reg w = V::load(b + d * ldb + v * V::width);
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) sums[c][i][v] = V::fma(V::set(x[i * row_stride + d * depth_stride]), w, sums[c][i][v]);
    }
  };
  std::int64_t d = 0;
  for (; d + chains <= depth; d += chains) {
#pragma GCC unroll 4
    for (int c = 0; c < chains; ++c) step(d + c, c);
  }
  for (; d < depth; ++d) step(d, 0);
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
#pragma GCC unroll 8
      for (int half = chains / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int c = 0; c < half; ++c) sums[c][i][v] = V::add(sums[c][i][v], sums[c + half][i][v]);
      V::store(y + i * ldy + v * V::width, sums[0][i][v]);
    }
}

template <class V, int Rows, class From>
void axpy_rows(const typename V::Element* x, std::int64_t row_stride, std::int64_t depth_stride, std::int64_t rows,
               std::int64_t depth, const From* b, std::int64_t ldb, std::int64_t columns, typename V::Element* y,
               std::int64_t ldy, bool accumulate) {
  if constexpr (Rows > 1)
    if (rows < Rows) return axpy_rows<V, Rows - 1>(x, row_stride, depth_stride, rows, depth, b, ldb, columns, y, ldy, accumulate);
  constexpr int width = V::width;
  if (columns == width) return axpy_narrow<V, Rows, 1>(x, row_stride, depth_stride, depth, b, ldb, y, ldy, accumulate);
  if (columns == 2 * width) return axpy_narrow<V, Rows, 2>(x, row_stride, depth_stride, depth, b, ldb, y, ldy, accumulate);
  std::int64_t d = 0;
  for (; d + 4 <= depth; d += 4)
    axpy_of<V, Rows, 4>(x + d * depth_stride, row_stride, depth_stride, b + d * ldb, ldb, columns, accumulate || d > 0, y, ldy);
  for (; d < depth; ++d)
    axpy_of<V, Rows, 1>(x + d * depth_stride, row_stride, depth_stride, b + d * ldb, ldb, columns, accumulate || d > 0, y, ldy);
}

template <class V>
void axpy(const typename V::Element* x, std::int64_t row_stride, std::int64_t depth_stride, std::int64_t rows, std::int64_t depth,
          const void* b, DType dtype, std::int64_t ldb, std::int64_t columns, typename V::Element* y, std::int64_t ldy,
          bool accumulate) {
  for (std::int64_t i = 0; i < rows && depth == 0 && !accumulate; ++i)
    for (std::int64_t j = 0; j < columns; ++j) y[i * ldy + j] = 0;
  with_type<typename V::Element>(b, dtype, [=](auto* from) {
    for (std::int64_t i = 0; i < rows; i += max_skinny)
      axpy_rows<V, max_skinny>(x + i * row_stride, row_stride, depth_stride, rows - i, depth, from, ldb, columns, y + i * ldy,
                               ldy, accumulate);
  });
}

// ---- the table ----

template <class V, int Rows, int Vectors>
constexpr GemmKernels<typename V::Element> gemm_kernels_of() {
  return {V::width, Rows, Vectors * V::width, V::width > 1, tiles<V, Rows, Vectors>, row_tiles<V, Rows, Vectors>, pack<V>, dot<V>, axpy<V>};
}

}  // namespace
}  // namespace graft::cpu
