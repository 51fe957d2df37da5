#include "graft/quant/cpu/dots.h"

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
#include "graft/core/cpu/simd_avx512.h"
#include "graft/quant/cpu/dots.inl"

namespace graft::quant {
namespace {

// What both kinds of item share, sixteen to a register.
template <int bits>
struct Items {
  using V = avx512::F32;
  using Words = __m512i;
  using Item = __m512i;

  // Words of three bytes: those to a lane whose numbers `places` has.
  struct Places {
    alignas(64) std::uint8_t bytes[64] = {};
    constexpr Places(int a, int b, int c, int d) {
      for (int lane = 0; lane < 16; ++lane)
        for (int i = 0; i < 4; ++i)
          bytes[4 * lane + i] = static_cast<std::uint8_t>(3 * lane + (i == 0 ? a : i == 1 ? b : i == 2 ? c : d));
    }
  };
  [[gnu::always_inline]] static Words load_spread(const std::uint8_t* p, const Places& places) {
    return _mm512_permutexvar_epi8(_mm512_load_si512(places.bytes), _mm512_maskz_loadu_epi32(0xfff, p));
  }
  [[gnu::always_inline]] static Item load_items(const void* p) { return _mm512_loadu_si512(p); }
  [[gnu::always_inline]] static void store(std::uint32_t* p, Item item) { _mm512_storeu_si512(p, item); }
  [[gnu::always_inline]] static Item set(std::uint32_t item) { return _mm512_set1_epi32(static_cast<int>(item)); }
};

// Two bf16 to a lane: codes less the middle of their range, which keeps sums small, but for those of eight bits, which it would cost
// another instruction.
template <int bits>
struct Halves : Items<bits> {
  using typename Items<bits>::Words;
  using typename Items<bits>::Item;
  using Sum = __m512;
  static constexpr Dot dot = Dot::bf16;
  static constexpr int origin = bits == 8 ? 0 : 1 << (bits - 1);
  static constexpr bool takes_digits = false;

  // Of three bits, codes 0 … 3 at the bottom of the lane's lower half, 4 … 7 at that of its upper one.
  [[gnu::always_inline]] static Words load(const std::uint8_t* p) {
    if constexpr (bits == 3) {
      static constexpr typename Items<bits>::Places places{0, 1, 1, 2};
      return _mm512_srlv_epi16(Items<bits>::load_spread(p, places), _mm512_set1_epi32(4 << 16));
    } else {
      return Items<bits>::load_items(p);
    }
  }

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
      // The upper halves of codes j and j + 2 as f32, whose lower ones are zero for integers of eight bits.
      static constexpr UpperHalves places;
      return _mm512_permutex2var_epi16(as_f32<j>(words), _mm512_load_si512(places.numbers), as_f32<j + 2>(words));
    } else {
      static constexpr Table table;
      const Words shifted = j > 0 ? _mm512_srli_epi32(words, bits * j) : words;
      return _mm512_permutexvar_epi16(shifted, _mm512_load_si512(table.values));
    }
  }
  // Of one register, each followed by that of another.
  struct UpperHalves {
    alignas(64) std::uint16_t numbers[32] = {};
    constexpr UpperHalves() {
      for (int lane = 0; lane < 16; ++lane)
        for (int from = 0; from < 2; ++from) numbers[2 * lane + from] = static_cast<std::uint16_t>(32 * from + 2 * lane + 1);
    }
  };
  template <int j>
  [[gnu::always_inline]] static __m512i as_f32(Words words) {
    __m512i code;
    if constexpr (j == 0) code = _mm512_and_si512(words, _mm512_set1_epi32(0xff));
    else if constexpr (j == 3) code = _mm512_srli_epi32(words, 24);
    else
      code = _mm512_shuffle_epi8(
          words, _mm512_broadcast_i32x4(_mm_setr_epi8(j, -1, -1, -1, j + 4, -1, -1, -1, j + 8, -1, -1, -1, j + 12, -1, -1, -1)));
    return _mm512_castps_si512(_mm512_cvtepi32_ps(code));
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
  static constexpr bool takes_digits = true;

  // Of three bits, a pair of codes at the bottom of each byte.
  [[gnu::always_inline]] static Words load(const std::uint8_t* p) {
    if constexpr (bits == 3) {
      static constexpr typename Items<bits>::Places places{0, 1, 2, 0};
      const __m512i begins = _mm512_set1_epi64(0x32'2c'26'20'12'0c'06'00);
      return _mm512_multishift_epi64_epi8(begins, Items<bits>::load_spread(p, places));
    } else {
      return Items<bits>::load_items(p);
    }
  }
  template <int j>
  [[gnu::always_inline]] static Item item(Words words) {
    if constexpr (bits == 8) return words;
    return _mm512_and_si512(j > 0 ? _mm512_srli_epi32(words, bits * j) : words, _mm512_set1_epi8((1 << bits) - 1));
  }
  [[gnu::always_inline]] static Sum zero() { return Sum{}; }
  [[gnu::always_inline]] static Sum start(std::uint32_t value) { return (Sum)_mm512_set1_epi32(static_cast<int>(value)); }
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
