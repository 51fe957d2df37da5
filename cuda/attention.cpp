#include "graft/cuda/attention.h"

#include "graft/cuda/dense.h"
#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"

namespace graft::cuda {
namespace {

Attention problem(const View& q, const View& k, const View& v, const AttentionShape& shape, const View& y, const View& lse) {
  Attention a{};
  a.batch = q.sizes[0], a.heads = q.sizes[1], a.queries = q.sizes[2], a.width = q.sizes[3];
  a.kv_heads = k.sizes[1], a.keys = k.sizes[2], a.value_width = v.sizes[3];
  a.scale = shape.scale;
  a.causal = shape.causal;
  if (shape.key_mask) {
    a.mask = shape.key_mask->as<const std::uint8_t>();
    std::copy_n(shape.key_mask->strides, 2, a.mask_strides);
  }
  a.q = Heads(q), a.k = Heads(k), a.v = Heads(v), a.y = Heads(y), a.lse = Heads(lse);
  return a;
}

/// Shared memory of a block whose warps keep `numbers` numbers each.
template <class A>
std::size_t shared_bytes(std::int64_t numbers) {
  return static_cast<std::size_t>(numbers * attention_warps) * sizeof(A);
}

/// NotImplementedError naming `what` where no block may have that much.
template <class A>
void require_room(const char* what, std::int64_t numbers, const Attention& a) {
  const std::size_t needed = shared_bytes<A>(numbers), most = properties().most_shared;
  check<NotImplementedError>(needed <= most, "{}: heads of width {} and {} need {} bytes of shared memory, and {} are there",
                             what, a.width, a.value_width, needed, most);
}

/// A kernel whose warps own `rows` rows and keep `numbers` numbers each in shared memory.
template <class A>
void run(const char* name, std::int64_t rows, std::int64_t numbers, const Attention& a) {
  launch({"attention", fmt::format("{}{}", name, suffix<A>)}, {divide_up(rows, attention_warps)}, 32 * attention_warps, a,
         shared_bytes<A>(numbers));
}

}  // namespace

void attention(const View& q, const View& k, const View& v, const AttentionShape& shape, const View& y, const View& lse) {
  if (lse.count() == 0) return;
  const Attention a = problem(q, k, v, shape, y, lse);
  const std::int64_t numbers = a.width + a.value_width;
  with_floating(q.dtype, "attention", [&]<class A>() {
    require_room<A>("attention", numbers, a);
    run<A>("attention", lse.count(), numbers, a);
  });
}

void attention_backward(const View& q, const View& k, const View& v, const AttentionShape& shape, const View& y, const View& lse,
                        const View& dy, const View& dq, const View& dk, const View& dv) {
  if (lse.count() == 0 || k.sizes[2] == 0) {
    for (const View* view : {&dq, &dk, &dv}) fill(*view, 0);
    return;
  }
  Attention a = problem(q, k, v, shape, y, lse);
  a.dy = Heads(dy), a.dq = Heads(dq), a.dk = Heads(dk), a.dv = Heads(dv);
  const std::int64_t most = 2 * (a.width + a.value_width);  // of the three kernels, so that none has run when it is too much
  with_floating(q.dtype, "attention_backward", [&]<class A>() {
    require_room<A>("attention_backward", most, a);
    const Dense delta(lse, dtype_of<A>);
    a.delta = Heads(delta.view());
    const std::int64_t keys = a.batch * a.kv_heads * a.keys;
    run<A>("attention_delta", lse.count(), 0, a);
    run<A>("attention_dq", lse.count(), 2 * a.width + a.value_width, a);
    run<A>("attention_dkv", keys, most, a);
  });
}

}  // namespace graft::cuda
