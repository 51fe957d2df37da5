// What this machine can do at most, measured in the same run as the rows that are held against it: a shared machine is never as
// fast as its data sheet, nor as fast as an hour ago.
#pragma once

namespace graft::bench {

struct Roofline {
  // Multiply-adds in registers, two operations each, on the widest set that kernels are chosen for: of f32; of bf16 and of bytes by the
  // dot products that kernels use, or f32's again where the set has none.
  double flops_per_second, bf16_per_second, int8_per_second;
  double bytes_per_second;  // reading memory far larger than the caches
};

/// The limits for `threads` threads; measured at the first call for each number.
const Roofline& roofline(int threads);

/// Per cent of the limit that `seconds` reaches for work of so many operations, of which the machine can do so many in a second
/// (a member of Roofline), over so many bytes of memory, whichever bounds it.
double percent_of_limit(double seconds, double operations, double Roofline::*rate, double bytes, int threads);

}  // namespace graft::bench
