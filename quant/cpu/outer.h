// The outer products of a few rows, in parts: each a run of every product's memory.
#pragma once

#include "graft/core/cpu/gemm.h"
#include "graft/quant/cpu/units.h"

namespace graft::quant {

/// ValueError for shapes that do not fit, TypeError for dtypes.
void check_operands(std::span<const Outer> all);

class OuterParts {
 public:
  /// None of them if not all of them fit.
  OuterParts(std::span<const Outer> all, std::int64_t parts);
  /// Whether they can be made in parts: few rows, products in f32, and what is read and written lies row by row.
  static bool fit(std::span<const Outer> all);
  /// What run(part) writes, to be asked for in so many steps.
  std::vector<Ahead> memory(std::int64_t part, std::int64_t steps) const;
  void run(std::int64_t part) const;

 private:
  /// Elements [begin, end) of a product.
  struct Run {
    std::int64_t begin, end;
  };
  Run run_of(const Outer& outer, std::int64_t part) const;

  std::span<const Outer> all_;
  std::int64_t parts_;
  const cpu::GemmKernels<float>& kernels_;
};

}  // namespace graft::quant
