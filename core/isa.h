// CPU instruction sets, from narrow to wide. Kernels exist per set and are chosen at run time.
#pragma once

#include <optional>
#include <string_view>

namespace graft {

// avx2 with FMA and F16C; avx512 with F, BW, DQ, VL; avx512_dot with BF16 and VNNI besides, the dot products of halves and of bytes.
enum class Isa { scalar, avx2, avx512, avx512_dot };

std::string_view name(Isa isa);

/// The widest set that this processor and this build offer.
Isa best_isa();

/// The set that kernels are chosen for: best_isa(), or the pinned one.
Isa isa();

/// Pins the set (tests, benches), or unpins it; ValueError if the processor lacks it.
void pin_isa(std::optional<Isa> isa);

}  // namespace graft
