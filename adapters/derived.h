// A tensor that follows from others: kept until one of them changes, so that serving does not compute it in every call.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "graft/core/tensor.h"

namespace graft::adapters {

class Derived {
 public:
  /// What a value follows from. Tensors count by identity and version (a write through data() that bumps no version is not seen), and may
  /// be undefined; an object counts by identity alone.
  struct Source {
    std::vector<Tensor> tensors;
    std::vector<double> numbers = {};
    std::weak_ptr<const void> object = {};
  };

  /// The value for `source`, by compute() unless it is the one at hand. For any number of threads, as long as none changes the source:
  /// two that find nothing compute the same.
  template <class F>
  Tensor get(const Source& source, F&& compute) const {
    if (Tensor kept = find(source); kept.defined()) return kept;
    Tensor value = compute();
    keep(source, value);
    return value;
  }

 private:
  struct Kept;
  Tensor find(const Source& source) const;
  void keep(const Source& source, const Tensor& value) const;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Kept> kept_;  // immutable; replaced as a whole
};

}  // namespace graft::adapters
