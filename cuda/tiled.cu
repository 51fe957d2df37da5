// Products with packed weights that are dequantized tile by tile into shared memory, for sm_80 and later: mma.sync over stages that
// cp.async brings. 8 warps, 2 along the rows of x by 4 along the results.
#include "graft/cuda/tiled.cuh"

namespace graft::cuda {
namespace tiles {
namespace {

constexpr int threads = items;

template <class H, bool backward, int rows>
__device__ inline void product(const TiledProduct& p) {
  using Tile = MmaTile<rows>;
  constexpr int stages = Shared80::stages, I = Tile::I, J = Tile::J;
  extern __shared__ __align__(1024) unsigned char memory[];
  const Shared80 lies(rows, p.bits);
  const std::uint32_t base = shared_address(memory);
  const Work at = work(blockIdx.x, p.row_tiles, p.result_tiles);
  const int begin = at.part * p.part_steps, end = begin + p.part_steps < p.steps ? begin + p.part_steps : p.steps;
  const int thread = static_cast<int>(threadIdx.x);
  const Owner own = Tile::owner(thread);
  const Item it = item(thread);
  const auto corner_of = [&](int step) { return corner(backward, at.tile, step, it.box); };

  const CopyX<rows, threads> copy_x(p, at.rows * rows, thread);
  const auto copy_stage = [&](int step) {
    if (step < end) {
      const int stage = (step - begin) % stages;
      copy_x(p, step, base + lies.x(stage));
      copy_codes<backward, threads>(p, at.tile, step, thread, base + lies.codes(stage));
    }
    commit_copies();
  };
  for (int ahead = 0; ahead < stages - 1; ++ahead) copy_stage(begin + ahead);
  int2 place = load_place(p, corner_of(begin), it);

  Sums<Tile> sums;
  for (int step = begin; step < end; ++step) {
    const int stage = (step - begin) % stages;
    const Scales scales = load_scales(p, corner_of(step), it, place);  // on their way while the codes are waited for
    if (!backward) place = step + 1 < end ? load_place(p, corner_of(step + 1), it) : int2{-1, 0};
    wait_for_copies<stages - 2>();
    __syncthreads();  // the stage is there, and that of the step before, with its weights, was read
    copy_stage(step + stages - 1);
    dequantize<H>(p, memory + lies.codes(stage), memory, it, scales);
    __syncthreads();
#pragma unroll(rows == 64 ? depth / 16 : 1)
    for (int k16 = 0; k16 < depth / 16; ++k16) {
      Matrices a[I], b[J / 2];
#pragma unroll
      for (int j = 0; j < J / 2; ++j)
        b[j] = load_matrices<backward>(base + weight_row_of(backward, own.lane, own.column + 16 * j, k16));
#pragma unroll
      for (int i = 0; i < I; ++i) a[i] = load_matrices<false>(base + lies.x(stage) + x_row_of(own.lane, own.warp_row(i), k16));
#pragma unroll
      for (int i = 0; i < I; ++i)
#pragma unroll
        for (int j = 0; j < J; ++j) multiply<H>(sums.at[i][j], a[i].at, b[j / 2].at[j % 2 * 2], b[j / 2].at[j % 2 * 2 + 1]);
    }
  }
  sums.template finish<H, backward>(p, memory);
}

}  // namespace
}  // namespace tiles

extern "C" {

#define GRAFT_TILED(name, H, backward, rows)                                                          \
  __global__ void __launch_bounds__(tiles::threads, 2) name(const __grid_constant__ TiledProduct p) { \
    tiles::product<H, backward, rows>(p);                                                             \
  }
GRAFT_TILED(tiled_forward_bf16_64, bf16, false, 64)
GRAFT_TILED(tiled_forward_bf16_128, bf16, false, 128)
GRAFT_TILED(tiled_forward_f16_64, f16, false, 64)
GRAFT_TILED(tiled_forward_f16_128, f16, false, 128)
GRAFT_TILED(tiled_backward_bf16_64, bf16, true, 64)
GRAFT_TILED(tiled_backward_bf16_128, bf16, true, 128)
GRAFT_TILED(tiled_backward_f16_64, f16, true, 64)
GRAFT_TILED(tiled_backward_f16_128, f16, true, 128)
#undef GRAFT_TILED

}  // extern "C"
}  // namespace graft::cuda
