#include "graft/examples/llama/cache.h"

#include <algorithm>

#include "graft/autograd/ops.h"

namespace graft::llama {
namespace {

Tensor tokens(const Tensor& held, std::int64_t begin, std::int64_t end) {
  NoGrad no_grad;
  return slice(held, 2, begin, end);
}

// `held` with room for `needed` tokens, the first `length` of them kept. Doubling makes appending one by one linear.
Tensor with_room(const Tensor& held, const Tensor& like, std::int64_t length, std::int64_t needed) {
  if (held.defined() && held.dim(2) >= needed) return held;
  Shape shape = like.shape();
  shape[2] = std::max(needed, held.defined() ? 2 * held.dim(2) : 64);
  Tensor room = Tensor::empty(shape, like.dtype(), like.device());
  if (length > 0) tokens(room, 0, length).copy_(tokens(held, 0, length));
  return room;
}

}  // namespace

void KeyValueCache::truncate(std::int64_t length) {
  check(length >= 0 && length <= length_, "a cache of {} tokens cannot be cut to {}", length_, length);
  length_ = length;
}

std::pair<Tensor, Tensor> KeyValueCache::extend(std::size_t layer, const Tensor& keys, const Tensor& values) {
  if (layers_.size() <= layer) layers_.resize(layer + 1);
  const std::int64_t end = length_ + keys.dim(2);
  const auto append = [&](Tensor& held, const Tensor& fresh) {
    if (length_ == 0 && held.defined() && (held.dim(0) != fresh.dim(0) || held.dtype() != fresh.dtype())) held = {};
    Shape expected = held.defined() ? held.shape() : fresh.shape();
    expected[2] = fresh.dim(2);
    check(fresh.shape() == expected && (!held.defined() || fresh.dtype() == held.dtype()),
          "the cache holds {} {}, to which {} {} cannot be appended", held.defined() ? name(held.dtype()) : "", expected,
          fresh.dtype(), fresh.shape());
    held = with_room(held, fresh, length_, end);
    tokens(held, length_, end).copy_(fresh);
    return tokens(held, 0, end);
  };
  Layer& held = layers_[layer];
  return {append(held.keys, keys), append(held.values, values)};
}

}  // namespace graft::llama
