// A text as training data: windows of tokens, in an order that a seed fixes.
#pragma once

#include <cstdint>
#include <vector>

#include "graft/core/tensor.h"

namespace graft::llama {

/// Inputs and the tokens that follow each of them, i64 [rows, length].
struct Batch {
  Tensor inputs, labels;
};

/// A run of tokens cut into windows of `length` predictions, one behind the other.
class TextData {
 public:
  /// ValueError if the tokens do not fill one window (length + 1 tokens).
  TextData(std::vector<std::int64_t> ids, std::int64_t length);

  std::int64_t windows() const { return (static_cast<std::int64_t>(ids_.size()) - 1) / length_; }
  std::int64_t length() const { return length_; }

  /// Samples position … position + rows - 1 of the endless sequence in which every epoch shows each window once, in an order
  /// drawn for (seed, epoch). A position is all that a resumed run must know. OutOfMemoryError if there is no room for the batch.
  Batch shuffled(std::uint64_t seed, std::int64_t position, std::int64_t rows) const;
  /// Windows first … first + rows - 1 (those that there are) in the text's order.
  Batch in_order(std::int64_t first, std::int64_t rows) const;

 private:
  template <class F>
  Batch make(std::int64_t rows, F window_of) const;
  std::vector<std::int64_t> ids_;
  std::int64_t length_;
};

/// The windows 0 … n-1 in the order of an epoch.
std::vector<std::int64_t> epoch_order(std::int64_t n, std::uint64_t seed, std::int64_t epoch);

}  // namespace graft::llama
