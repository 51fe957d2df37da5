// Views for kernel tests: strided, inside guarded memory, filled with reproducible numbers; and pinned instruction sets.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <vector>

#include "graft/core/isa.h"
#include "graft/core/rng.h"
#include "graft/core/view.h"

namespace graft {

/// The sets that this processor offers.
inline std::vector<Isa> isas() {
  std::vector<Isa> all;
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512_dot, Isa::neon})
    if (includes(best_isa(), isa)) all.push_back(isa);
  return all;
}

/// Pins a set for a scope.
struct Pinned {
  explicit Pinned(Isa isa) { pin_isa(isa); }
  ~Pinned() { pin_isa(std::nullopt); }
};

/// A buffer with a view into its middle; the bytes around the view, and those that its strides skip, must stay as they are.
class Guarded {
 public:
  Guarded(DType dtype, std::vector<std::int64_t> sizes, std::vector<std::int64_t> strides) {
    view_.dtype = dtype;
    view_.rank = static_cast<int>(sizes.size());
    std::int64_t last = 0;
    for (int i = 0; i < view_.rank; ++i) {
      view_.sizes[i] = sizes[i];
      view_.strides[i] = strides[i];
      last += std::max<std::int64_t>(0, sizes[i] - 1) * strides[i];
    }
    bytes_.assign((last + 1) * size_of(dtype) + 2 * guard, std::byte{0xa5});
    view_.data = bytes_.data() + guard;
  }

  const View& view() const { return view_; }

  template <class F>
  void each(F f) const {  // f(flat index, element offset)
    for (std::int64_t i = 0; i < view_.count(); ++i) {
      std::int64_t offset = 0, rest = i;
      for (int d = view_.rank - 1; d >= 0; --d) {
        offset += rest % view_.sizes[d] * view_.strides[d];
        rest /= view_.sizes[d];
      }
      f(i, offset);
    }
  }

  void randomize(std::uint64_t seed) {
    each([&](std::int64_t i, std::int64_t offset) { set(offset, to_uniform(random_block(seed, 0, i)[0]) * 2 - 1); });
  }

  std::vector<double> values() const {
    std::vector<double> out(view_.count());
    each([&](std::int64_t i, std::int64_t offset) {
      dispatch(view_.dtype, FloatingTypes{}, "test", [&]<class T>() { out[i] = static_cast<double>(view_.as<T>()[offset]); });
    });
    return out;
  }

  // Whether every byte outside the view's elements is untouched.
  bool intact() const {
    std::vector<bool> ours(bytes_.size());
    each([&](std::int64_t, std::int64_t offset) {
      for (std::int64_t b = 0; b < size_of(view_.dtype); ++b) ours[guard + offset * size_of(view_.dtype) + b] = true;
    });
    for (std::size_t i = 0; i < bytes_.size(); ++i)
      if (!ours[i] && bytes_[i] != std::byte{0xa5}) return false;
    return true;
  }

 private:
  static constexpr std::int64_t guard = 64;
  void set(std::int64_t offset, double value) {
    dispatch(view_.dtype, FloatingTypes{}, "test", [&]<class T>() {
      if constexpr (std::is_same_v<T, double>) view_.as<T>()[offset] = value;
      else view_.as<T>()[offset] = T(static_cast<float>(value));
    });
  }
  std::vector<std::byte> bytes_;
  View view_;
};

}  // namespace graft
