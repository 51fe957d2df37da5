#include "graft/core/cpu/attention_dots.h"

#if defined(__AVX512BF16__)
#include "graft/core/cpu/simd_avx512.h"

namespace graft::cpu {
namespace {

using V = graft::avx512::F32;
constexpr float infinity = __builtin_inff();

[[gnu::always_inline]] inline __mmask16 first_lanes(std::int64_t n) {
  return n >= 16 ? 0xffff : n > 0 ? static_cast<__mmask16>((1u << n) - 1) : 0;
}
[[gnu::always_inline]] inline __mmask32 first_halves(std::int64_t n) {
  return n >= 32 ? 0xffffffff : static_cast<__mmask32>((1u << n) - 1);
}

[[gnu::always_inline]] inline V::Reg score(const float* scores, const float* bias, V::Reg scale, std::int64_t at, __mmask16 lanes) {
  const V::Reg x = V::mul(_mm512_maskz_loadu_ps(lanes, scores + at), scale);
  return bias ? V::add(x, _mm512_maskz_loadu_ps(lanes, bias + at)) : x;
}

// eˣ as in vector.inl, for what may become 0 where it is no float of full precision.
[[gnu::always_inline]] inline V::Reg exp(V::Reg x) {
  const V::Reg round = V::set(0x1.8p23f), limited = _mm512_min_ps(V::set(88.0f), x);  // a NaN, the second operand, stays
  const V::Reg shifted = V::fma(limited, V::set(1.44269504f), round), n = V::sub(shifted, round);
  const V::Reg r = V::fma(n, V::set(2.12194440e-4f), V::fma(n, V::set(-0.693359375f), limited));
  V::Reg p = V::fma(V::set(1.381401010e-3f), r, V::set(8.369000817e-3f));
  p = V::fma(p, r, V::set(4.166841569e-2f));
  p = V::fma(p, r, V::set(1.666651828e-1f));
  p = V::fma(p, r, V::set(4.999999329e-1f));
  p = V::add(V::fma(p, V::mul(r, r), r), V::set(1.0f));
  const __m512i power = _mm512_slli_epi32(
      _mm512_add_epi32(_mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_castps_si512(round)), _mm512_set1_epi32(127)), 23);
  const __mmask16 kept = _mm512_cmp_ps_mask(x, V::set(-87.0f), _CMP_NLT_UQ);
  return _mm512_maskz_mul_ps(kept, p, _mm512_castsi512_ps(power));
}

// The numbers of `low`, then those of `high`.
[[gnu::always_inline]] inline __m512i halves(V::Reg low, V::Reg high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

float fold(const float* scores, const float* bias, float scale, std::int64_t n, std::int64_t room, float& largest, float& sum,
           bf16* weights) {
  const V::Reg factor = V::set(scale);
  V::Reg most = V::set(-infinity);
  __mmask16 nan = 0;
  for (std::int64_t j = 0; j < n; j += 16) {
    const __mmask16 lanes = first_lanes(n - j);
    const V::Reg x = score(scores, bias, factor, j, lanes);
    nan |= _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    most = _mm512_mask_max_ps(most, lanes, most, x);
  }
  const float found = nan ? __builtin_nanf("") : _mm512_reduce_max_ps(most);
  const float next = found > largest || nan ? found : largest;
  if (next == -infinity) {
    for (std::int64_t j = 0; j < room; j += 32) _mm512_storeu_si512(weights + j, _mm512_setzero_si512());
    return 1;
  }
  const V::Reg shift = V::set(next);
  V::Reg sums[2] = {V::zero(), V::zero()};
  for (std::int64_t j = 0; j < room; j += 32) {
    V::Reg p[2];
    for (int i = 0; i < 2; ++i) {
      const __mmask16 lanes = first_lanes(n - j - 16 * i);
      p[i] = _mm512_maskz_mov_ps(lanes, exp(V::sub(score(scores, bias, factor, j + 16 * i, lanes), shift)));
      sums[i] = V::add(sums[i], p[i]);
    }
    _mm512_storeu_si512(weights + j, halves(p[0], p[1]));
  }
  const float shrink = next == largest ? 1 : _mm512_cvtss_f32(exp(V::set(largest - next)));
  sum = sum * shrink + V::sum(V::add(sums[0], sums[1]));
  largest = next;
  return shrink;
}

struct Weighed {
  V::Reg p, ds;
};
[[gnu::always_inline]] inline Weighed weighed(const AttentionDots::Query& query, const float* bias, V::Reg scale, std::int64_t j) {
  const __mmask16 lanes = first_lanes(query.n - j);
  const V::Reg p =
      _mm512_maskz_mov_ps(lanes, exp(V::sub(score(query.scores, bias, scale, j, lanes), V::set(query.shift))));
  return {p, _mm512_maskz_mul_ps(lanes, p, V::sub(_mm512_maskz_loadu_ps(lanes, query.dweights + j), V::set(query.delta)))};
}

void weigh(const AttentionDots::Query& first, const AttentionDots::Query& second, const float* bias, float scale,
           std::int64_t room, Pair* weights, Pair* dscores) {
  const V::Reg factor = V::set(scale);
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i side_by_side = _mm512_or_si512(lane, _mm512_add_epi32(_mm512_slli_epi32(lane, 16), _mm512_set1_epi32(16 << 16)));
  for (std::int64_t j = 0; j < room; j += 16) {
    const Weighed a = weighed(first, bias, factor, j), b = weighed(second, bias, factor, j);
    const __m512i ds = halves(a.ds, b.ds);
    _mm512_storeu_si512(weights + j, _mm512_permutexvar_epi16(side_by_side, halves(a.p, b.p)));
    _mm512_storeu_si512(dscores + j, _mm512_permutexvar_epi16(side_by_side, ds));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(first.dscores + j), _mm512_castsi512_si256(ds));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(second.dscores + j), _mm512_extracti64x4_epi64(ds, 1));
  }
}

