// Packed weights made dense, piece by piece, for the products of cuBLASLt.
#include <cmath>

#include "graft/cuda/joins.cuh"
#include "graft/cuda/quantized.h"

namespace graft::cuda {
namespace {

using quant::Packed;

/// scale · (code − zero) or scale · code + zero: in f32 as the CPU's panels have it, in f64 exact.
template <class A>
__device__ A weight(const Dequantize& d, std::uint32_t code, std::int64_t group, std::int64_t column) {
  const A scale = d.scales[group * d.columns + column], zero = d.zeros[group * d.columns + column];
  return d.affine ? std::fma(static_cast<A>(code), scale, zero) : scale * (static_cast<A>(code) - zero);
}

// A thread takes a word: consecutive rows of one column. Threads lie along the columns.
template <class A>
__device__ void dequantize(const Dequantize& d) {
  const std::int64_t per = Packed::rows_per_word(d.bits), bytes = Packed::bytes_per_word(d.bits);
  const std::int64_t width = d.column_end - d.column_begin, words = (d.row_end - d.row_begin) / per * width;
  const std::int64_t column_tiles = d.columns / Packed::tile_columns;
  for (std::int64_t at = first_index(); at < words; at += index_step()) {
    const std::int64_t column = d.column_begin + at % width, row = d.row_begin + at / width * per;
    const std::int64_t tile = row / Packed::tile_rows * column_tiles + column / Packed::tile_columns;
    const std::int64_t word = row % Packed::tile_rows / per * Packed::tile_columns + column % Packed::tile_columns;
    const std::uint8_t* from = d.codes + tile * Packed::tile_bytes(d.bits) + word * bytes;
    std::uint32_t codes = 0;
    if (bytes == 4) codes = *reinterpret_cast<const std::uint32_t*>(from);
    else codes = from[0] | from[1] << 8 | from[2] << 16;
    const std::uint32_t mask = (1u << d.bits) - 1;
    for (std::int64_t i = 0; i < per; ++i, codes >>= d.bits) {
      const std::int32_t channel = d.places[2 * (row + i)], group = d.places[2 * (row + i) + 1];
      if (d.by_channel && channel < 0) continue;
      const std::int64_t line = d.by_channel ? channel : row + i - d.row_begin;
      const A value = channel < 0 ? A(0) : weight<A>(d, codes & mask, group, column);
      store_same<A>(d.to, d.dtype, line * d.ld + column - d.column_begin, value);
    }
  }
}

template <class A>
__device__ void add_bias(const AddBias& a) {
  for (std::int64_t at = first_index(); at < a.rows * a.columns; at += index_step()) {
    const std::int64_t i = at / a.columns, j = at % a.columns;
    const A value =
        load<A>(a.x, a.x_dtype, i * a.x_strides[0] + j * a.x_strides[1]) + load<A>(a.bias, a.bias_dtype, j * a.bias_stride);
    store_same<A>(a.y, a.y_dtype, i * a.y_strides[0] + j * a.y_strides[1], value);
  }
}

template <class A>
__device__ void join_share(const JoinShare& j) {
  for (std::int64_t at = first_index(); at < j.rows * j.columns; at += index_step()) {
    const std::int64_t row = at / j.columns, column = at % j.columns;
    const std::int64_t to = row * j.y_strides[0] + column * j.y_strides[1];
    const A sum = load<A>(j.share, j.share_dtype, row * j.share_strides[0] + column * j.share_strides[1]);
    store_same<A>(j.y, j.y_dtype, to, load<A>(j.y, j.y_dtype, to) + joining(sum, j.join, static_cast<A>(j.factor), j.y_dtype));
  }
}

}  // namespace

extern "C" {

__global__ void dequantize_f64(const __grid_constant__ Dequantize d) { dequantize<double>(d); }
__global__ void dequantize_f32(const __grid_constant__ Dequantize d) { dequantize<float>(d); }
__global__ void add_bias_f64(const __grid_constant__ AddBias a) { add_bias<double>(a); }
__global__ void add_bias_f32(const __grid_constant__ AddBias a) { add_bias<float>(a); }
__global__ void join_share_f64(const __grid_constant__ JoinShare j) { join_share<double>(j); }
__global__ void join_share_f32(const __grid_constant__ JoinShare j) { join_share<float>(j); }

__global__ void spread_columns(const __grid_constant__ Spread s) {
  for (std::int64_t at = first_index(); at < s.rows * s.columns; at += index_step()) {
    const std::int64_t i = at / s.columns, j = at % s.columns;
    const std::int32_t channel = s.places[2 * (s.row_begin + j)];
    if (channel < 0) continue;
    const double value = load<double>(s.x, s.x_dtype, i * s.x_strides[0] + j * s.x_strides[1]);
    store_same<double>(s.y, s.y_dtype, i * s.y_strides[0] + channel * s.y_strides[1], value);
  }
}

}  // extern "C"
}  // namespace graft::cuda
