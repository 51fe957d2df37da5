#include "graft/core/cpu/gemm_units.h"

#if defined(__AVX512BF16__)
#include "graft/core/cpu/gemm_kernels.inl"
#include "graft/core/cpu/simd_avx512.h"

namespace graft::cpu {
namespace {

// Sixteen pairs, multiplied with pairs and added to sixteen sums.
struct Pairs : graft::avx512::F32 {
  using Element = Pair;
  using F32::load;
  using F32::set;
  using F32::store;

  [[gnu::always_inline]] static __m512i load(const Pair* p) { return _mm512_loadu_si512(p); }
  [[gnu::always_inline]] static void store(Pair* p, __m512i x) { _mm512_storeu_si512(p, x); }
  [[gnu::always_inline]] static void store(Pair* p, __m512i x, int n) {
    _mm512_mask_storeu_epi32(p, static_cast<__mmask16>((1u << n) - 1), x);
  }
  [[gnu::always_inline]] static __m512i set(Pair x) { return _mm512_set1_epi32(__builtin_bit_cast(int, x)); }
  [[gnu::always_inline]] static Reg fma(__m512i a, __m512i b, Reg c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }

  // Rounded, and side by side.
  [[gnu::always_inline]] static __m512i pairs(Reg first, Reg second) {
    const __m512i of_first = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i of_both =
        _mm512_or_si512(of_first, _mm512_add_epi32(_mm512_slli_epi32(of_first, 16), _mm512_set1_epi32(16 << 16)));
    return _mm512_permutexvar_epi16(of_both, (__m512i)_mm512_cvtne2ps_pbh(second, first));
  }
  [[gnu::always_inline]] static Pair pair(float first, float second) {
    return __builtin_bit_cast(Pair, _mm_cvtsi128_si32(_mm512_castsi512_si128(pairs(set(first), set(second)))));
  }
};

}  // namespace

const GemmKernels<Pair>* gemm_avx512_dot() {
  static constexpr GemmKernels<Pair> kernels{.width = Pairs::width,
                                             .rows = 6,
                                             .columns = 4 * Pairs::width,
                                             .tiles = tiles<Pairs, 6, 4>,
                                             .row_tiles = row_tiles<Pairs, 6, 4>,
                                             .pack = pack<Pairs>,
                                             .dot = nullptr,
                                             .axpy = nullptr};
  return &kernels;
}

}  // namespace graft::cpu
#else
namespace graft::cpu {
const GemmKernels<Pair>* gemm_avx512_dot() { return nullptr; }
}  // namespace graft::cpu
#endif
