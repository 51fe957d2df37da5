// Memory of the host for calls of a GPU: all that a call's views span goes to the device before it, and comes back after it.
#pragma once

#include <algorithm>
#include <vector>

#include "graft/core/kernels.h"
#include "graft/core/view.h"
#include "graft/tests/cuda/device_tensors.h"

namespace graft::test {

class Transfer {
 public:
  ~Transfer() {
    for (const Range& range : ranges_)
      if (range.device) runtime(gpu).release(range.device, range.bytes());
  }

  void add(const View& view) {
    if (!view.data) return;
    char *begin = static_cast<char*>(view.data), *end = begin + size_of(view.dtype);
    for (int i = 0; i < view.rank; ++i) {
      if (view.sizes[i] == 0) end = begin;
      (view.strides[i] < 0 ? begin : end) += (view.sizes[i] - 1) * view.strides[i] * size_of(view.dtype);
    }
    if (view.count() == 0) begin = static_cast<char*>(view.data), end = begin + 1;
    // Views that meet share a range.
    for (std::size_t i = 0; i < ranges_.size();) {
      if (ranges_[i].begin < end && begin < ranges_[i].end) {
        begin = std::min(begin, ranges_[i].begin), end = std::max(end, ranges_[i].end);
        ranges_.erase(ranges_.begin() + static_cast<std::ptrdiff_t>(i));
        i = 0;
      } else {
        ++i;
      }
    }
    ranges_.push_back({begin, end, nullptr, view.count() > 0});
  }
  void add(const AttentionShape& shape) {
    if (shape.key_mask) add(*shape.key_mask);
  }
  template <class Other>
  void add(const Other&) {}

  void upload() {
    for (Range& range : ranges_) {
      range.device = runtime(gpu).allocate(range.bytes());
      if (range.any) runtime(gpu).copy(range.device, gpu, range.begin, {}, range.bytes());
    }
  }
  void download() {
    for (const Range& range : ranges_)
      if (range.any) runtime(gpu).copy(range.begin, {}, range.device, gpu, range.bytes());
  }

  View there(const View& view) const {
    View moved = view;
    for (const Range& range : ranges_)
      if (range.begin <= view.data && view.data < range.end)
        moved.data = static_cast<char*>(range.device) + (static_cast<char*>(view.data) - range.begin);
    return moved;
  }
  AttentionShape there(const AttentionShape& shape) {
    AttentionShape moved = shape;
    if (shape.key_mask) mask_ = there(*shape.key_mask), moved.key_mask = &mask_;
    return moved;
  }
  template <class Other>
  Other there(const Other& other) const {
    return other;
  }

 private:
  struct Range {
    char *begin, *end;
    void* device;
    bool any;
    std::size_t bytes() const { return static_cast<std::size_t>(end - begin); }
  };
  std::vector<Range> ranges_;
  View mask_;
};

}  // namespace graft::test
