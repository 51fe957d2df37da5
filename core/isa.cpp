#include "graft/core/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <atomic>

#include "graft/core/error.h"

namespace graft {
namespace {

Isa detect() {
#if defined(__x86_64__)
  // The compiler's own probe also asks the operating system whether it saves the wide registers.
  unsigned a = 0, b = 0, c = 0, d = 0;  // of F16C clang 14 cannot ask it
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool dots =
      __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
  return !avx2 ? Isa::scalar : !avx512 ? Isa::avx2 : dots ? Isa::avx512_dot : Isa::avx512;
#elif defined(__aarch64__)
  return Isa::neon;
#else
  return Isa::scalar;
#endif
}

std::atomic<int> pinned{-1};

}  // namespace

std::string_view name(Isa isa) {
  constexpr std::string_view names[] = {"scalar", "avx2", "avx512", "avx512_dot", "neon"};
  return names[static_cast<int>(isa)];
}

Isa isa_named(std::string_view wanted) {
  for (const Isa isa : all_isas)
    if (name(isa) == wanted) return isa;
  fail("there is no instruction set '{}'", wanted);
}

Isa best_isa() {
  static const Isa best = detect();
  return best;
}

Isa isa() {
  const int pin = pinned.load(std::memory_order_relaxed);
  return pin < 0 ? best_isa() : static_cast<Isa>(pin);
}

void pin_isa(std::optional<Isa> isa) {
  check(!isa || includes(best_isa(), *isa), "pin_isa: this processor offers {}, not {}", name(best_isa()),
        name(isa.value_or(Isa::scalar)));
  pinned.store(isa ? static_cast<int>(*isa) : -1, std::memory_order_relaxed);
}

}  // namespace graft
