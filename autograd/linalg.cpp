#include <algorithm>

#include "graft/autograd/compute.h"
#include "graft/autograd/ops.h"

namespace graft {
namespace {

void require_matrix(const Tensor& a, const char* what) {
  check<TypeError>(a.dtype() == DType::f32 || a.dtype() == DType::f64, "{}: takes f32 or f64, not {}", what, a.dtype());
  compute::require_rank(a, 2, what);
}

void require_square(const Tensor& a, const char* what) {
  require_matrix(a, what);
  check(a.dim(-1) == a.dim(-2), "{}: a matrix of shape {} is not square", what, a.shape());
}

Tensor empty_like(const Tensor& a, const Shape& shape) { return Tensor::empty(shape, a.dtype(), a.device()); }

}  // namespace

Tensor inverse(const Tensor& a) {
  require_square(a, "inverse");
  Tensor y = empty_like(a, a.shape());
  kernel(a.device(), &Kernels::inverse, "inverse")(a.view(), y.view());
  return record("inverse", y).wrt(a, [](const Tensor& dy, const Tensor& y) { return neg(matmul(y.t(), matmul(dy, y.t()))); });
}

Tensor solve_triangular(const Tensor& a, const Tensor& b, bool upper) {
  require_square(a, "solve_triangular");
  require_matrix(b, "solve_triangular");
  compute::require_same_device(a, b, "solve_triangular");
  check(a.dim(-1) == b.dim(-2), "solve_triangular: shapes {} and {} do not fit", a.shape(), b.shape());
  const DType dtype = promote(a.dtype(), b.dtype());
  const Tensor left = compute::cast(a, dtype), right = compute::cast(b, dtype);
  const Shape batch = broadcast(compute::leading(a.shape(), 2), compute::leading(b.shape(), 2), "solve_triangular");
  Tensor y = empty_like(left, compute::joined(batch, {b.dim(-2), b.dim(-1)}));
  kernel(a.device(), &Kernels::solve_triangular, "solve_triangular")(
      compute::broadcast_view(left, compute::joined(batch, {a.dim(-2), a.dim(-1)})), compute::broadcast_view(right, y.shape()),
      upper, y.view());
  return record("solve_triangular", y).wrt({a, b}, [upper, a = saved(a)](const Tensor& dy, const Tensor& y) {
    const Tensor db = solve_triangular(a().t(), dy, !upper);
    const Tensor full = neg(matmul(db, y.t()));
    const Tensor below = compute::lower_triangle(a().dim(-2), a().dim(-1), 0, dy.device());
    return Gradients{where(upper ? below.t() : below, full, Tensor::scalar(0, full.dtype(), full.device())), db};
  });
}

Tensor cholesky(const Tensor& a) {
  require_square(a, "cholesky");
  Tensor lower = empty_like(a, a.shape());
  kernel(a.device(), &Kernels::cholesky, "cholesky")(a.view(), lower.view());
  return lower;
}

QR qr(const Tensor& a) {
  require_matrix(a, "qr");
  const Shape batch = compute::leading(a.shape(), 2);
  const std::int64_t m = a.dim(-2), n = a.dim(-1), k = std::min(m, n);
  QR out{empty_like(a, compute::joined(batch, {m, k})), empty_like(a, compute::joined(batch, {k, n}))};
  kernel(a.device(), &Kernels::qr, "qr")(a.view(), out.q.view(), out.r.view());
  return out;
}

SVD svd(const Tensor& a) {
  require_matrix(a, "svd");
  const Shape batch = compute::leading(a.shape(), 2);
  const std::int64_t m = a.dim(-2), n = a.dim(-1), k = std::min(m, n);
  SVD out{empty_like(a, compute::joined(batch, {m, k})), empty_like(a, compute::joined(batch, {k})),
          empty_like(a, compute::joined(batch, {k, n}))};
  kernel(a.device(), &Kernels::svd, "svd")(a.view(), out.u.view(), out.s.view(), out.vt.view());
  return out;
}

}  // namespace graft
