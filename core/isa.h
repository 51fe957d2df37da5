// CPU instruction sets. Kernels exist per set and are chosen at run time.
#pragma once

#include <optional>
#include <string_view>

namespace graft {

enum class Isa {
  scalar,      // what every processor of the architecture has
  avx2,        // x86-64, with FMA and F16C
  avx512,      // x86-64, with F, BW, DQ, VL
  avx512_dot,  // and BF16, VNNI and VBMI: the dot products of halves and of bytes, and bytes from anywhere
  neon,        // AArch64, all of them
};

inline constexpr Isa all_isas[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512_dot, Isa::neon};

/// Whether a processor that has `isa` has `part` too: the sets of one architecture are from narrow to wide, and scalar is in all.
constexpr bool includes(Isa isa, Isa part) { return part == Isa::scalar || part == isa || (isa != Isa::neon && part < isa); }

std::string_view name(Isa isa);
/// The set of this name; ValueError if there is none.
Isa isa_named(std::string_view name);

/// The widest set that this processor and this build offer.
Isa best_isa();

/// The set that kernels are chosen for: best_isa(), or the pinned one.
Isa isa();

/// Pins the set (tests, benches), or unpins it; ValueError if the processor lacks it.
void pin_isa(std::optional<Isa> isa);

}  // namespace graft
