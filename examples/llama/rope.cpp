#include "graft/examples/llama/rope.h"

#include <cmath>
#include <numbers>
#include <vector>

namespace graft::llama {
namespace {

// Radians per position for each pair of a head. In f32 and in transformers' order of operations: at far positions another
// rounding of the frequency would be another angle.
std::vector<float> frequencies(const Rope& rope, std::int64_t head_dim) {
  std::vector<float> result;
  for (std::int64_t i = 0; i < head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(head_dim);
    float frequency = 1.0f / static_cast<float>(std::pow(rope.theta, static_cast<double>(exponent)));
    if (rope.kind == Rope::Kind::linear) {
      frequency /= static_cast<float>(rope.factor);
    } else if (rope.kind == Rope::Kind::llama3) {
      // A pair that needs more than original / low positions for a turn is slowed down, one that needs fewer than original / high is
      // not, and between the two the share of its own frequency that it keeps grows.
      const auto original = static_cast<double>(rope.original_max_position_embeddings);
      const auto factor = static_cast<float>(rope.factor), low = static_cast<float>(rope.low_freq_factor);
      const float wavelength = 1.0f / frequency * static_cast<float>(2 * std::numbers::pi);
      if (wavelength > static_cast<float>(original / rope.low_freq_factor)) {
        frequency /= factor;
      } else if (wavelength >= static_cast<float>(original / rope.high_freq_factor)) {
        const float turns = 1.0f / wavelength * static_cast<float>(original);
        const float share = (turns - low) / static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
        frequency = (1 - share) * frequency / factor + share * frequency;
      }
    }
    result.push_back(frequency);
  }
  return result;
}

}  // namespace

RotaryTable rotary_table(const Rope& rope, std::int64_t head_dim, std::int64_t begin, std::int64_t length, Device device) {
  const std::vector<float> turning = frequencies(rope, head_dim);
  std::vector<float> cosines, sines;
  cosines.reserve(length * turning.size());
  sines.reserve(length * turning.size());
  for (std::int64_t position = begin; position < begin + length; ++position) {
    for (const float frequency : turning) {
      const float angle = static_cast<float>(position) * frequency;
      cosines.push_back(std::cos(angle));
      sines.push_back(std::sin(angle));
    }
  }
  const Shape shape{1, length, head_dim / 2};
  return {Tensor::from(cosines, shape).to(device), Tensor::from(sines, shape).to(device)};
}

}  // namespace graft::llama
