#include "graft/quant/formats/eetq.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <numeric>

#include "graft/core/parallel.h"
#include "graft/quant/formats/places.h"
#include "graft/quant/formats/stored.h"

namespace graft::quant {
namespace {

constexpr EetqLayout known[] = {
    {"plain", [](std::int64_t k, std::int64_t out) { return k * out; }, [](std::int64_t n, std::int64_t) { return n; }, 0x80, 1,
     1},
    {"sm70", [](std::int64_t k, std::int64_t out) { return k * out; },
     [](std::int64_t n, std::int64_t) { return n / 4 * 4 + n % 2 * 2 + n / 2 % 2; }, 0, 1, 4},
    {"sm80", [](std::int64_t k, std::int64_t) { return k / 64 * 128 + k / 16 % 4 * 16 + k % 8 * 2 + k / 8 % 2; },
     [](std::int64_t n, std::int64_t in) { return n / 2 * 2 * in + n % 2 * 64; }, 0, 64, 2}};
constexpr std::string_view layouts[] = {known[0].name, known[1].name, known[2].name};

bool fits(const EetqLayout& layout, const Stored& stored) {
  return stored.in % layout.in_multiple == 0 && stored.out % layout.out_multiple == 0;
}

std::string_view weight_name(const Stored& stored) {
  const bool weight = find(stored, "weight").defined(), qweight = find(stored, "qweight").defined();
  require(weight != qweight, stored, "needs one of weight and qweight");
  return weight ? "weight" : "qweight";
}

// The layer read in one layout. Codes are kept as code + 128, so that the zero point is 128.
Decoded read(const Stored& stored, const EetqLayout& layout) {
  require(stored.description.bits == 8, stored, "EETQ with {} bits; it has 8", stored.description.bits);
  require(fits(layout, stored), stored, "{} in and {} out features in layout {}; it needs multiples of {} and {}", stored.in,
          stored.out, layout.name, layout.in_multiple, layout.out_multiple);
  const Tensor weight = checked(stored, weight_name(stored), {DType::i8, DType::u8}, {stored.in, stored.out});
  const Tensor scales = checked_f32(stored, "weight_scales", {stored.out});

  Decoded decoded;
  decoded.description = stored.description;
  decoded.in = stored.in;
  decoded.out = stored.out;
  decoded.bits = 8;
  decoded.native = find(stored, "weight_scales").dtype();
  decoded.bias = checked_bias(stored);
  decoded.groups = groups_in_order(stored.in, stored.in);
  decoded.group_size = stored.in;
  decoded.scales = scales.alias({1, stored.out}, {stored.out, 1}, 0);
  decoded.zeros = Tensor::full({1, stored.out}, 128);
  decoded.codes = place_reader(
      weight, stored.in, stored.out, 8,
      [&](std::int64_t k) {
        return Place{layout.of_channel(k, stored.out), 0};
      },
      [&](std::int64_t n) {
        return Place{layout.of_output(n, stored.in), 0};
      },
      layout.flip);
  return decoded;
}

Decoded decode_eetq(const Stored& stored) {
  Decoded decoded = read(stored, eetq_layout(stored.description.layout));
  decoded.description.reading = fmt::format("bytes in layout {}, as the caller says", stored.description.layout);
  return decoded;
}

// Mean of |code|, which depends on the bytes but not on their order.
double mean_size(const Stored& stored, std::uint8_t flip) {
  const Tensor weight = checked(stored, weight_name(stored), {DType::i8, DType::u8}, {stored.in, stored.out});
  const auto* bytes = static_cast<const std::uint8_t*>(weight.view().data);
  std::vector<std::int64_t> sums(static_cast<std::size_t>(stored.in));
  parallel_ranges(stored.in, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      const std::uint8_t* row = bytes + k * stored.out;
      std::int64_t sum = 0;
      for (std::int64_t n = 0; n < stored.out; ++n) sum += std::abs((row[n] ^ flip) - 128);
      sums[static_cast<std::size_t>(k)] = sum;
    }
  });
  return static_cast<double>(std::accumulate(sums.begin(), sums.end(), std::int64_t{0})) / static_cast<double>(weight.count());
}

struct Evidence {
  std::atomic<bool> extremes = true;    // every output has a code of −128, −127 or 127
  std::atomic<bool> zeros_full = true;  // every output with scale 0 is 127 throughout
};

void look(const Decoded& decoded, Evidence& evidence) {
  constexpr std::int64_t strip = 64;
  parallel_for((decoded.out + strip - 1) / strip, [&](std::int64_t s) {
    if (!evidence.extremes) return;  // one output without them is enough
    const std::int64_t n0 = s * strip, n1 = std::min(n0 + strip, decoded.out);
    const auto width = static_cast<std::size_t>(n1 - n0);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(decoded.in) * width);
    decoded.codes(0, decoded.in, n0, n1, codes.data());
    std::array<std::uint8_t, strip> least, greatest;
    least.fill(255), greatest.fill(0);
    for (std::size_t i = 0; i < codes.size(); i += width)
      for (std::size_t j = 0; j < width; ++j) {
        least[j] = std::min(least[j], codes[i + j]);
        greatest[j] = std::max(greatest[j], codes[i + j]);
      }
    for (std::size_t j = 0; j < width; ++j) {
      if (least[j] > 1 && greatest[j] < 255) evidence.extremes = false;
      if (least[j] < 255 && decoded.scales.data<float>()[n0 + static_cast<std::int64_t>(j)] == 0) evidence.zeros_full = false;
    }
  });
}

std::pair<std::int64_t, std::int64_t> eetq_features(const Stored& stored) {
  const std::string_view name = weight_name(stored);
  const Tensor weight = find(stored, name);
  require(weight.rank() == 2, stored, "{} has shape {}, not two dimensions", name, weight.shape());
  return {weight.dim(0), weight.dim(1)};
}

constexpr std::string_view required[] = {"weight_scales"}, optional[] = {"weight", "qweight", "bias"};

}  // namespace

constinit const Format eetq_format{"eetq", layouts, required, optional, decode_eetq, eetq_features};

const EetqLayout& eetq_layout(std::string_view name) {
  const auto* layout = std::find_if(std::begin(known), std::end(known), [&](const EetqLayout& l) { return l.name == name; });
  check(layout != std::end(known), "EETQ layout '{}'; known are {}", name, fmt::join(layouts, ", "));
  return *layout;
}

std::vector<std::string_view> plausible_eetq_layouts(const Stored& stored) {
  // A wrong layout turns the many small codes into ones near −128: their mean is then above 100, and about 25 when it is right.
  constexpr double largest_mean = 64;
  std::vector<std::string_view> plausible, without_zeros;
  for (const EetqLayout& layout : known) {
    if (!fits(layout, stored)) continue;
    if (mean_size(stored, layout.flip) >= largest_mean) continue;
    Evidence evidence;
    look(read(stored, layout), evidence);
    if (!evidence.extremes) continue;
    (evidence.zeros_full ? plausible : without_zeros).push_back(layout.name);
  }
  // A scale can also be 0 because it was too small for f16; its codes are then ordinary.
  return plausible.empty() ? without_zeros : plausible;
}

}  // namespace graft::quant
