// Products with packed weights that are dequantized tile by tile into shared memory, for sm_90a. One warpgroup copies x and codes
// ahead and dequantizes, two of the wide variant and one of the narrow one multiply by wgmma out of shared memory; mbarriers hand the stages
// to and fro.
#include "graft/cuda/tiled.cuh"

namespace graft::cuda {
namespace tiles {
namespace {

constexpr int stages = Shared90::stages, ahead = 2;  // copies under way beyond the stage that is dequantized

// ---- mbarriers ----

__device__ inline void init(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ inline void wait(std::uint32_t barrier, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra AGAIN;\nDONE:\n}" ::"r"(
          barrier),
      "r"(parity)
      : "memory");
}
/// For a warp: all that its lanes did is before it.
__device__ inline void arrive(std::uint32_t barrier) {
  __syncwarp();
  if (lane() == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// ---- wgmma ----

/// Without the address, which counts in 16 bytes from bit 0 on; 128-byte swizzle.
__device__ constexpr std::uint64_t descriptor(const Operand& o) {
  return std::uint64_t(o.leading / 16) << 16 | std::uint64_t(o.stride / 16) << 32 | std::uint64_t{1} << 62;
}

#define GRAFT_TEN(i) "%" #i "0,%" #i "1,%" #i "2,%" #i "3,%" #i "4,%" #i "5,%" #i "6,%" #i "7,%" #i "8,%" #i "9,"
#define GRAFT_4(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define GRAFT_8_OF_4(j) \
  GRAFT_4(j), GRAFT_4(j + 1), GRAFT_4(j + 2), GRAFT_4(j + 3), GRAFT_4(j + 4), GRAFT_4(j + 5), GRAFT_4(j + 6), GRAFT_4(j + 7)
#define GRAFT_WGMMA(type)                                                                                                   \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9," GRAFT_TEN(1) \
                   GRAFT_TEN(2) GRAFT_TEN(3) GRAFT_TEN(4) GRAFT_TEN(5) "%60,%61,%62,%63}, %64, %65, 1, 1, 1, 0, %66;"       \
               : GRAFT_8_OF_4(0), GRAFT_8_OF_4(8)                                                                           \
               : "l"(x), "l"(w), "n"(int(backward)))

/// 64 rows by all results more, over 16 of the sum. Sums are 0 at first, so that they are always added to.
template <class H, bool backward>
__device__ inline void multiply(float (&d)[width / 8][4], std::uint64_t x, std::uint64_t w) {
  if constexpr (std::is_same_v<H, f16>) GRAFT_WGMMA("f16");
  else GRAFT_WGMMA("bf16");
}

#undef GRAFT_WGMMA
#undef GRAFT_8_OF_4
#undef GRAFT_4
#undef GRAFT_TEN

/// Stages [begin, end) of the sum of a block, round and round in shared memory.
struct Stretch {
  int begin, end;
  __device__ Stretch(const TiledProduct& p, const Work& work)
      : begin(work.part * p.part_steps), end(begin + p.part_steps < p.steps ? begin + p.part_steps : p.steps) {}
};

template <class H, bool backward, int rows>
__device__ inline void produce(const TiledProduct& p, const Work& at, const Shared90& lies, unsigned char* memory) {
  constexpr int threads = group_threads, mine = items / threads;
  const Stretch stretch(p, at);
  const std::uint32_t base = shared_address(memory);
  const int thread = static_cast<int>(threadIdx.x), count = stretch.end - stretch.begin;
  const CopyX<rows, threads> copy_x(p, at.rows * rows, thread);
  const auto copy_stage = [&](int number) {
    if (number < count) {
      const int stage = number % stages, step = stretch.begin + number;
      copy_x(p, step, base + lies.x(stage));
      copy_codes<backward, threads>(p, at.tile, step, thread, base + lies.codes(stage));
    }
    commit_copies();
  };
  const auto corner_of = [&](int number, int i) {
    return corner(backward, at.tile, stretch.begin + number, item(thread + i * threads).box);
  };
  const auto place_of = [&](int number, int i) {
    return number < count ? load_place(p, corner_of(number, i), item(thread + i * threads)) : int2{-1, 0};
  };

  for (int number = 0; number < ahead; ++number) copy_stage(number);
  int2 place[mine];
  for (int i = 0; i < mine; ++i) place[i] = place_of(0, i);
  for (int number = 0; number < count; ++number) {
    const int stage = number % stages, coming = number + ahead;
    // Its place is free when what was in it has been multiplied.
    if (coming < count && coming >= stages) wait(base + lies.empty(coming % stages), (coming / stages - 1) % 2);
    copy_stage(coming);
    Scales scales[mine];  // on their way while the codes are waited for
#pragma unroll
    for (int i = 0; i < mine; ++i) {
      scales[i] = load_scales(p, corner_of(number, i), item(thread + i * threads), place[i]);
      place[i] = place_of(number + 1, i);
    }
    wait_for_copies<ahead>();
    meet<2, threads>();  // the codes that others of this warpgroup copied are there
#pragma unroll
    for (int i = 0; i < mine; ++i)
      dequantize<H>(p, memory + lies.codes(stage), memory + lies.weights(stage), item(thread + i * threads), scales[i]);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    arrive(base + lies.full(stage));
  }
}

template <class H, bool backward, int rows>
__device__ inline void consume(const TiledProduct& p, const Work& at, const Shared90& lies, unsigned char* memory) {
  using Tile = WgmmaTile<rows>;
  const Stretch stretch(p, at);
  const std::uint32_t base = shared_address(memory);
  const int row = (static_cast<int>(threadIdx.x) / group_threads - 1) * Tile::group_rows;  // this warpgroup's first
  constexpr Operand weights = backward ? across : along;
  Sums<Tile> sums;
  const int count = stretch.end - stretch.begin;
  for (int number = 0; number < count; ++number) {
    const int stage = number % stages;
    wait(base + lies.full(stage), number / stages % 2);
    const std::uint64_t x = descriptor(along) + (base + lies.x(stage) + row * line) / 16;
    const std::uint64_t w = descriptor(weights) + (base + lies.weights(stage)) / 16;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k16 = 0; k16 < depth / 16; ++k16)
#pragma unroll
      for (int i = 0; i < Tile::I; ++i)
        multiply<H, backward>(sums.at[i], x + (i * 64 * line + k16 * along.step) / 16, w + k16 * weights.step / 16);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    // One stage's products stay under way; those of the one before are over.
    if (number > 0) {
      asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
      arrive(base + lies.empty((number - 1) % stages));
    }
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  sums.template finish<H, backward>(p, memory);
}

template <class H, bool backward, int rows>
__device__ inline void product(const TiledProduct& p) {
  extern __shared__ __align__(Shared90::align) unsigned char memory[];
  const Shared90 lies(rows, p.bits);
  if (threadIdx.x == 0) {
    const std::uint32_t base = shared_address(memory);
    for (int stage = 0; stage < stages; ++stage) {
      init(base + lies.full(stage), group_threads / warp_size);
      init(base + lies.empty(stage), WgmmaTile<rows>::threads / warp_size);
    }
  }
  __syncthreads();
  const Work at = work(blockIdx.x, p.row_tiles, p.result_tiles);
  if (threadIdx.x < group_threads) produce<H, backward, rows>(p, at, lies, memory);
  else consume<H, backward, rows>(p, at, lies, memory);
}

}  // namespace
}  // namespace tiles

extern "C" {

#define GRAFT_TILED(name, H, backward, rows, resident)                                             \
  __global__ void __launch_bounds__(tiles::group_threads + tiles::WgmmaTile<rows>::threads, resident) \
      name(const __grid_constant__ TiledProduct p) {                                               \
    tiles::product<H, backward, rows>(p);                                                          \
  }
GRAFT_TILED(tiled_forward_bf16_64_sm90a, bf16, false, 64, 2)
GRAFT_TILED(tiled_forward_bf16_256_sm90a, bf16, false, 256, 1)
GRAFT_TILED(tiled_forward_f16_64_sm90a, f16, false, 64, 2)
GRAFT_TILED(tiled_forward_f16_256_sm90a, f16, false, 256, 1)
GRAFT_TILED(tiled_backward_bf16_64_sm90a, bf16, true, 64, 2)
GRAFT_TILED(tiled_backward_bf16_256_sm90a, bf16, true, 256, 1)
GRAFT_TILED(tiled_backward_f16_64_sm90a, f16, true, 64, 2)
GRAFT_TILED(tiled_backward_f16_256_sm90a, f16, true, 256, 1)
#undef GRAFT_TILED

}  // extern "C"
}  // namespace graft::cuda
