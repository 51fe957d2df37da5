#include "graft/quant/formats/places.h"

#include <algorithm>

namespace graft::quant {
namespace {

struct Table {
  std::vector<Place> channels, outputs;
  std::uint32_t mask = 0;
  std::uint8_t flip = 0;
};

template <class Word>
void read(const Word* words, const Table& table, std::int64_t k0, std::int64_t k1, std::int64_t n0, std::int64_t n1,
          std::uint8_t* codes) {
  // Neighbouring channels of one output lie close together, neighbouring outputs of one channel do not: so few outputs at a time
  // that their words stay in the first cache over all channels.
  constexpr std::int64_t block = 64;
  const std::int64_t width = n1 - n0;
  // By value: a byte that is written could be any of them, for all that the compiler knows.
  const Place* outputs = table.outputs.data();
  const std::uint32_t mask = table.mask;
  const std::uint8_t flip = table.flip;
  for (std::int64_t begin = n0; begin < n1; begin += block) {
    const std::int64_t end = std::min(begin + block, n1);
    for (std::int64_t k = k0; k < k1; ++k) {
      const Place channel = table.channels[static_cast<std::size_t>(k)];
      std::uint8_t* to = codes + (k - k0) * width + begin - n0;
      for (std::int64_t n = begin; n < end; ++n) {
        const std::uint32_t word = words[channel.word + outputs[n].word];
        *to++ = static_cast<std::uint8_t>(word >> (channel.shift + outputs[n].shift) & mask) ^ flip;
      }
    }
  }
}

}  // namespace

std::function<void(std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::uint8_t*)> place_reader(
    const Tensor& words, std::int64_t in, std::int64_t out, int bits, const std::function<Place(std::int64_t)>& of_channel,
    const std::function<Place(std::int64_t)>& of_output, std::uint8_t flip) {
  auto table = std::make_shared<Table>();
  for (std::int64_t k = 0; k < in; ++k) table->channels.push_back(of_channel(k));
  for (std::int64_t n = 0; n < out; ++n) table->outputs.push_back(of_output(n));
  table->mask = (1u << bits) - 1;
  table->flip = flip;
  return [words, table](std::int64_t k0, std::int64_t k1, std::int64_t n0, std::int64_t n1, std::uint8_t* codes) {
    with_words(words, [&](const auto* data) { read(data, *table, k0, k1, n0, n1, codes); });
  };
}

}  // namespace graft::quant
