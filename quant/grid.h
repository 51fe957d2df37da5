// One group on its grid: fitting scale and zero point to weights, and going from weight to code and back.
#pragma once

#include <algorithm>
#include <cmath>

#include "graft/quant/quantize.h"

namespace graft::quant {

struct GroupGrid {
  float scale = 1;
  float zero = 0;      // an integer
  float max_code = 0;  // an integer
  float decode(float code) const { return scale * (code - zero); }
};

/// Nearest integer, ties to even, of a value inside ±2^22.
inline float round_to_even(float x) {
  // Where numbers are one apart, the addition itself rounds.
  constexpr float shift = 0x1.8p23f;
  return (x + shift) - shift;
}

/// The code of `w`, 0 … max_code, ties to even.
inline float encode(float w, const GroupGrid& group) {
  // Anything beyond ±1024 steps is outside every grid, so the cut changes nothing and keeps the rounding in its range.
  const float steps = std::clamp(w / group.scale, -1024.0f, 1024.0f);
  return std::clamp(round_to_even(steps) + group.zero, 0.0f, group.max_code);
}

/// Scale and zero point for weights w[0], …, w[n-1] after the grid's rule. ValueError if the scale is too large for scale_dtype.
GroupGrid fit_group(const float* w, std::int64_t n, const Grid& grid);

/// `value` as scale_dtype stores it, never 0 for a positive one; ValueError if it is too large.
float rounded_scale(float value, DType scale_dtype);

/// `weight` as contiguous f32 on the CPU (itself if it is already). `what` names the caller in the errors: TypeError unless
/// floating, ValueError unless [out, in] with at least one element, all finite.
Tensor checked_weight(const Tensor& weight, const char* what);

/// Rows of `in` elements that one parallel chunk takes.
inline std::int64_t rows_per_chunk(std::int64_t in) { return std::max<std::int64_t>(1, 32768 / in); }

/// 0 for the first `group_length` channels, 1 for the next, …: i32 [in].
Tensor plain_g_idx(std::int64_t in, const Grid& grid);

}  // namespace graft::quant
