#include "graft/bench/roofline.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "graft/core/isa.h"
#include "graft/core/parallel.h"

namespace graft::bench {
namespace {

constexpr int chains = 12;  // independent sums: latency times multiply-adds per cycle, with a margin
constexpr std::int64_t rounds = 1 << 21;

// Keeps a result alive without storing it anywhere.
template <class T>
void keep(const T& value) {
  asm volatile("" : : "m"(value) : "memory");
}

// Makes what a value is unknown to the compiler, which would add up equal sums once.
template <class T>
void hide(T& value) {
  asm volatile("" : "+m"(value));
}

// Each returns the floating-point operations it did.
double spin_scalar() {
  float sums[chains] = {};
  float x = 1.0f;
  hide(x);
  hide(sums);
  for (std::int64_t i = 0; i < rounds; ++i)
    for (float& sum : sums) sum = sum * x + x;
  keep(sums);
  return 2.0 * chains * rounds;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) double spin_avx2() {
  __m256 sums[chains], x = _mm256_set1_ps(1e-9f);
  for (auto& sum : sums) sum = _mm256_setzero_ps();
  hide(sums);
  for (std::int64_t i = 0; i < rounds; ++i)
    for (auto& sum : sums) sum = _mm256_fmadd_ps(x, x, sum);
  keep(sums);
  return 2.0 * 8 * chains * rounds;
}

__attribute__((target("avx512f"))) double spin_avx512() {
  __m512 sums[chains], x = _mm512_set1_ps(1e-9f);
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  hide(sums);
  for (std::int64_t i = 0; i < rounds; ++i)
    for (auto& sum : sums) sum = _mm512_fmadd_ps(x, x, sum);
  keep(sums);
  return 2.0 * 16 * chains * rounds;
}

// Bytes as the AVX2 row multiplies those of up to four bits: pairs of products in 16 bits, pairs of those in 32.
__attribute__((target("avx2"))) double spin_int8_avx2() {
  __m256i sums[chains], codes = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
  asm volatile("" : "+x"(codes));
  for (auto& sum : sums) sum = _mm256_setzero_si256();
  hide(sums);
  for (std::int64_t i = 0; i < rounds; ++i)
    for (auto& sum : sums) {
      __m256i x = codes;
      asm volatile("" : "+x"(x));  // or the product would be made once
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), ones));
    }
  keep(sums);
  return 2.0 * 32 * chains * rounds;
}

__attribute__((target("avx512f,avx512bw,avx512bf16"))) double spin_bf16_avx512() {
  __m512 sums[chains];
  const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3000);
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  hide(sums);
  for (std::int64_t i = 0; i < rounds; ++i)
    for (auto& sum : sums) sum = _mm512_dpbf16_ps(sum, x, x);
  keep(sums);
  return 2.0 * 32 * chains * rounds;
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) double spin_int8_avx512() {
  using Lanes = std::int32_t __attribute__((vector_size(64)));  // as __m512i, g++ 12 would copy sums between registers
  Lanes sums[chains] = {};
  const __m512i x = _mm512_set1_epi8(1);
  hide(sums);
  for (std::int64_t i = 0; i < rounds; ++i)
    for (auto& sum : sums) sum = (Lanes)_mm512_dpbusd_epi32((__m512i)sum, x, x);
  keep(sums);
  return 2.0 * 64 * chains * rounds;
}
#elif defined(__aarch64__)
double spin_neon() {
  constexpr int more = 2 * chains;  // four multiply-adds per cycle, on some
  float32x4_t sums[more], x = vdupq_n_f32(1e-9f);
  for (auto& sum : sums) sum = vdupq_n_f32(0);
  hide(sums);
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 24
    for (auto& sum : sums) sum = vfmaq_f32(sum, x, x);
  keep(sums);
  return 2.0 * 4 * more * rounds;
}
#endif

double spin() {
#if defined(__x86_64__)
  if (isa() >= Isa::avx512) return spin_avx512();
  if (isa() == Isa::avx2) return spin_avx2();
#elif defined(__aarch64__)
  if (isa() == Isa::neon) return spin_neon();
#endif
  return spin_scalar();
}

double spin_bf16() {
#if defined(__x86_64__)
  if (isa() >= Isa::avx512_dot) return spin_bf16_avx512();
#endif
  return spin();
}

double spin_int8() {
#if defined(__x86_64__)
  if (isa() >= Isa::avx512_dot) return spin_int8_avx512();
  if (isa() >= Isa::avx2) return spin_int8_avx2();
#endif
  return spin();
}

std::uint64_t read(const std::uint64_t* data, std::int64_t count) {
  std::uint64_t sums[16] = {};
  for (std::int64_t i = 0; i + 16 <= count; i += 16)
    for (int j = 0; j < 16; ++j) sums[j] += data[i + j];
  return sums[0] + sums[5] + sums[15];
}

// The best of several: anything slower is somebody else's work on this machine.
template <class F>
double best_rate(F&& work) {
  double best = 0;
  for (int i = 0; i < 7; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const double done = work();
    best = std::max(best, done / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

Roofline measure(int threads) {
  const auto previous = thread_pool();
  set_thread_pool(make_thread_pool(threads));
  Roofline roof{};
  const auto rate = [&](double (*spin)()) {
    return best_rate([&] {
      std::vector<double> done(static_cast<std::size_t>(threads));
      parallel_for(threads, [&](std::int64_t i) { done[static_cast<std::size_t>(i)] = spin(); });
      return done[0] * threads;
    });
  };
  roof.flops_per_second = rate(spin);
  roof.bf16_per_second = rate(spin_bf16);
  roof.int8_per_second = rate(spin_int8);
  const std::int64_t words = std::int64_t{1} << 25;  // 256 MB
  std::vector<std::uint64_t> data(static_cast<std::size_t>(words), 1);
  roof.bytes_per_second = best_rate([&] {
    parallel_ranges(words, words / 64,
                    [&](std::int64_t begin, std::int64_t end) { keep(read(data.data() + begin, end - begin)); });
    return static_cast<double>(words) * sizeof(std::uint64_t);
  });
  set_thread_pool(previous);
  return roof;
}

}  // namespace

const Roofline& roofline(int threads) {
  static std::map<int, Roofline> measured;
  const auto found = measured.find(threads);
  return found != measured.end() ? found->second : measured.emplace(threads, measure(threads)).first->second;
}

double percent_of_limit(double seconds, double operations, double Roofline::*rate, double bytes, int threads) {
  const Roofline& roof = roofline(threads);
  return 100 * std::max(operations / (roof.*rate), bytes / roof.bytes_per_second) / seconds;
}

}  // namespace graft::bench
