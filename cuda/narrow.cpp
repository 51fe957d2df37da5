// The gradients of y = x Wᵀ. Where x or y is narrow, as an adapter's are, the wide one of x and dy is read once for all that it is needed
// for; other products go to cuBLASLt.
#include "graft/cuda/narrow.h"

#include <bit>

#include "graft/cuda/dense.h"
#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"

namespace graft::cuda {
namespace {

/// Ranks that a kernel has room for.
int ranks_for(std::int64_t k) { return std::max(16, static_cast<int>(std::bit_ceil(static_cast<unsigned>(k)))); }

panels::Shared shared_for(DType wide, DType narrow, std::int64_t k) {
  return {static_cast<int>(size_of(wide)), static_cast<int>(size_of(narrow)), ranks_for(k)};
}

/// Whether a kernel takes these, whatever their strides.
bool takes(const View& wide, const View& narrow, const View* factor) {
  const DType dtype = wide.dtype, other = narrow.dtype;
  const std::int64_t m = wide.sizes[0], n = wide.sizes[1], k = narrow.sizes[1];
  constexpr std::int64_t most = std::int64_t{1} << 30;
  if (!(is_half(dtype) || dtype == DType::f32) || (factor && factor->dtype != other)) return false;
  if (other != dtype && other != DType::f32) return false;
  if (m == 0 || n == 0 || k == 0 || m >= most || n >= most || n <= k) return false;
  if (k > (is_half(other) ? panels::most_ranks : panels::most_ranks / 2)) return false;
  const Properties gpu = properties();
  const panels::Shared lies = shared_for(dtype, other, k);
  return gpu.capability >= 80 && static_cast<std::size_t>(lies.total()) <= gpu.most_shared;
}

/// What a kernel writes: y itself where a sum is made by one block, else as many shares, which are added up in their order.
class Shares {
 public:
  Shares(const View& y, std::int64_t count) : y_(y), shares_{y.data, y.dtype, 3, {1, y.sizes[0], y.sizes[1]}} {
    std::copy_n(y.strides, 2, shares_.strides + 1);
    if (count == 1) return;
    memory_.emplace(static_cast<std::size_t>(count * y.count() * size_of(DType::f32)));
    shares_ = {memory_->data(), DType::f32, 3, {count, y.sizes[0], y.sizes[1]}, {y.count(), y.sizes[1], 1}};
  }
  NarrowProducts::Target target() const {
    return {shares_.data, shares_.dtype, {shares_.strides[0], shares_.strides[1], shares_.strides[2]}};
  }
  void add_up() const {
    if (!memory_) return;
    const View sum{y_.data, y_.dtype, 3, {1, y_.sizes[0], y_.sizes[1]}, {0, y_.strides[0], y_.strides[1]}};
    reduce(ReduceOp::sum, shares_, sum);
  }

 private:
  View y_, shares_;
  std::optional<Scratch> memory_;
};

/// down = wideᵀ · narrow and, unless factor is null, along = wide · factor.
void multiply(const View& wide, const View& narrow, const View& down, const View* factor, const View& along) {
  const Lines w(wide), u(narrow), f(factor ? *factor : narrow);
  NarrowProducts p{};
  p.wide = {w.data(), w.ld()}, p.narrow = {u.data(), u.ld()};
  p.factor = {factor ? f.data() : nullptr, f.ld()};
  p.m = static_cast<int>(wide.sizes[0]), p.n = static_cast<int>(wide.sizes[1]), p.k = static_cast<int>(narrow.sizes[1]);
  p.panels = static_cast<int>(divide_up(p.m, panels::rows));
  p.steps = static_cast<int>(divide_up(p.n, panels::columns(static_cast<int>(size_of(wide.dtype)))));
  // Two blocks for each multiprocessor, but none has less than its stages hold: every part is a share of all rows' sums.
  const std::int64_t wanted = divide_up(2 * properties().multiprocessors, p.panels);
  const std::int64_t most = divide_up(p.steps, panels::stages);
  p.part_steps = static_cast<int>(divide_up(p.steps, std::clamp<std::int64_t>(wanted, 1, most)));
  const std::int64_t parts = divide_up(p.steps, p.part_steps);

  const Shares columns(down, p.panels);
  std::optional<Shares> rows;
  p.down = columns.target();
  if (factor) p.along = rows.emplace(along, parts).target();
  launch({"narrow", fmt::format("narrow_products_{}_{}_{}", wide.dtype, narrow.dtype, ranks_for(p.k))}, {p.panels * parts},
         panels::threads, p, static_cast<std::size_t>(shared_for(wide.dtype, narrow.dtype, p.k).total()));
  columns.add_up();
  if (rows) rows->add_up();
}

}  // namespace

void linear_backward(const View& dy, const View& x, const View& weight, const View& dx, const View& dweight) {
  const View* const factor = dx.data ? &weight : nullptr;
  if (dweight.data && takes(dy, x, factor)) return multiply(dy, x, dweight, factor, dx);
  if (factor && dweight.data && is_half(dy.dtype) && (x.dtype == DType::f32 || weight.dtype == DType::f32)) {
    const Dense widened(dy, DType::f32);  // once for both
    copy(dy, widened.view());
    return linear_backward(widened.view(), x, weight, dx, dweight);
  }
  if (dx.data) matmul(dy, weight, dx);
  if (!dweight.data) return;
  if (takes(x, dy, nullptr)) multiply(x, dy, transposed(dweight), nullptr, {});
  else matmul(transposed(dy), x, dweight);
}

}  // namespace graft::cuda
