// Keys and values of the tokens that a model has already seen, so that each new token is computed once. The caller owns it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "graft/core/tensor.h"

namespace graft::llama {

class KeyValueCache {
 public:
  /// Tokens held per row.
  std::int64_t length() const { return length_; }
  /// Forgets all tokens from `length` on; ValueError if there are fewer.
  void truncate(std::int64_t length);

  // ---- for the model ----
  /// Writes the keys and values [batch, kv_heads, n, head_dim] of n new tokens behind those held for a layer, and gives all of
  /// them [batch, kv_heads, length() + n, head_dim]. They count once advance() is called. ValueError if they do not fit to those
  /// held.
  std::pair<Tensor, Tensor> extend(std::size_t layer, const Tensor& keys, const Tensor& values);
  /// Counts n tokens that every layer has written: a forward that failed halfway leaves the cache as it was.
  void advance(std::int64_t n) { length_ += n; }

 private:
  struct Layer {
    Tensor keys, values;  // [batch, kv_heads, capacity, head_dim]
  };
  std::vector<Layer> layers_;
  std::int64_t length_ = 0;
};

}  // namespace graft::llama
