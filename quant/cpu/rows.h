// The kernel rows of quant/kernels.h, by what they do. rows.cpp lists them.
#pragma once

#include "graft/core/cpu/gemm.h"
#include "graft/quant/cpu/units.h"

namespace graft::quant {

inline Shape shape_of(const View& view) { return Shape(std::span(view.sizes, static_cast<std::size_t>(view.rank))); }

/// Plain data of a packed weight, and the kernels for its codes; null if the build lacks the set.
Weights weights(const Packed& packed);
const CodeKernels* code_kernels(Isa isa, int bits);

/// The bias as T; empty if there is none.
template <class T>
std::vector<T> bias_of(const Problem& problem);

/// The result of a problem as the blocked driver writes it; `bias` is scratch that must outlive it.
template <class T>
cpu::Target<T> target(const Problem& problem, std::vector<T>& bias);

/// Codes to sums in registers, for few rows (fused.cpp).
void run_fused(const Problem& problem, Isa isa);

/// Panels of dense weights into the blocked driver, f32 (panels.cpp).
void run_panels(const Problem& problem, Isa isa);

/// The same in f64, with weights exact in f64.
void run_exact(const Problem& problem);

/// The gradient of bf16 through panels of weights rounded to bf16, for sets that multiply pairs of them; without terms that are summed.
void run_rounded(const Problem& problem, Isa isa);

}  // namespace graft::quant
