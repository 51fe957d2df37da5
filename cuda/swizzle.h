// How lines of 16-byte pieces lie in shared memory.
#pragma once

#include "graft/core/host_device.h"

namespace graft::cuda {

inline constexpr int piece_bytes = 16;

/// Byte of a piece of a line, lines having 32, 64 or 128 bytes: XORed with the line's number, so that 8 neighbouring lines' same piece lies
/// in all 32 banks, as the pieces of 128 bytes do. With lines of 128 bytes, in memory aligned to 1024, it is the 128-byte swizzle of wgmma
/// and TMA.
GRAFT_HD constexpr int swizzled(int bytes, int line, int piece) {
  const int pieces = bytes / piece_bytes, sharing = 8 / pieces;
  return line * bytes + (piece ^ (line / sharing % pieces)) * piece_bytes;
}

}  // namespace graft::cuda
