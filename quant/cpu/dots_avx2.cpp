#include "graft/quant/cpu/dots.h"

#if defined(__AVX2__)
#include "graft/core/cpu/simd_avx2.h"
#include "graft/quant/cpu/dots.inl"

namespace graft::quant {
namespace {

// Four bytes to a lane of eight.
template <int bits>
struct Bytes {
  using V = avx2::F32;
  using Words = __m256i;
  using Item = __m256i;
  using Sum = std::int32_t __attribute__((vector_size(32)));  // as __m256i, g++ 12 would copy sums between registers
  static constexpr Dot dot = Dot::int8;
  static constexpr int origin = 0;
  static constexpr bool takes_digits = false;

  // Words of three bytes: codes 0 … 3 at the bottom of the lane's lower half, 4 … 7 at that of its upper one.
  [[gnu::always_inline]] static Words load(const std::uint8_t* p) {
    if constexpr (bits == 3) {
      const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
      const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8));
      const __m256i halves = _mm256_setr_epi8(0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11,  //
                                              4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12, 13, 14, 14, 15);
      const __m256i words = _mm256_shuffle_epi8(_mm256_set_m128i(high, low), halves);
      return _mm256_blend_epi16(words, _mm256_srli_epi16(words, 4), 0xaa);
    } else {
      return load_items(p);
    }
  }
  template <int j>
  [[gnu::always_inline]] static Item item(Words words) {
    if constexpr (bits == 8) return words;
    const Words shifted = j > 0 ? _mm256_srli_epi32(words, bits * j) : words;
    if constexpr (bits == 3)
      return _mm256_or_si256(_mm256_and_si256(shifted, _mm256_set1_epi32(0x00070007)),
                             _mm256_and_si256(_mm256_slli_epi32(shifted, 2), _mm256_set1_epi32(0x07000700)));
    else return _mm256_and_si256(shifted, _mm256_set1_epi8((1 << bits) - 1));
  }
  [[gnu::always_inline]] static Item load_items(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  [[gnu::always_inline]] static void store(std::uint32_t* p, Item item) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), item);
  }
  [[gnu::always_inline]] static Item set(std::uint32_t item) { return _mm256_set1_epi32(static_cast<int>(item)); }
  [[gnu::always_inline]] static Sum zero() { return Sum{}; }
  // Products of bytes are summed in pairs of 16 bits, which saturate: two products with codes of four bits stay below 3810, two with
  // codes of eight bits do not fit and are made of wider numbers.
  [[gnu::always_inline]] static Sum sum(Sum sum, Item codes, Item x) {
    if constexpr (bits < 8) {
      return sum + (Sum)_mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1));
    } else {
      const __m256i even =
          _mm256_madd_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(0xff)), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
      const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(x, 8));
      return sum + ((Sum)even + (Sum)odd);
    }
  }
  [[gnu::always_inline]] static __m256 value(Sum sum) { return _mm256_cvtepi32_ps((__m256i)sum); }
};

}  // namespace

const DotUnit* int8_dots_avx2() {
  static constexpr DotUnit unit = dot_unit_of<Bytes>();
  return &unit;
}

}  // namespace graft::quant
#else
namespace graft::quant {
const DotUnit* int8_dots_avx2() { return nullptr; }
}  // namespace graft::quant
#endif
