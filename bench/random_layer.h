// Layers of random codes: nothing that is measured may depend on what a weight says, but much on its being more than one page of zeros.
#pragma once

#include <cmath>

#include "graft/core/rng.h"
#include "graft/quant/format.h"

namespace graft::bench {

struct LayerShape {
  std::int64_t in, out;
  int bits;
  std::int64_t group_size;
  bool act_order = false;  // channels of a group lie apart; `in` must be no multiple of 1009
  bool affine = false;     // offsets instead of zeros
};

/// Weights with a deviation of about 1/√in, so that a product is as large as its operand.
inline quant::Decoded random_layer(const LayerShape& shape) {
  quant::Decoded d;
  d.in = shape.in;
  d.out = shape.out;
  d.bits = shape.bits;
  d.group_size = shape.act_order ? 0 : shape.group_size;
  const std::int64_t groups = (shape.in + shape.group_size - 1) / shape.group_size;
  for (std::int64_t k = 0; k < shape.in; ++k)
    d.groups.push_back(static_cast<std::int32_t>((shape.act_order ? k * 1009 % shape.in : k) / shape.group_size));
  const std::uint32_t mask = (1u << shape.bits) - 1;
  const float unit = 4 / (static_cast<float>(mask) * std::sqrt(static_cast<float>(shape.in)));
  std::vector<float> scales(static_cast<std::size_t>(groups * shape.out)), zeros(scales.size());
  for (std::size_t i = 0; i < scales.size(); ++i) {
    const auto words = random_block(1, 0, i);
    scales[i] = unit * (0.5f + to_uniform(words[0]));
    const auto zero = static_cast<float>(mask / 4 + words[1] % (mask / 2 + 1));  // not far from the middle
    zeros[i] = shape.affine ? -scales[i] * zero : zero;
  }
  d.scales = Tensor::from(scales, {groups, shape.out});
  (shape.affine ? d.offsets : d.zeros) = Tensor::from(zeros, {groups, shape.out});
  d.codes = [mask, out = shape.out](std::int64_t k0, std::int64_t k1, std::int64_t n0, std::int64_t n1, std::uint8_t* codes) {
    for (std::int64_t k = k0; k < k1; ++k)
      for (std::int64_t n = n0; n < n1; ++n)
        *codes++ = static_cast<std::uint8_t>((static_cast<std::uint64_t>(k * out + n) * 0x9e3779b97f4a7c15u >> 40) & mask);
  };
  return d;
}

}  // namespace graft::bench
