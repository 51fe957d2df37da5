// Matrix products through cuBLASLt: batches whose matrices lie at equal distances in one call, the others call by call, and matrices
// that no leading dimension describes through a copy.
#include <optional>

#include "graft/core/elementwise.h"
#include "graft/core/strided.h"
#include "graft/core/tf32.h"
#include "graft/cuda/dense.h"
#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"
#include "graft/cuda/prepass.h"
#include "graft/cuda/quantized.h"

namespace graft::cuda {
namespace {

/// A matrix as BLAS can read it, if rows or columns are contiguous.
bool describe(const View& view, Gemm::Matrix& matrix) {
  const std::int64_t rows = view.sizes[view.rank - 2], columns = view.sizes[view.rank - 1];
  const std::int64_t row_step = view.strides[view.rank - 2], column_step = view.strides[view.rank - 1];
  matrix.data = view.data;
  matrix.dtype = view.dtype;
  matrix.distance = 0;
  // A single row or column may have any step.
  if ((column_step == 1 || columns == 1) && (rows == 1 || row_step >= columns)) {
    matrix.transposed = false;
    matrix.ld = rows == 1 ? columns : row_step;
    return true;
  }
  if ((row_step == 1 || rows == 1) && (columns == 1 || column_step >= rows)) {
    matrix.transposed = true;
    matrix.ld = columns == 1 ? rows : column_step;
    return true;
  }
  return false;
}

/// The leading dimensions of all three as one step each, if they are that.
struct Batch {
  Strided<3> walk;
  std::int64_t count;
  static View leading(const View& view) {
    View head = view;
    head.rank = std::max(view.rank - 2, 0);
    return head;
  }
  Batch(const View& y, const View& a, const View& b) : count(leading(y).count()) {
    const View heads[] = {leading(y), leading(a), leading(b)};
    walk = Strided<3>({&heads[0], &heads[1], &heads[2]});
  }
};

void* element(const View& view, std::int64_t offset) { return static_cast<char*>(view.data) + offset * size_of(view.dtype); }

}  // namespace

void matmul(const View& a, const View& b, const View& y) {
  check_types("matmul", {&a, &b, &y});
  const std::int64_t depth = a.sizes[a.rank - 1];
  if (y.count() == 0) return;
  if (depth == 0) return fill(y, 0);
  // cuBLASLt takes a and b of one type, and the result in that type or f32.
  const DType operands = a.dtype == b.dtype ? a.dtype : DType::f32;
  const DType result = y.dtype == operands || y.dtype == DType::f32 ? y.dtype : DType::f32;

  Gemm gemm{y.sizes[y.rank - 2], y.sizes[y.rank - 1], depth, 1, {}, {}, {}, operands == DType::f32 && tf32::allowed()};
  std::optional<Dense> a_copy, b_copy, y_copy;
  const auto operand = [&](const View& view, std::optional<Dense>& straight, Gemm::Matrix& matrix) -> const View& {
    if (view.dtype == operands && describe(view, matrix)) return view;
    copy(view, straight.emplace(view, operands).view());
    describe(straight->view(), matrix);
    return straight->view();
  };
  const View &left = operand(a, a_copy, gemm.a), &right = operand(b, b_copy, gemm.b);
  const bool in_place = y.dtype == result && describe(y, gemm.y);
  if (!in_place) describe(y_copy.emplace(y, result).view(), gemm.y);
  const View& to = in_place ? y : y_copy->view();

  const Batch batch(to, left, right);
  const int inner = batch.walk.rank - 1;  // one call for the innermost dimension of the batch
  gemm.batch = batch.walk.sizes[inner];
  gemm.y.distance = batch.walk.strides[inner][0];
  gemm.a.distance = batch.walk.strides[inner][1];
  gemm.b.distance = batch.walk.strides[inner][2];
  for (std::int64_t i = 0; i < batch.count; i += gemm.batch) {
    const auto at = batch.walk.at(i);
    gemm.y.data = element(to, at[0]);
    gemm.a.data = element(left, at[1]);
    gemm.b.data = element(right, at[2]);
    multiply(gemm);
  }
  if (!in_place) copy(y_copy->view(), y);
}

void low_rank_linear(const View& x, const View& weight, const View& A, const View& B, double scale, const View& y,
                     const View& u) {
  check_types("low_rank_linear", {&y, &x, &weight, &A, &B});
  if (y.count() == 0) return;
  const DType wide = y.dtype == DType::f64 ? DType::f64 : DType::f32;
  const Dense own({nullptr, wide, 2, {y.sizes[0], A.sizes[0]}, {}}, wide), share(y, wide);
  const quant::LowRank term{.u = u.data ? u : own.view(), .v = transposed(B), .A = A, .u_scale = scale};
  matmul(x, transposed(weight), y);
  if (tf32::allowed()) {  // which the pre-pass never rounds to
    matmul(x, transposed(A), term.u);
    unary(UnaryOp::affine, term.u, term.u, scale, 0);
  } else {
    prepass(x, {&term, 1});
  }
  matmul(term.u, term.v, share.view());
  join(share.view(), quant::Join::added, 1, y);
}

}  // namespace graft::cuda
