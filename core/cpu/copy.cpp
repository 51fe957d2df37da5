#include <vector>

#include "graft/core/convert.h"
#include "graft/core/cpu/block.h"
#include "graft/core/cpu/cpu.h"
#include "graft/core/cpu/loop.h"
#include "graft/core/cpu/vector.h"

namespace graft::cpu {
namespace {

template <class From, class To>
void convert_run(const From* from, std::int64_t from_stride, To* to, std::int64_t to_stride, std::int64_t n) {
  if (from_stride == 1 && to_stride == 1) {
    if constexpr (std::is_same_v<From, f16> && std::is_same_v<To, float>) {
      half_loops().widen(from, to, n);
    } else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, f16>) {
      half_loops().narrow(from, to, n);
    } else {
      for (std::int64_t i = 0; i < n; ++i) to[i] = convert_one<To>(from[i]);
    }
  } else if (from_stride == 0 && to_stride == 1) {
    std::fill_n(to, n, n > 0 ? convert_one<To>(*from) : To{});
  } else {
    for (std::int64_t i = 0; i < n; ++i) to[i * to_stride] = convert_one<To>(from[i * from_stride]);
  }
}

void convert_any(DType from_dtype, const void* from, std::int64_t from_stride, DType to_dtype, void* to, std::int64_t to_stride,
                 std::int64_t n) {
  dispatch(from_dtype, AllTypes{}, "convert", [&]<class From>() {
    dispatch(to_dtype, AllTypes{}, "convert",
             [&]<class To>() { convert_run(static_cast<const From*>(from), from_stride, static_cast<To*>(to), to_stride, n); });
  });
}

}  // namespace

void convert(DType from_dtype, const void* from, std::int64_t from_stride, DType to_dtype, void* to, std::int64_t to_stride,
             std::int64_t n) {
  // Rows are often short, and what all types take costs more than a few dozen elements do.
  if (from_stride == 1 && to_stride == 1) {
    if (from_dtype == to_dtype) {
      std::copy_n(static_cast<const char*>(from), n * size_of(to_dtype), static_cast<char*>(to));
      return;
    }
    if (from_dtype == DType::bf16 && to_dtype == DType::f32)
      return half_loops().widen_bf16(static_cast<const bf16*>(from), static_cast<float*>(to), n);
    if (from_dtype == DType::f32 && to_dtype == DType::bf16)
      return half_loops().narrow_bf16(static_cast<const float*>(from), static_cast<bf16*>(to), n);
  }
  convert_any(from_dtype, from, from_stride, to_dtype, to, to_stride, n);
}

namespace {

/// The dimension along which neighbours lie side by side, or -1.
int unit_dim(const View& view) {
  for (int i = view.rank - 1; i >= 0; --i)
    if (view.sizes[i] > 1 && view.strides[i] == 1) return i;
  return -1;
}

// Where the two views disagree about which elements are neighbours, one of them would be met a cache line for each element.
// Square tiles go through a buffer instead, so that both are met in runs.
void copy_transposed(const View& from, int from_dim, const View& to, int to_dim) {
  constexpr std::int64_t side = 32;
  const std::int64_t rows = to.sizes[from_dim], columns = to.sizes[to_dim];
  const std::int64_t row_tiles = (rows + side - 1) / side, column_tiles = (columns + side - 1) / side;
  View outer_from = from, outer_to = to;
  for (View* view : {&outer_from, &outer_to}) view->sizes[from_dim] = view->sizes[to_dim] = 1;
  const Rows from_at(outer_from, 0), to_at(outer_to, 0);
  parallel_ranges(to_at.count() * row_tiles * column_tiles, steps_per_chunk(side * side),
                  [&](std::int64_t begin, std::int64_t end) {
                    alignas(64) char tile[side * side * sizeof(double)];
                    for (std::int64_t at = begin; at < end; ++at) {
                      const std::int64_t row = at % row_tiles * side, column = at / row_tiles % column_tiles * side,
                                         outer = at / row_tiles / column_tiles;
                      const std::int64_t height = std::min(side, rows - row), width = std::min(side, columns - column);
                      const std::int64_t from_begin = from_at(outer) + row + column * from.strides[to_dim];
                      const std::int64_t to_begin = to_at(outer) + row * to.strides[from_dim] + column;
                      for (std::int64_t j = 0; j < width; ++j)
                        convert(from.dtype, element(from, from_begin + j * from.strides[to_dim]), 1, to.dtype,
                                tile + j * side * size_of(to.dtype), 1, height);
                      for (std::int64_t i = 0; i < height; ++i)
                        convert(to.dtype, tile + i * size_of(to.dtype), side, to.dtype,
                                element(to, to_begin + i * to.strides[from_dim]), 1, width);
                    }
                  });
}

}  // namespace

void copy(const View& from, const View& to) {
  constexpr std::int64_t worth_tiles = 16;
  const int from_dim = unit_dim(from), to_dim = unit_dim(to);
  if (from_dim >= 0 && to_dim >= 0 && from_dim != to_dim && from.strides[to_dim] != 1 && to.strides[from_dim] != 1 &&
      to.sizes[from_dim] >= worth_tiles && to.sizes[to_dim] >= worth_tiles)
    return copy_transposed(from, from_dim, to, to_dim);
  const Loop<2> loop({&to, &from});
  loop.run([&](const auto& at, std::int64_t n) {
    convert(from.dtype, element(from, at[1]), loop.stride(1), to.dtype, element(to, at[0]), loop.stride(0), n);
  });
}

void fill(const View& to, double value) {
  const Loop<1> loop({&to});
  loop.run(
      [&](const auto& at, std::int64_t n) { convert(DType::f64, &value, 0, to.dtype, element(to, at[0]), loop.stride(0), n); });
}

}  // namespace graft::cpu
