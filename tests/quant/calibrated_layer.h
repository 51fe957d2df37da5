// A layer with correlated inputs, some of them loud, on the tested device, and how badly a quantized weight does on them.
#pragma once

#include <cmath>
#include <vector>

#include "graft/core/rng.h"
#include "graft/quant/input_moments.h"
#include "graft/quant/quantize.h"
#include "graft/tests/support/tensors.h"

namespace graft::test {

inline std::vector<float> normals(std::uint64_t seed, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const auto words = random_block(seed, 0, static_cast<std::uint64_t>(i));
    values[static_cast<std::size_t>(i)] = static_cast<float>(to_normals(words[0], words[1])[0]);
  }
  return values;
}

struct CalibratedLayer {
  Tensor weight;  // [out, in]
  Tensor x;       // [tokens, in]
  quant::InputMoments inputs;
};

inline CalibratedLayer make_layer(std::int64_t out, std::int64_t in, std::int64_t tokens, std::uint64_t seed = 1) {
  const std::int64_t hidden = in / 4 + 1;
  const auto source = normals(seed, tokens * hidden), mix = normals(seed + 1, hidden * in),
             noise = normals(seed + 2, tokens * in);
  const auto loudness = normals(seed + 3, in);
  std::vector<float> x(static_cast<std::size_t>(tokens * in));
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t k = 0; k < in; ++k) {
      float sum = 0.4f * noise[t * in + k];
      for (std::int64_t h = 0; h < hidden; ++h)
        sum += source[t * hidden + h] * mix[h * in + k] / std::sqrt(static_cast<float>(hidden));
      x[t * in + k] = sum * std::exp(0.8f * loudness[k]);
    }
  auto w = normals(seed + 4, out * in);
  for (float& value : w) value *= 0.02f * (1 + value * value / 4);  // heavy tails
  CalibratedLayer layer{from(w, {out, in}), from(x, {tokens, in}), quant::InputMoments(in)};
  layer.inputs.add(layer.x);
  return layer;
}

/// ‖X (W − Q)ᵀ‖² / ‖X Wᵀ‖²
inline double output_error(const CalibratedLayer& layer, const Tensor& q) {
  const std::int64_t out = layer.weight.dim(0), in = layer.weight.dim(1), tokens = layer.x.dim(0);
  const auto x = layer.x.to_vector<double>(), w = layer.weight.to_vector<double>(), v = q.to_vector<double>();
  double error = 0, size = 0;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t n = 0; n < out; ++n) {
      double y = 0, change = 0;
      for (std::int64_t k = 0; k < in; ++k) {
        y += x[t * in + k] * w[n * in + k];
        change += x[t * in + k] * (w[n * in + k] - v[n * in + k]);
      }
      size += y * y;
      error += change * change;
    }
  return error / size;
}

}  // namespace graft::test
