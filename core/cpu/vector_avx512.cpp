// Only the loops that keep the same bits on registers of any width.
#include "graft/core/cpu/vector.h"

#if defined(__AVX512F__)  // empty where the processor has no such set

#include <immintrin.h>

namespace graft::cpu {
namespace {

constexpr int register_bytes = 64;
constexpr int tile_rows = 4;

#define GRAFT_F16C  // its intrinsics are there
#include "graft/core/cpu/vector.inl"

}  // namespace

namespace avx512 {
constexpr HalfLoops half_loops = make_half_loops();
constexpr Bf16Loops bf16_loops = make_bf16_loops();
}  // namespace avx512

}  // namespace graft::cpu

#endif
