#include "graft/quant/cpu/dots.h"

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#include "graft/core/cpu/simd_avx512.h"
#include "graft/quant/cpu/dots.inl"

namespace graft::quant {
namespace {

// What both kinds of item share, sixteen to a register.
template <int bits>
struct Items {
  using V = avx512::F32;
  static constexpr int most_rows_in_parts = 0;
  using Words = __m512i;
  using Item = __m512i;

  // Words of three bytes: codes 0 … 3 at the bottom of the lane's lower half, 4 … 7 at that of its upper one.
  [[gnu::always_inline]] static Words load(const std::uint8_t* p) {
    if constexpr (bits == 3) {
      const __m512i packed = _mm512_maskz_loadu_epi32(0xfff, p);
      const __m512i quarters = _mm512_setr_epi32(0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 9, 10, 11, 0);
      const __m512i halves = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11));
      const __m512i words = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(quarters, packed), halves);
      return _mm512_srlv_epi16(words, _mm512_set1_epi32(4 << 16));
    } else {
      return load_items(p);
    }
  }
  [[gnu::always_inline]] static Item load_items(const void* p) { return _mm512_loadu_si512(p); }
  [[gnu::always_inline]] static void store(std::uint32_t* p, Item item) { _mm512_storeu_si512(p, item); }
  [[gnu::always_inline]] static Item set(std::uint32_t item) { return _mm512_set1_epi32(static_cast<int>(item)); }
};

// Two bf16 to a lane: codes less the middle of their range, which keeps sums small.
template <int bits>
struct Halves : Items<bits> {
  using typename Items<bits>::Words;
  using typename Items<bits>::Item;
  using Sum = __m512;
  static constexpr Dot dot = Dot::bf16;
  static constexpr int origin = 1 << (bits - 1);

  // Up to four bits: a look-up by the lowest five bits of each half, whose table repeats, so that bits above the code do not matter.
  struct Table {
    alignas(64) std::uint16_t values[32] = {};
    constexpr Table() {
      for (int i = 0; i < 32; ++i)
        values[i] = static_cast<std::uint16_t>(
            __builtin_bit_cast(std::uint32_t, static_cast<float>((i & ((1 << bits) - 1)) - origin)) >> 16);
    }
  };
  template <int j>
  [[gnu::always_inline]] static Item item(Words words) {
    if constexpr (bits == 8) {
      // Codes j and j + 2 as f32, whose lower halves are zero for integers of eight bits: one is moved down, and both fit in a lane.
      return _mm512_or_si512(_mm512_srli_epi32(as_f32<j>(words), 16), as_f32<j>(_mm512_srli_epi32(words, 16)));
    } else {
      static constexpr Table table;
      const Words shifted = j > 0 ? _mm512_srli_epi32(words, bits * j) : words;
      return _mm512_permutexvar_epi16(shifted, _mm512_load_si512(table.values));
    }
  }
  // Few rows spend more on making items of eight bits than on products. A code's lower seven bits in the mantissa of 128, and its highest
  // where the exponent makes 256 of that, are parts of two products instead of one: together the code and 256.
  static constexpr int most_rows_in_parts = bits == 8 ? 2 : 0, origin_of_parts = -256;
  template <int j>
  [[gnu::always_inline]] static Sum sum_parts(Sum sum, Words words, Item x) {
    const Words shifted = j > 0 ? _mm512_srli_epi32(words, bits * j) : words;
    const __m512i base = _mm512_set1_epi16(0x4300);
    const Item low = _mm512_ternarylogic_epi32(shifted, _mm512_set1_epi16(0x7f), base, 0xea);
    const Item high = _mm512_ternarylogic_epi32(shifted, _mm512_set1_epi16(0x80), base, 0xea);
    return Halves::sum(Halves::sum(sum, low, x), high, x);
  }
  // Byte j put into the mantissa of a power of two whose unit is the byte's own.
  template <int j>
  [[gnu::always_inline]] static __m512i as_f32(Words words) {
    constexpr float base = static_cast<float>(1 << (23 - 8 * j));
    const __m512i merged =
        _mm512_ternarylogic_epi32(words, _mm512_set1_epi32(0xff << (8 * j)), _mm512_castps_si512(_mm512_set1_ps(base)), 0xea);
    return _mm512_castps_si512(_mm512_sub_ps(_mm512_castsi512_ps(merged), _mm512_set1_ps(base + origin)));
  }
  [[gnu::always_inline]] static Sum zero() { return _mm512_setzero_ps(); }
  [[gnu::always_inline]] static Sum sum(Sum sum, Item codes, Item x) {
    return _mm512_dpbf16_ps(sum, (__m512bh)codes, (__m512bh)x);
  }
  [[gnu::always_inline]] static __m512 value(Sum sum) { return sum; }
};

// Four bytes to a lane.
template <int bits>
struct Bytes : Items<bits> {
  using typename Items<bits>::Words;
  using typename Items<bits>::Item;
  using Sum = std::int32_t __attribute__((vector_size(64)));  // as __m512i, g++ 12 would copy sums between registers
  static constexpr Dot dot = Dot::int8;
  static constexpr int origin = 0;

  template <int j>
  [[gnu::always_inline]] static Item item(Words words) {
    if constexpr (bits == 8) return words;
    const Words shifted = j > 0 ? _mm512_srli_epi32(words, bits * j) : words;
    if constexpr (bits == 3)
      return _mm512_and_si512(_mm512_ternarylogic_epi32(_mm512_set1_epi16(0x00ff), shifted, _mm512_slli_epi32(shifted, 2), 0xca),
                              _mm512_set1_epi8(7));
    else return _mm512_and_si512(shifted, _mm512_set1_epi8((1 << bits) - 1));
  }
  [[gnu::always_inline]] static Sum zero() { return Sum{}; }
  [[gnu::always_inline]] static Sum sum(Sum sum, Item codes, Item x) { return (Sum)_mm512_dpbusd_epi32((__m512i)sum, codes, x); }
  [[gnu::always_inline]] static __m512 value(Sum sum) { return _mm512_cvtepi32_ps((__m512i)sum); }
};

}  // namespace

const DotUnit* bf16_dots_avx512_dot() {
  static constexpr DotUnit unit = dot_unit_of<Halves>();
  return &unit;
}

const DotUnit* int8_dots_avx512_dot() {
  static constexpr DotUnit unit = dot_unit_of<Bytes>();
  return &unit;
}

}  // namespace graft::quant
#else
namespace graft::quant {
const DotUnit* bf16_dots_avx512_dot() { return nullptr; }
const DotUnit* int8_dots_avx512_dot() { return nullptr; }
}  // namespace graft::quant
#endif
