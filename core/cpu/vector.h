// Loops over contiguous elements, compiled once per instruction set and chosen at run time. Sums run over a fixed number of
// lanes, so that every set gives the same bits (tile_product excepted: it fuses multiply and add where the set can).
#pragma once

#include "graft/core/elementwise.h"

namespace graft::cpu {

using elementwise::takes_integers;

/// T is float, double, or int64 (for which the entries behind `dot` are null).
template <class T>
struct VectorLoops {
  void (*unary)(UnaryOp op, const T* x, T* y, std::int64_t n, T p0, T p1);
  void (*binary)(BinaryOp op, const T* a, const T* b, T* y, std::int64_t n);
  void (*compare)(BinaryOp op, const T* a, const T* b, bool* y, std::int64_t n);
  void (*select)(const bool* condition, const T* a, const T* b, T* y, std::int64_t n);
  T (*sum)(const T* x, std::int64_t n);
  T (*max)(const T* x, std::int64_t n);  // n ≥ 1; NaN if there is one
  T (*min)(const T* x, std::int64_t n);
  T (*dot)(const T* x, const T* y, std::int64_t n);
  void (*exp_minus)(const T* x, T shift, T* y, std::int64_t n);                             // y = exp(x − shift)
  void (*add_scaled)(const T* x, T scale, const T* y, T* z, std::int64_t n);                // z = x + scale · y
  void (*add_product)(const T* x, const T* y, T* z, std::int64_t n);                        // z += x · y
  void (*mul_shifted)(const T* x, const T* y, T shift, T* z, std::int64_t n);               // z = x · (y − shift)
  void (*rotate)(const T* x, const T* cos, const T* sin, T sign, T* y, std::int64_t half);  // pairs (i, i + half)
  /// c [m, n] (+)= a b, where a[i][p] is at a[i · a_row + p · a_column]; rows of b [k, n] and c are contiguous and n is a
  /// multiple of tile_lanes.
  void (*tile_product)(const T* a, std::int64_t a_row, std::int64_t a_column, const T* b, std::int64_t b_row, T* c,
                       std::int64_t c_row, std::int64_t m, std::int64_t n, std::int64_t k, bool accumulate);
};

inline constexpr std::int64_t tile_lanes = 8;

/// The loops of the instruction set in use.
template <class T>
const VectorLoops<T>& vector_loops();

/// Conversions of the half types.
struct HalfLoops {
  void (*widen)(const f16* x, float* y, std::int64_t n);
  void (*narrow)(const float* x, f16* y, std::int64_t n);
  void (*widen_bf16)(const bf16* x, float* y, std::int64_t n);
  void (*narrow_bf16)(const float* x, bf16* y, std::int64_t n);
  // To f16 or bf16 and back, in place.
  void (*round)(float* x, std::int64_t n);
  void (*round_bf16)(float* x, std::int64_t n);
};
const HalfLoops& half_loops();

/// Loops over bf16 in one pass; operands are apart or the same.
struct Bf16Loops {
  // With the bits that they would have between two conversions.
  void (*unary)(UnaryOp op, const bf16* x, bf16* y, std::int64_t n, float p0, float p1);
  void (*binary)(BinaryOp op, const bf16* a, const bf16* b, bf16* y, std::int64_t n);
  // The same, of `rows` rows, ldx and ldy apart, by the same angles.
  void (*rotate)(const bf16* x, std::int64_t ldx, const float* cos, const float* sin, float sign, bf16* y, std::int64_t ldy,
                 std::int64_t rows, std::int64_t half);
  // Rounded once, and 5e-6 of the result off besides.
  void (*silu_mul)(const bf16* gate, const bf16* x, bf16* y, std::int64_t n);
  void (*silu_mul_backward)(const bf16* gate, const bf16* x, const bf16* dy, bf16* dgate, bf16* dx, std::int64_t n);
};
const Bf16Loops& bf16_loops();

namespace avx2 {
extern const VectorLoops<float> float_loops;
extern const VectorLoops<double> double_loops;
extern const HalfLoops half_loops;
extern const Bf16Loops bf16_loops;
}  // namespace avx2

namespace avx512 {
extern const HalfLoops half_loops;
extern const Bf16Loops bf16_loops;
}  // namespace avx512

namespace neon {
extern const VectorLoops<float> float_loops;
extern const VectorLoops<double> double_loops;
extern const HalfLoops half_loops;
extern const Bf16Loops bf16_loops;
}  // namespace neon

}  // namespace graft::cpu
