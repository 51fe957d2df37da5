// Layers of random codes, of every width and grouping.
#pragma once

#include "graft/core/rng.h"
#include "graft/core/tensor.h"
#include "graft/quant/format.h"

namespace graft::test {}

namespace graft::quant::test {

using namespace graft::test;

inline std::uint32_t word(std::uint64_t seed, std::uint64_t i) { return random_block(seed, 7, i)[0]; }

/// From −3 to 3, so that sums of a few hundred products are exact.
inline Tensor whole_numbers(const Shape& shape, DType dtype, std::uint64_t seed) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < shape.count(); ++i)
    values.push_back(static_cast<float>(word(seed, static_cast<std::uint64_t>(i)) % 7) - 3);
  return Tensor::from(values, shape).to(dtype);
}

enum class Grouping { in_order, shuffled, irregular };

struct Case {
  std::int64_t in, out;
  int bits;
  std::int64_t group_size;
  Grouping grouping = Grouping::in_order;
  bool affine = false;
};

inline std::string to_string(const Case& c) {
  return fmt::format("{}x{} {} bits, groups of {} ({}){}", c.in, c.out, c.bits, c.group_size, static_cast<int>(c.grouping),
                     c.affine ? ", affine" : "");
}

// A layer of random codes, with fractional zeros in every third column.
inline Decoded layer(const Case& c) {
  Decoded d;
  d.in = c.in;
  d.out = c.out;
  d.bits = c.bits;
  const std::int64_t groups = (c.in + c.group_size - 1) / c.group_size;
  d.groups.resize(static_cast<std::size_t>(c.in));
  for (std::int64_t k = 0; k < c.in; ++k) {
    // A permutation of the channels (the multiplier is prime to the sizes here), or any group for any channel.
    const std::int64_t at = c.grouping == Grouping::shuffled ? k * 1009 % c.in : k;
    d.groups[static_cast<std::size_t>(k)] =
        static_cast<std::int32_t>(c.grouping == Grouping::irregular ? word(3, k) % groups : at / c.group_size);
  }
  d.scales = Tensor::empty({groups, c.out});
  Tensor zeros = Tensor::empty({groups, c.out});
  const std::int64_t levels = std::int64_t{1} << c.bits;
  for (std::int64_t i = 0; i < groups * c.out; ++i) {
    const float scale = (0.5f + to_uniform(word(1, i))) / static_cast<float>(levels);
    const float zero = static_cast<float>(word(2, i) % levels) + (i % 3 == 0 ? 0.3f : 0.0f);
    d.scales.data<float>()[i] = scale;
    zeros.data<float>()[i] = c.affine ? -scale * zero : zero;
  }
  (c.affine ? d.offsets : d.zeros) = zeros;
  const int bits = c.bits;
  const std::int64_t out = c.out;
  d.codes = [bits, out](std::int64_t k0, std::int64_t k1, std::int64_t n0, std::int64_t n1, std::uint8_t* codes) {
    for (std::int64_t k = k0; k < k1; ++k)
      for (std::int64_t n = n0; n < n1; ++n) *codes++ = static_cast<std::uint8_t>(word(4, k * out + n) & ((1u << bits) - 1));
  };
  return d;
}

}  // namespace graft::quant::test
