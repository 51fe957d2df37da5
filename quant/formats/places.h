// Reading codes of layouts in which channel and output find their place independently of each other: most of those made for GPUs.
#pragma once

#include "graft/quant/format.h"

namespace graft::quant {

/// A share of a code's place: words to go, and bits within the word.
struct Place {
  std::int64_t word = 0;
  int shift = 0;
};

/// Reads the code of channel k and output n from word of_channel(k).word + of_output(n).word, at the sum of the shifts: `bits`
/// bits, exclusive-or `flip`. `words` are contiguous integers of 8, 16 or 32 bits, and are kept alive.
std::function<void(std::int64_t k0, std::int64_t k1, std::int64_t n0, std::int64_t n1, std::uint8_t* codes)> place_reader(
    const Tensor& words, std::int64_t in, std::int64_t out, int bits, const std::function<Place(std::int64_t k)>& of_channel,
    const std::function<Place(std::int64_t n)>& of_output, std::uint8_t flip = 0);

/// Calls f with the data as unsigned words of the tensor's width.
template <class F>
decltype(auto) with_words(const Tensor& tensor, F&& f) {
  const void* data = tensor.view().data;
  switch (size_of(tensor.dtype())) {
    case 1: return f(static_cast<const std::uint8_t*>(data));
    case 2: return f(static_cast<const std::uint16_t*>(data));
    default: return f(static_cast<const std::uint32_t*>(data));
  }
}

}  // namespace graft::quant
