// Stages filled by bulk copies and handed on by mbarriers: one warp produces, two consume.
#include <cstdint>

namespace {

constexpr int stages = 2, width = 64;  // floats to a stage

__device__ unsigned shared_address(const void* pointer) { return unsigned(__cvta_generic_to_shared(pointer)); }
__device__ void init(std::uint64_t* barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
__device__ void wait(std::uint64_t* barrier, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra AGAIN;\nDONE:\n}" ::"r"(
          shared_address(barrier)),
      "r"(parity)
      : "memory");
}
__device__ void arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

enum Fault { none, init_without_fence, full_for_empty, full_not_waited, too_few_bytes, arrival_missing, arrival_before_the_warp };

template <int fault>
__device__ void pipeline(const float* x, float* y, int steps) {
  __shared__ __align__(128) float tile[stages][width];
  __shared__ std::uint64_t full[stages], empty[stages];
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < stages; ++stage) init(&full[stage], 1), init(&empty[stage], 2);
    if (fault != init_without_fence) asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    unsigned elected;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
    if (!elected) return;
    for (int step = 0; step < steps; ++step) {
      const int stage = step % stages, round = step / stages;
      // The fault: the last copy has arrived, and nobody asks whether it was read.
      wait(fault == full_for_empty ? &full[stage] : &empty[stage], (round & 1) ^ 1);
      const unsigned bytes = fault == too_few_bytes ? width * 4 + 16 : width * 4;
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&full[stage])), "r"(bytes)
                   : "memory");
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                       shared_address(tile[stage])),
                   "l"(x + step * width), "r"(width * 4), "r"(shared_address(&full[stage]))
                   : "memory");
    }
  } else {
    const int at = threadIdx.x - 32;
    for (int step = 0; step < steps; ++step) {
      const int stage = step % stages, round = step / stages;
      if (fault != full_not_waited) wait(&full[stage], round & 1);
      y[step * width + at] = 2 * tile[stage][at ^ 1];
      if (fault != arrival_before_the_warp) __syncwarp();
      if (at % 32 == 0 && !(fault == arrival_missing && at == 32)) arrive(&empty[stage]);
    }
  }
}

}  // namespace

#define KERNEL(name) \
  extern "C" __global__ void pipeline_##name(const float* x, float* y, int steps) { pipeline<name>(x, y, steps); }
KERNEL(none)
KERNEL(init_without_fence)
KERNEL(full_for_empty)
KERNEL(full_not_waited)
KERNEL(too_few_bytes)
KERNEL(arrival_missing)
KERNEL(arrival_before_the_warp)

// Written in shared memory, then copied out in bulk, twice from one buffer.
template <bool fence, bool waits>
__device__ void store(float* y) {
  __shared__ __align__(128) float tile[width];
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = threadIdx.x + 100 * round;
    if (fence) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (threadIdx.x == 0) {
      asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(y + round * width),
                   "r"(shared_address(tile)), "r"(width * 4)
                   : "memory");
      asm volatile("cp.async.bulk.commit_group;" ::: "memory");
      if (waits) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    }
    __syncthreads();
  }
}
extern "C" __global__ void store_none(float* y) { store<true, true>(y); }
extern "C" __global__ void store_without_fence(float* y) { store<false, true>(y); }
extern "C" __global__ void store_not_waited(float* y) { store<true, false>(y); }
