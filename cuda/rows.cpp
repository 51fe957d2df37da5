#include "graft/cuda/rows.h"

#include <bit>
#include <vector>

#include "graft/core/labels.h"
#include "graft/cuda/dense.h"
#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"

namespace graft::cuda {
namespace {

/// Threads for a row of n elements: a power of two from a warp up.
int threads_for(std::int64_t n) {
  return static_cast<int>(std::bit_ceil(static_cast<unsigned>(std::clamp<std::int64_t>(n, 32, block_threads))));
}

template <class Argument>
void run(DType dtype, const char* what, std::int64_t rows, std::int64_t size, const Argument& argument) {
  with_floating(dtype, what, [&]<class A>() {
    launch({"rows", fmt::format("{}{}", what, suffix<A>)}, {rows}, threads_for(size), argument);
  });
}

/// Refuses labels as the CPU does, before a kernel reads what is not there.
void check_labels(const View& labels, std::int64_t ignored, std::int64_t classes) {
  const Dense dense(labels, DType::i64);
  copy(labels, dense.view());
  std::vector<std::int64_t> values(static_cast<std::size_t>(labels.count()));
  read(values.data(), dense.data(), values.size() * sizeof(std::int64_t));
  for (std::int64_t label : values) checked_label(label, ignored, classes);
}

}  // namespace

void softmax(const View& x, const View& y, bool log) {
  if (x.count() == 0) return;
  const Softmax s{RowsOf(x), RowsOf(y), log};
  run(x.dtype, "softmax", s.x.rows.count(), s.x.size, s);
}

void softmax_backward(const View& y, const View& dy, const View& dx, bool log) {
  if (y.count() == 0) return;
  const SoftmaxBackward s{RowsOf(y), RowsOf(dy), RowsOf(dx), log};
  run(y.dtype, "softmax_backward", s.y.rows.count(), s.y.size, s);
}

void rms_norm(const View& x, const View& weight, double eps, const View& y, const View& rstd) {
  if (x.count() == 0) return;
  const RmsNorm r{RowsOf(x), RowsOf(weight), RowsOf(y), RowsOf(rstd, 0), eps};
  run(x.dtype, "rms_norm", r.x.rows.count(), r.x.size, r);
}

void rms_norm_backward(const View& x, const View& weight, const View& rstd, const View& dy, const View& dx, const View& dweight) {
  RmsNormBackward r{RowsOf(x), RowsOf(weight), RowsOf(rstd, 0), RowsOf(dy), RowsOf(dx), 0, 0, nullptr};
  r.count = x.count() > 0 ? r.x.rows.count() : 0;
  if (dx.data && r.count > 0) run(x.dtype, "rms_norm_dx", r.count, r.x.size, r);
  if (!dweight.data) return;
  if (r.count == 0) return fill(dweight, 0);
  // The rows are cut into at most 128 pieces, each with its own sum; the sums are added in order.
  r.piece = std::max<std::int64_t>(divide_up(r.count, 128), 16);
  const std::int64_t pieces = divide_up(r.count, r.piece), n = r.x.size;
  with_floating(x.dtype, "rms_norm_backward", [&]<class A>() {
    const Scratch parts(static_cast<std::size_t>(pieces * n) * sizeof(A));
    r.parts = parts.data();
    launch({"rows", fmt::format("rms_norm_dweight{}", suffix<A>)}, {divide_up(n, block_threads), pieces}, block_threads, r);
    const View sums{parts.data(), dtype_of<A>, 2, {pieces, n}, {n, 1}};
    View total = dweight;
    total.rank = 2;
    total.sizes[0] = 1, total.sizes[1] = n;
    total.strides[0] = 0, total.strides[1] = dweight.strides[0];
    reduce(ReduceOp::sum, sums, total);
  });
}

void rotary(const View& x, const View& cos, const View& sin, const View& y, bool inverse) {
  if (x.count() == 0) return;
  Rotary r{x.data,     cos.data,       sin.data,      y.data, x.dtype, cos.dtype, y.dtype, x.sizes[1],
           x.sizes[2], x.sizes[3] / 2, x.count() / 2, {},     {},      {},        {},      inverse};
  std::copy_n(x.strides, 4, r.x_strides);
  std::copy_n(y.strides, 4, r.y_strides);
  std::copy_n(cos.strides, 3, r.cos_strides);
  std::copy_n(sin.strides, 3, r.sin_strides);
  if (cos.sizes[0] == 1) r.cos_strides[0] = 0;
  if (sin.sizes[0] == 1) r.sin_strides[0] = 0;
  with_floating(x.dtype, "rotary", [&]<class A>() {
    launch({"rows", fmt::format("rotary{}", suffix<A>)}, blocks_for(r.count), block_threads, r);
  });
}

void cross_entropy(const View& logits, const View& labels, std::int64_t ignored, const View& losses, const View& lse) {
  if (logits.count() == 0) return;
  check_labels(labels, ignored, logits.sizes[logits.rank - 1]);
  const CrossEntropy c{RowsOf(logits), RowsOf(labels, 0), RowsOf(losses, 0), RowsOf(lse, 0), ignored};
  run(logits.dtype, "cross_entropy", c.logits.rows.count(), c.logits.size, c);
}

void cross_entropy_backward(const View& logits, const View& labels, std::int64_t ignored, const View& lse, const View& dlosses,
                            const View& dlogits) {
  if (logits.count() == 0) return;
  check_labels(labels, ignored, logits.sizes[logits.rank - 1]);
  const CrossEntropyBackward c{RowsOf(logits), RowsOf(labels, 0), RowsOf(lse, 0), RowsOf(dlosses, 0), RowsOf(dlogits), ignored};
  run(logits.dtype, "cross_entropy_backward", c.logits.rows.count(), c.logits.size, c);
}

}  // namespace graft::cuda
