#include <cmath>

#include "graft/core/cpu/block.h"
#include "graft/core/cpu/cpu.h"
#include "graft/core/cpu/loop.h"
#include "graft/core/cpu/row.h"
#include "graft/core/labels.h"

namespace graft::cpu {
void cross_entropy(const View& logits, const View& labels, std::int64_t ignored, const View& losses, const View& lse) {
  if (logits.count() == 0) return;
  with_floating(logits.dtype, "cross_entropy", [&]<class A>() {
    const auto& loops = vector_loops<A>();
    const Rows label_at(labels, 0), loss_at(losses, 0), lse_at(lse, 0);
    for_each_row<A>(logits, 1, [&, from = RowsOf<A>(logits)](std::int64_t row, auto& buffers) {
      const std::int64_t label = checked_label(labels.as<std::int64_t>()[label_at(row)], ignored, from.size());
      const A* values = from.load(row, buffers[0]);
      const A largest = loops.max(values, from.size());
      // A row of −∞ has no finite shift; its sum is then 0 and its lse −∞.
      const A shift = std::isinf(largest) && largest < 0 ? A(0) : largest;
      const A total = shift + std::log(exp_sum(loops, values, shift, from.size()));
      const A loss = label == ignored ? A(0) : total - values[label];
      store(&loss, losses, loss_at(row), 1, 1);
      store(&total, lse, lse_at(row), 1, 1);
    });
  });
}

void cross_entropy_backward(const View& logits, const View& labels, std::int64_t ignored, const View& lse, const View& dlosses,
                            const View& dlogits) {
  if (logits.count() == 0) return;
  with_floating(logits.dtype, "cross_entropy_backward", [&]<class A>() {
    const auto& loops = vector_loops<A>();
    const Rows label_at(labels, 0), lse_at(lse, 0), grad_at(dlosses, 0);
    for_each_row<A>(logits, 2, [&, from = RowsOf<A>(logits), to = RowsOf<A>(dlogits)](std::int64_t row, auto& buffers) {
      const std::int64_t n = from.size(), label = checked_label(labels.as<std::int64_t>()[label_at(row)], ignored, n);
      A* result = to.target(row, buffers[1]);
      if (label == ignored) {
        std::fill_n(result, n, A(0));
      } else {  // (softmax − one-hot) · dloss
        A lse_buffer, grad_buffer;
        const A total = *load(lse, lse_at(row), 1, 1, &lse_buffer), grad = *load(dlosses, grad_at(row), 1, 1, &grad_buffer);
        loops.exp_minus(from.load(row, buffers[0]), total, result, n);
        loops.unary(UnaryOp::affine, result, result, n, grad, 0);
        result[label] -= grad;
      }
      to.store(row, result);
    });
  });
}

}  // namespace graft::cpu
