// The kernel table of a GPU for operands in the host's memory: all memory that a call's views span goes to the device before it, and
// comes back after it. So the tests of the CPU's entries are those of the GPU's too, layouts and guards included.
#include "graft/tests/support/tested.h"

#include <algorithm>
#include <vector>

#include "graft/core/view.h"

namespace graft::test {
namespace {

constexpr Device gpu{Device::Type::cuda, 0};

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

template <auto entry>
struct Via;
template <class... Parameters, void (*Kernels::*entry)(Parameters...)>
struct Via<entry> {
  static void run(Parameters... parameters) {
    Transfer transfer;
    (transfer.add(parameters), ...);
    transfer.upload();
    (runtime(gpu).kernels().*entry)(transfer.there(parameters)...);
    transfer.download();
  }
};

}  // namespace

// Without a GPU all tests are skipped, but what they make before main() has to lie somewhere.
Device tested_device() { return cuda_device_count() > 0 ? gpu : Device::cpu(); }

const Kernels& tested_kernels() {
  static constexpr Kernels table = {
      .copy = Via<&Kernels::copy>::run,
      .fill = Via<&Kernels::fill>::run,
      .unary = Via<&Kernels::unary>::run,
      .binary = Via<&Kernels::binary>::run,
      .select = Via<&Kernels::select>::run,
      .reduce = Via<&Kernels::reduce>::run,
      .argmax = Via<&Kernels::argmax>::run,
      .softmax = Via<&Kernels::softmax>::run,
      .softmax_backward = Via<&Kernels::softmax_backward>::run,
      .rms_norm = Via<&Kernels::rms_norm>::run,
      .rms_norm_backward = Via<&Kernels::rms_norm_backward>::run,
      .rotary = Via<&Kernels::rotary>::run,
      .cross_entropy = Via<&Kernels::cross_entropy>::run,
      .cross_entropy_backward = Via<&Kernels::cross_entropy_backward>::run,
      .matmul = Via<&Kernels::matmul>::run,
      .low_rank_linear = Via<&Kernels::low_rank_linear>::run,
      .linear_backward = Via<&Kernels::linear_backward>::run,
      .attention = Via<&Kernels::attention>::run,
      .attention_backward = Via<&Kernels::attention_backward>::run,
      .index_select = Via<&Kernels::index_select>::run,
      .index_add = Via<&Kernels::index_add>::run,
      .gather = Via<&Kernels::gather>::run,
      .scatter_add = Via<&Kernels::scatter_add>::run,
      .draw = Via<&Kernels::draw>::run,
      .inverse = Via<&Kernels::inverse>::run,
      .solve_triangular = Via<&Kernels::solve_triangular>::run,
      .cholesky = Via<&Kernels::cholesky>::run,
      .qr = Via<&Kernels::qr>::run,
      .svd = Via<&Kernels::svd>::run,
  };
  return table;
}

}  // namespace graft::test
