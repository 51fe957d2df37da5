#include "graft/cuda/linalg.h"

#include <vector>

#include "graft/core/cpu/cpu.h"
#include "graft/cuda/dense.h"
#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"

namespace graft::cuda {
namespace {

/// The matrices of a batch in double, dense. `finish` writes them where a result belongs.
class Matrices {
 public:
  explicit Matrices(const View& view) : view_(view), dense_(view, DType::f64) {}
  /// A copy of `view`; TypeError naming `what` unless it is f32 or f64, ValueError if an element is not finite.
  Matrices(const View& view, const char* what);
  void finish(const View& to) const { copy(dense_.view(), to); }

  double* data() const { return static_cast<double*>(dense_.data()); }
  std::int64_t rows() const { return view_.sizes[view_.rank - 2]; }
  std::int64_t columns() const { return view_.sizes[view_.rank - 1]; }
  std::int64_t batch() const { return rows() * columns() == 0 ? 0 : view_.count() / (rows() * columns()); }
  const View& dense() const { return dense_.view(); }

 private:
  View view_;
  Dense dense_;
};

/// A word for each matrix, which a kernel sets where something is wrong.
class Status {
 public:
  explicit Status(std::int64_t batch) : words_(static_cast<std::size_t>(batch)), device_(words_.size() * sizeof(std::int32_t)) {
    if (!words_.empty()) write(device_.data(), words_.data(), words_.size() * sizeof(std::int32_t));
  }
  std::int32_t* data() const { return static_cast<std::int32_t*>(device_.data()); }
  /// ValueError "<what>: matrix <i> of the batch <problem>" for the first that is set.
  void refuse(const char* what, const char* problem) {
    if (words_.empty()) return;
    read(words_.data(), device_.data(), words_.size() * sizeof(std::int32_t));
    for (std::size_t i = 0; i < words_.size(); ++i) check(words_[i] == 0, "{}: matrix {} of the batch {}", what, i, problem);
  }

 private:
  std::vector<std::int32_t> words_;
  Scratch device_;
};

Matrices::Matrices(const View& view, const char* what) : Matrices(view) {
  check<TypeError>(view.dtype == DType::f32 || view.dtype == DType::f64, "{}: needs f32 or f64, not {}", what, view.dtype);
  copy(view, dense_.view());
  Status status(batch());
  const Finite f{data(), rows() * columns(), batch(), status.data()};
  launch({"linalg", "check_finite"}, blocks_for(f.each * f.batch), block_threads, f);
  status.refuse(what, "has an element that is not finite");
}

/// `view` as the host's dense copy, for factorizations that are made there.
struct OnHost {
  explicit OnHost(const View& view) : dense(view, view.dtype) {}
  void fetch(const View& from) {
    const Dense straight(from, from.dtype);
    copy(from, straight.view());
    read(dense.view().data, straight.data(), bytes());
  }
  void send(const View& to) {
    const Dense straight(to, to.dtype);
    write(straight.data(), dense.view().data, bytes());
    copy(straight.view(), to);
  }
  std::size_t bytes() const { return static_cast<std::size_t>(dense.view().count() * size_of(dense.view().dtype)); }
  cpu::Temporary dense;
};

}  // namespace

void inverse(const View& a, const View& y) {
  const Matrices from(a, "inverse");
  if (a.count() == 0) return;
  const Matrices to(y);
  Status status(from.batch());
  launch({"linalg", "inverse"}, {from.batch()}, block_threads, Inverse{from.data(), to.data(), from.rows(), status.data()});
  status.refuse("inverse", "is singular");
  to.finish(y);
}

void solve_triangular(const View& a, const View& b, bool upper, const View& y) {
  const Matrices left(a, "solve_triangular"), right(b, "solve_triangular");
  if (y.count() == 0) return;
  Status status(left.batch());
  const SolveTriangular s{left.data(), right.data(), left.rows(), right.columns(), left.batch(), upper, status.data()};
  launch({"linalg", "solve_triangular"}, blocks_for(s.batch * s.columns), block_threads, s);
  status.refuse("solve_triangular", "has a zero on its diagonal");
  right.finish(y);
}

void cholesky(const View& a, const View& lower) {
  const Matrices from(a, "cholesky");
  if (a.count() == 0) return;
  Status status(from.batch());
  launch({"linalg", "cholesky"}, {from.batch()}, block_threads, Cholesky{from.data(), from.rows(), status.data()});
  status.refuse("cholesky", "is not positive definite");
  from.finish(lower);
}

// QR and SVD are made by the host: adapters need them once, where they begin and where they are merged.
void qr(const View& a, const View& q, const View& r) {
  OnHost from(a), orthogonal(q), triangular(r);
  from.fetch(a);
  cpu::qr(from.dense.view(), orthogonal.dense.view(), triangular.dense.view());
  orthogonal.send(q);
  triangular.send(r);
}

void svd(const View& a, const View& u, const View& s, const View& vt) {
  OnHost from(a), left(u), values(s), right(vt);
  from.fetch(a);
  cpu::svd(from.dense.view(), left.dense.view(), values.dense.view(), right.dense.view());
  left.send(u);
  values.send(s);
  right.send(vt);
}

}  // namespace graft::cuda
