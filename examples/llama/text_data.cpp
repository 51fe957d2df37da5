#include "graft/examples/llama/text_data.h"

#include <algorithm>
#include <numeric>

#include "graft/core/rng.h"

namespace graft::llama {

TextData::TextData(std::vector<std::int64_t> ids, std::int64_t length) : ids_(std::move(ids)), length_(length) {
  check(length > 0, "a window of {} tokens is wanted, and at least 1 is possible", length);
  check(windows() > 0, "the text has {} tokens, and one window of {} needs {}", ids_.size(), length, length + 1);
}

Batch TextData::shuffled(std::uint64_t seed, std::int64_t position, std::int64_t rows) const {
  std::vector<std::int64_t> order;
  return make(rows, [&](std::int64_t row) {
    const std::int64_t i = position + row;
    if (order.empty() || i % windows() == 0) order = epoch_order(windows(), seed, i / windows());
    return order[i % windows()];
  });
}

Batch TextData::in_order(std::int64_t first, std::int64_t rows) const {
  return make(std::max<std::int64_t>(0, std::min(rows, windows() - first)), [&](std::int64_t row) { return first + row; });
}

template <class F>
Batch TextData::make(std::int64_t rows, F window_of) const {
  const Shape shape{rows, length_};
  const Batch batch{Tensor::empty(shape, DType::i64), Tensor::empty(shape, DType::i64)};
  auto *input = batch.inputs.data<std::int64_t>(), *label = batch.labels.data<std::int64_t>();
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto begin = ids_.begin() + window_of(row) * length_;
    input = std::copy_n(begin, length_, input);
    label = std::copy_n(begin + 1, length_, label);
  }
  return batch;
}

std::vector<std::int64_t> epoch_order(std::int64_t n, std::uint64_t seed, std::int64_t epoch) {
  std::vector<std::int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = n - 1; i > 0; --i) {
    const auto words = random_block(seed, static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(i));
    // 64 random bits modulo i + 1: the bias is below 2^-32 for any text.
    std::swap(order[i], order[(std::uint64_t{words[0]} << 32 | words[1]) % static_cast<std::uint64_t>(i + 1)]);
  }
  return order;
}

}  // namespace graft::llama
