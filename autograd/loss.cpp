#include <vector>

#include "graft/autograd/compute.h"
#include "graft/autograd/ops.h"
#include "graft/core/labels.h"

namespace graft {
namespace {

// The labels of a batch, checked, and how many of them count.
struct Labels {
  Saved labels;  // i64 [n]
  std::int64_t ignored;
  std::int64_t counted = 0;

  Labels(const Tensor& flat, std::int64_t ignored, std::int64_t classes) : labels(flat), ignored(ignored) {
    for (std::int64_t label : flat.to_vector<std::int64_t>()) counted += checked_label(label, ignored, classes) != ignored;
  }
};

// softmax − one-hot in rows that count, zero in the others, times dy/n: in public operations for second derivatives.
Tensor composed_gradient(const Tensor& logits, const Labels& target, const Tensor& dy) {
  const Tensor rows = reshape(target.labels(), {logits.dim(0), 1});
  const Tensor skipped = equal(rows, Tensor::scalar(static_cast<double>(target.ignored), DType::i64, rows.device()));
  const Tensor zero = Tensor::scalar(0, logits.dtype(), logits.device());
  const Tensor index = where(skipped, Tensor::scalar(0, DType::i64, rows.device()), rows);
  const Tensor chosen = scatter_add(Tensor::zeros(logits.shape(), logits.dtype(), logits.device()), 1, index,
                                    Tensor::ones(rows.shape(), logits.dtype(), logits.device()));
  return where(skipped, zero, mul(sub(softmax(logits), chosen), dy / static_cast<double>(target.counted)));
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& labels, std::int64_t ignored) {
  compute::require_floating(logits, "cross_entropy");
  compute::require_rank(logits, 1, "cross_entropy");
  compute::require_same_device(logits, labels, "cross_entropy");
  check<TypeError>(labels.dtype() == DType::i64, "cross_entropy: labels have elements of type i64, not {}", labels.dtype());
  check(labels.shape() == compute::leading(logits.shape(), 1), "cross_entropy: labels of shape {} for logits of shape {}",
        labels.shape(), logits.shape());
  const std::int64_t n = labels.count(), classes = logits.dim(-1);
  const Tensor flat = reshape(logits, {n, classes});
  const Labels target(reshape(labels, {n}), ignored, classes);

  const DType wide = compute::wide(logits.dtype());
  Tensor losses = Tensor::empty({n}, wide, logits.device()), lse = Tensor::empty({n}, wide, logits.device());
  kernel(logits.device(), &Kernels::cross_entropy, "cross_entropy")(flat.view(), target.labels().view(), ignored, losses.view(),
                                                                    lse.view());
  Tensor mean;
  {
    NoGrad off;
    // No label left: 0 · ∞, the NaN that is promised.
    mean = to(affine(sum(losses), 1 / static_cast<double>(target.counted), 0), logits.dtype());
  }
  return record("cross_entropy", mean).wrt(flat, [target, flat = saved(flat), lse = saved(lse)](const Tensor& dy) {
    if (grad_enabled()) return composed_gradient(flat(), target, dy);
    Tensor dlogits = Tensor::empty(flat().shape(), flat().dtype(), flat().device());
    const Tensor share = expand(affine(to(dy, lse().dtype()), 1 / static_cast<double>(target.counted), 0), lse().shape());
    kernel(dy.device(), &Kernels::cross_entropy_backward, "cross_entropy")(flat().view(), target.labels().view(), target.ignored,
                                                                           lse().view(), share.view(), dlogits.view());
    return dlogits;
  });
}

Tensor mse_loss(const Tensor& x, const Tensor& target) {
  check(x.shape() == target.shape(), "mse_loss: shapes {} and {} differ", x.shape(), target.shape());
  const Tensor difference = sub(x, target);
  return mean(mul(difference, difference));
}

}  // namespace graft
