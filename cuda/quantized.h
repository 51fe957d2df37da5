// Arguments of the kernels in quantized.cu, which chunked.cpp launches, and the launch that dense layers with an adapter share with it.
#pragma once

#include "graft/quant/kernels.h"

namespace graft::cuda {

/// Writes the dense weights of a part of a packed matrix: rows [row_begin, row_end), whole words, by columns [column_begin, column_end).
struct Dequantize {
  const std::uint8_t* codes;  // tiles as in quant/kernels.h
  const float *scales, *zeros;
  const std::int32_t* places;  // channel and group of each row
  std::int64_t columns;        // of the packed matrix
  int bits;
  bool affine;
  bool by_channel;  // to[channel][column − column_begin], and fillings nowhere; else to[row − row_begin][…], fillings 0
  std::int64_t row_begin, row_end, column_begin, column_end;
  void* to;
  DType dtype;
  std::int64_t ld;
};

/// y = x + bias, converted.
struct AddBias {
  const void *x, *bias;
  void* y;
  DType x_dtype, bias_dtype, y_dtype;
  std::int64_t rows, columns;
  std::int64_t x_strides[2], y_strides[2], bias_stride;
};

/// y = y + what a share joins it with.
struct JoinShare {
  const void* share;
  void* y;
  DType share_dtype, y_dtype;
  quant::Join join;
  double factor;
  std::int64_t rows, columns;
  std::int64_t share_strides[2], y_strides[2];
};

/// Launches the kernel of JoinShare. `factor` is a rounded share's, as LowRank has it.
void join(const View& share, quant::Join how, double factor, const View& y);

/// y[…, channel of row r] = x[…, r − row_begin]; fillings go nowhere.
struct Spread {
  const void* x;
  void* y;
  const std::int32_t* places;
  DType x_dtype, y_dtype;
  std::int64_t rows, row_begin, columns;
  std::int64_t x_strides[2], y_strides[2];
};

}  // namespace graft::cuda
