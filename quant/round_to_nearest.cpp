#include "graft/quant/round_to_nearest.h"

#include "graft/core/parallel.h"
#include "graft/quant/grid.h"

namespace graft::quant {
namespace {

// EETQ rounds halves away from 0, and a channel of zeros (0/0) becomes the greatest code of all.
float encode_eetq(float w, const GroupGrid& group) {
  if (group.scale == 0) return group.max_code;
  return std::clamp(std::round(w / group.scale) + group.zero, 0.0f, group.max_code);
}

}  // namespace

Quantized round_to_nearest(const Tensor& weight, const Grid& grid) {
  validate(grid);
  const Tensor w = checked_weight(weight, "round_to_nearest");
  const std::int64_t out = w.dim(0), in = w.dim(1), length = grid.group_length(in), groups = grid.groups(in);
  Quantized result{grid, Tensor::empty({out, in}, DType::u8), Tensor::empty({out, groups}),
                   Tensor::empty({out, groups}, DType::u8), plain_g_idx(in, grid)};
  const float* values = w.data<float>();
  auto* codes = result.codes.data<std::uint8_t>();
  auto* zero = result.zero.data<std::uint8_t>();
  float* scale = result.scale.data<float>();
  const bool eetq = grid.rule == GridRule::eetq;
  parallel_ranges(out, rows_per_chunk(in), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n)
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t first = n * in + g * length, last = n * in + std::min((g + 1) * length, in);
        const GroupGrid group = fit_group(values + first, last - first, grid);
        for (std::int64_t i = first; i < last; ++i)
          codes[i] = static_cast<std::uint8_t>(eetq ? encode_eetq(values[i], group) : encode(values[i], group));
        scale[n * groups + g] = eetq && group.scale == 0 ? 0 : rounded_scale(group.scale, grid.scale_dtype);
        zero[n * groups + g] = static_cast<std::uint8_t>(group.zero);
      }
  });
  return result;
}

}  // namespace graft::quant
