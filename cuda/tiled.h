// Arguments of the kernels in tiled.cu and tiled_sm90a.cu.
#pragma once

#include "graft/cuda/added.h"
#include "graft/cuda/tile_maps.h"

namespace graft::cuda {

/// y [m, results] = x [m, depth] · W, or dx = dy · Wᵀ, and what is added before it is rounded.
struct TiledProduct {
  const std::uint8_t* codes;
  const float *scales, *zeros;
  const std::int32_t* places;  // channel and group of each row of W
  int rows, columns;           // of the packed W
  int bits;
  bool affine;

  const void* x;    // of a half type, rows of 16-byte columns; forward, channels in the order of W's rows
  std::int64_t ld;  // elements from row to row
  int m, depth;
  int results;  // columns of W that are real, or its rows
  int row_tiles, result_tiles;
  int steps, part_steps;  // stages along the sum, and how many of them a block takes
  int parts;
  float* partial;        // of each tile and part, its sums as its threads have them; null where there is one part
  unsigned* parts_done;  // of each tile

  void* y;
  DType y_dtype;
  bool y_in_pairs;  // two neighbouring results are one aligned piece of memory
  std::int64_t y_strides[2];
  Added added;
};

namespace tiles {

/// What some ranks of a term take of shared memory: `depth` of halves, or half as many in f32.
constexpr int term_bytes(int rows) { return (rows + width) * line; }
inline constexpr int wide_ranks = line / static_cast<int>(sizeof(float));

// The kernel of sm_80: `stages` of x and codes, and the weights of one. In bytes from the beginning of shared memory.
struct Shared80 {
  static constexpr int stages = 3;
  int x_bytes, stage_bytes;
  constexpr Shared80(int rows, int bits) : x_bytes(rows * line), stage_bytes(x_bytes + boxes * code_bytes(bits)) {}
  constexpr int x(int stage) const { return weight_bytes + stage * stage_bytes; }
  constexpr int codes(int stage) const { return x(stage) + x_bytes; }
  constexpr int total() const { return weight_bytes + stages * stage_bytes; }
};

// That of sm_90a: `stages` of all three, x and weights on 1024 bytes, and two mbarriers for each.
struct Shared90 {
  static constexpr int stages = 4, align = 1024;
  int x_bytes, codes_begin, codes_bytes;
  constexpr Shared90(int rows, int bits)
      : x_bytes(rows * line), codes_begin(stages * (x_bytes + weight_bytes)), codes_bytes(boxes * code_bytes(bits)) {}
  constexpr int x(int stage) const { return stage * (x_bytes + weight_bytes); }
  constexpr int weights(int stage) const { return x(stage) + x_bytes; }
  constexpr int codes(int stage) const { return codes_begin + stage * codes_bytes; }
  constexpr int full(int stage) const { return codes(stages) + 16 * stage; }
  constexpr int empty(int stage) const { return full(stage) + 8; }
  constexpr int total() const { return full(stages); }
};

}  // namespace tiles
}  // namespace graft::cuda
