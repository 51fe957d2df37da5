// What a search for integer weights takes and returns. Every search speaks of one linear layer with weight w [out, in] and of
// w[n, k] ≈ scale[n, g] · (code[n, k] − zero[n, g]) with g = g_idx[k].
#pragma once

#include <algorithm>

#include "graft/core/tensor.h"

namespace graft::quant {

/// How the scale and zero point of a group follow from its weights.
enum class GridRule {
  gptq,  // the range is widened to hold 0; symmetric: code 2^(bits−1) stands for 0
  awq,   // the range from the least to the greatest weight as it is; symmetric: one code at the negative end stays unused
  eetq,  // 8 bits per output channel: scale = max|w| / 128 and halves rounded away from 0, so that +max|w| is cut to 127/128
};

/// The integer grid of a weight: each group of `group_size` neighbouring input channels of one output has a scale and a zero
/// point.
struct Grid {
  int bits = 4;                   // 2 … 8
  std::int64_t group_size = 128;  // -1: one group; the last group may be short
  bool sym = true;
  GridRule rule = GridRule::gptq;
  double mse = 0;  // exponent of GPTQ's search for a narrower range (2.4 is usual); 0: the full range
  DType scale_dtype =
      DType::f16;  // scales are rounded to it before codes are chosen (EETQ: after), so that codes fit what is stored

  std::int64_t group_length(std::int64_t in) const { return group_size > 0 ? std::min(group_size, in) : in; }
  std::int64_t groups(std::int64_t in) const { return (in + group_length(in) - 1) / group_length(in); }
  int max_code() const { return (1 << bits) - 1; }
};

/// EETQ's only grid.
inline Grid eetq_grid(DType scale_dtype = DType::f16) { return {8, -1, true, GridRule::eetq, 0, scale_dtype}; }

/// ValueError naming the field for bits outside 2 … 8, a group size that is neither -1 nor positive, a negative exponent, scales
/// that are not f32, f16 or bf16, and settings that the rule does not have.
void validate(const Grid& grid);

/// A weight on its grid.
struct Quantized {
  Grid grid;
  Tensor codes;  // u8 [out, in], in the channel order of the weight
  Tensor scale;  // f32 [out, groups]; every value is representable in grid.scale_dtype
  Tensor zero;   // u8 [out, groups]
  Tensor g_idx;  // i32 [in]

  std::int64_t in_features() const { return codes.dim(1); }
  std::int64_t out_features() const { return codes.dim(0); }
};

/// ValueError or TypeError naming the member whose shape, dtype or values (codes and zeros above max_code, groups that do not
/// exist, scales that are not finite) do not fit the rest.
void validate(const Quantized& quantized);

/// The weight [out, in] in f32: each entry the exact product of integer and scale, rounded once. Refuses what validate() refuses.
Tensor dequantize(const Quantized& quantized);

}  // namespace graft::quant
