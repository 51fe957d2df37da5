// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// Element i of a tensor is a function of (seed, stream, i) alone, so it does not depend on threads or device.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "graft/core/host_device.h"

namespace graft {

/// Ten rounds of Philox on a counter of four words under a key of two.
GRAFT_HD inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * counter[0], p1 = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(p1),
               static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(p0)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

/// The four words of block `block` of a stream: elements 4·block … 4·block+3.
GRAFT_HD inline std::array<std::uint32_t, 4> random_block(std::uint64_t seed, std::uint64_t stream, std::uint64_t block) {
  return philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), static_cast<std::uint32_t>(stream),
                 static_cast<std::uint32_t>(stream >> 32)},
                {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

/// A word as a float in [0, 1): its upper 24 bits.
GRAFT_HD inline float to_uniform(std::uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

/// Two words as two independent standard normals (Box and Muller, 1958). In double, so that devices whose single-precision
/// functions differ in the last bits agree after rounding.
GRAFT_HD inline std::array<double, 2> to_normals(std::uint32_t word0, std::uint32_t word1) {
  const double radius = std::sqrt(-2 * std::log(1 - static_cast<double>(to_uniform(word0))));  // of (0, 1], so that it is finite
  const double angle = 6.283185307179586 * static_cast<double>(to_uniform(word1));
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

/// A source of streams: a seed and the number of the next stream. Every drawing operation takes one stream, so two numbers
/// are the whole state that a resumed run needs.
struct Generator {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
  std::uint64_t next() { return stream++; }
};

}  // namespace graft
