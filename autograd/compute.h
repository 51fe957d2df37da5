// What the sources of this room share: unrecorded results, computed by the device's kernels. Not part of the public interface.
#pragma once

#include <span>

#include "graft/core/kernels.h"
#include "graft/core/tensor.h"

namespace graft::compute {

// ---- refusals, each naming the operation ----
void require_floating(const Tensor& x, const char* what);
void require_rank(const Tensor& x, int rank, const char* what);
void require_same_device(const Tensor& a, const Tensor& b, const char* what);
/// `index` must be i64 with every entry in [0, extent).
void require_index(const Tensor& index, std::int64_t extent, const char* what);

// ---- values ----
/// Uninitialised, and in x's order of dimensions: undoing a transposition of x undoes the result's too, without a copy.
Tensor empty_like(const Tensor& x);
/// x itself, or a converted copy.
Tensor cast(const Tensor& x, DType dtype);
Tensor unary(UnaryOp op, const Tensor& x, const char* what, double p0 = 0, double p1 = 0);
/// Broadcasts and promotes; comparisons give bool.
Tensor binary(BinaryOp op, const Tensor& a, const Tensor& b, const char* what);
/// Reduces `dims` (already wrapped), which keep extent 1. Integers are summed in i64.
Tensor reduce(ReduceOp op, const Tensor& x, std::span<const int> dims, const char* what);

/// What a kernel sees of x where it is broadcast to `shape`.
View broadcast_view(const Tensor& x, const Shape& shape);
/// bool [rows, columns]: column ≤ row + diagonal.
Tensor lower_triangle(std::int64_t rows, std::int64_t columns, std::int64_t diagonal, Device device);

/// The extents before the last `matrix` ones, and a shape with `tail` put behind another.
Shape leading(const Shape& shape, int matrix);
Shape joined(Shape head, std::initializer_list<std::int64_t> tail);

/// The dtype in which a row's statistics are kept: f64 for f64, f32 for the others.
inline DType wide(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

}  // namespace graft::compute
