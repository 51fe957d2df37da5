// What the host halves of the kernels share: the suffix that a kernel's name has for the type that its arithmetic happens in, and how
// many blocks many small pieces of work take.
#pragma once

#include <algorithm>
#include <cstdint>

#include "graft/core/cpu/block.h"
#include "graft/cuda/backend.h"

namespace graft::cuda {

using cpu::with_accumulator;
using cpu::with_floating;

template <class A>
inline constexpr const char* suffix = std::is_same_v<A, double>  ? "_f64"
                                      : std::is_same_v<A, float> ? "_f32"
                                                                 : "_i64";

inline constexpr int block_threads = 256;

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Blocks for `n` elements, when threads go on to further elements. Follows from the problem alone, as everything here.
constexpr Grid blocks_for(std::int64_t n) { return {std::min<std::int64_t>(divide_up(n, block_threads), 8192)}; }

}  // namespace graft::cuda