float dot(const bf16* x, const bf16* y, std::int64_t n) {
  V::Reg sum = V::zero();
  for (std::int64_t i = 0; i < n; i += 32) {
    const __mmask32 lanes = first_halves(n - i);
    sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(lanes, x + i), (__m512bh)_mm512_maskz_loadu_epi16(lanes, y + i));
  }
  return V::sum(sum);
}

void narrow(const float* x, float scale, std::int64_t n, bf16* y) {
  const V::Reg factor = V::set(scale);
  for (std::int64_t i = 0; i < n; i += 32) {
    const V::Reg low = _mm512_maskz_loadu_ps(first_lanes(n - i), x + i);
    const V::Reg high = _mm512_maskz_loadu_ps(first_lanes(n - i - 16), x + i + 16);
    _mm512_mask_storeu_epi16(y + i, first_halves(n - i), halves(V::mul(low, factor), V::mul(high, factor)));
  }
}

void narrow_columns(const float* x, std::int64_t ldx, float scale, std::int64_t rows, std::int64_t columns, bf16* y,
                    std::int64_t ldy) {
  const V::Reg factor = V::set(scale);
  for (std::int64_t j = 0; j < columns; j += 16)
    for (std::int64_t i = 0; i < rows; i += 16) {
      V::Reg block[16];
      for (int r = 0; r < 16; ++r)
        block[r] = i + r < rows ? V::mul(_mm512_maskz_loadu_ps(first_lanes(columns - j), x + (i + r) * ldx + j), factor) : V::zero();
      V::transpose(block);
      const __mmask16 lanes = first_lanes(rows - i);
      bf16* to = y + j * ldy + i;
      for (std::int64_t c = 0; c < 16 && c < columns - j; c += 2, to += 2 * ldy) {
        const __m512i both = halves(block[c], block[c + 1]);
        _mm256_mask_storeu_epi16(to, lanes, _mm512_castsi512_si256(both));
        if (c + 1 < columns - j) _mm256_mask_storeu_epi16(to + ldy, lanes, _mm512_extracti64x4_epi64(both, 1));
      }
    }
}

}  // namespace

const AttentionDots* attention_avx512_dot() {
  static constexpr AttentionDots dots{fold, weigh, dot, narrow, narrow_columns};
  return &dots;
}

}  // namespace graft::cpu
#else
namespace graft::cpu {
const AttentionDots* attention_avx512_dot() { return nullptr; }
}  // namespace graft::cpu
#endif
