#include "graft/quant/formats/gptq.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "graft/core/parallel.h"
#include "graft/quant/formats/fields.h"
#include "graft/quant/formats/places.h"
#include "graft/quant/formats/stored.h"

namespace graft::quant {
namespace {

constexpr std::string_view as_is = "z", per_field = "z-1 per field", per_word = "z-1 per word", scrambled = "z-1 scrambled";
constexpr std::string_view undecided_layout = "gptq or gptq_v2";

// What the bits of one layer look like.
struct Layout {
  Packing packing = Packing::stream;
  int bits = 4;
  int word_bits = 32;
  DType word = DType::i32;
};

Layout layout_of(const Stored& stored) {
  const Description& d = stored.description;
  const Tensor qweight = find(stored, "qweight");
  require(qweight.defined(), stored, "has no qweight");
  Layout layout{d.layout == "gptq_p" ? Packing::planar : Packing::stream, d.bits, static_cast<int>(8 * size_of(qweight.dtype())),
                qweight.dtype()};
  const bool integer = layout.word == DType::i32 || layout.word == DType::i16 || layout.word == DType::i8;
  require<TypeError>(integer, stored, "qweight holds {}, not i32, i16 or i8", layout.word);
  const std::string pack_dtype = fmt::format("int{}", layout.word_bits);
  require<TypeError>(d.pack_dtype.empty() || d.pack_dtype == pack_dtype, stored,
                     "qweight holds words of {}, but pack_dtype is {}", pack_dtype, d.pack_dtype);
  const bool in_stream = d.bits == 2 || d.bits == 3 || d.bits == 4 || d.bits == 8;
  require(layout.packing == Packing::planar || in_stream, stored,
          "{} bits in layout {}; it has 2, 3, 4 and 8 (5, 6 and 7 are in gptq_p)", d.bits, d.layout);
  return layout;
}

std::int64_t words(const Stored& stored, const Layout& layout, std::int64_t count, std::string_view of) try {
  return words_for(layout.packing, layout.bits, layout.word_bits, count);
} catch (const ValueError& error) {
  refuse(stored, "{}: {}", of, error.what());
}

// ---- zero points ----

// What "less one" subtracted from word number `index`.
std::uint32_t subtracted(std::string_view rule, const Layout& layout, std::int64_t index) {
  if (rule == per_word) return ones_in_word(layout.bits, layout.word_bits);
  if (rule == scrambled) return std::array{0x24924924u, 0x92492492u, 0x49249249u}[static_cast<std::size_t>(index % 3)];
  return 0;
}

std::vector<float> read_zeros(const Tensor& qzeros, const Layout& layout, std::int64_t out, std::string_view rule) {
  const std::int64_t groups = qzeros.dim(0), row_words = qzeros.dim(1);
  const std::uint32_t word_mask = layout.word_bits == 32 ? ~0u : (1u << layout.word_bits) - 1;
  const std::uint32_t plus = rule == per_field ? 1 : 0, mask = (1u << layout.bits) - 1;
  std::vector<float> zeros(static_cast<std::size_t>(groups * out));
  with_words(qzeros, [&](const auto* words) {
    for (std::int64_t n = 0; n < out; ++n) {
      const Field f = field(layout.packing, layout.bits, layout.word_bits, n);
      for (std::int64_t g = 0; g < groups; ++g) {
        const auto word = [&](std::int64_t i) { return (words[g * row_words + i] + subtracted(rule, layout, i)) & word_mask; };
        zeros[static_cast<std::size_t>(g * out + n)] = static_cast<float>((f.gather(word) + plus) & mask);
      }
    }
  });
  return zeros;
}

bool all_equal(const std::vector<float>& zeros, float value) {
  return std::all_of(zeros.begin(), zeros.end(), [&](float zero) { return zero == value; });
}

// Whether zero points of this width and packing can be stored so at all.
bool possible(std::string_view rule, Packing packing, int bits) {
  if (rule == as_is) return true;
  if (packing == Packing::planar) return rule == per_field;
  return rule == per_field || (rule == scrambled) == (bits == 3);
}

std::vector<std::string_view> possible_rules(const Layout& layout) {
  std::vector<std::string_view> rules;
  for (std::string_view rule : {as_is, per_field, per_word, scrambled})
    if (possible(rule, layout.packing, layout.bits)) rules.push_back(rule);
  return rules;
}

// The reading that layout and producer call for.
std::string_view labelled_rule(const Stored& stored, const Layout& layout) {
  const Description& d = stored.description;
  if (d.layout != "gptq") return as_is;
  if (d.producer != "gptqmodel") return per_field;
  if (layout.bits != 3) return per_word;
  int major = 0;
  const char* end = d.producer_version.data() + d.producer_version.size();
  const bool known = std::from_chars(d.producer_version.data(), end, major).ec == std::errc();
  require(known, stored,
          "its 3-bit zero points may be stored '{}' (GPTQModel from 7.0.0 on) or '{}' (GPTQModel before), and the version '{}' "
          "does not say which; set producer_version or zeros (of Choices, or of Description)",
          per_field, scrambled, d.producer_version);
  return major >= 7 ? per_field : scrambled;
}

// Means of code − zero under one reading after the other, from one look at the codes of part of the outputs.
class Distances {
 public:
  explicit Distances(const Decoded& decoded) : groups_(decoded.scales.dim(0)), out_(decoded.out) {
    // Every output has its say up to 512 of them; of more, as many in strips spread over the layer.
    constexpr std::int64_t strip = 64, most = 8;
    const std::int64_t strips = (out_ + strip - 1) / strip, taken = std::min(strips, most);
    std::vector<std::int64_t> members(static_cast<std::size_t>(groups_));
    for (std::int32_t g : decoded.groups) ++members[static_cast<std::size_t>(g)];
    sums_.resize(static_cast<std::size_t>(taken));
    parallel_for(taken, [&](std::int64_t i) {
      Strip& part = sums_[static_cast<std::size_t>(i)];
      part.begin = i * strips / taken * strip;
      const std::int64_t width = std::min(strip, out_ - part.begin);
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(decoded.in * width));
      decoded.codes(0, decoded.in, part.begin, part.begin + width, codes.data());
      part.codes.resize(static_cast<std::size_t>(groups_ * width));
      part.width = width;
      for (std::int64_t k = 0; k < decoded.in; ++k)
        for (std::int64_t n = 0; n < width; ++n)
          part.codes[static_cast<std::size_t>(decoded.groups[static_cast<std::size_t>(k)] * width + n)] +=
              codes[static_cast<std::size_t>(k * width + n)];
    });
    members_ = std::move(members);
  }

  // The mean, and its standard error by the spread between groups: zero points of random data prove nothing.
  std::pair<double, double> mean(const std::vector<float>& zeros) const {
    double count = 0, sum = 0, squares = 0;
    const auto each = [&](auto&& f) {
      for (const Strip& part : sums_)
        for (std::int64_t g = 0; g < groups_; ++g)
          for (std::int64_t n = 0; n < part.width; ++n) {
            const auto size = static_cast<double>(members_[static_cast<std::size_t>(g)]);
            const double zero = zeros[static_cast<std::size_t>(g * out_ + part.begin + n)];
            f(size, part.codes[static_cast<std::size_t>(g * part.width + n)] - size * zero);
          }
    };
    each([&](double size, double distance) { count += size, sum += distance; });
    const double mean = sum / count;
    each([&](double size, double distance) { squares += (distance - size * mean) * (distance - size * mean); });
    return {mean, std::sqrt(squares) / count};
  }

 private:
  struct Strip {
    std::int64_t begin = 0, width = 0;
    std::vector<double> codes;  // sums [groups, width]
  };
  std::int64_t groups_, out_;
  std::vector<std::int64_t> members_;  // channels of each group
  std::vector<Strip> sums_;
};

// AutoGPTQ ors "zero − 1" into a word without a mask: a zero point of 0 sets its field and every later one of the word to all ones,
// and what they were is lost. True if a word looks so and none has a field of all ones followed by another, which masks leave.
bool damaged(const Tensor& qzeros, const Layout& layout) {
  const int bits = layout.bits, width = layout.word_bits;
  const std::uint32_t mask = (1u << bits) - 1, word_mask = width == 32 ? ~0u : (1u << width) - 1;
  bool found = false, masked = false;
  with_words(qzeros, [&](const auto* words) {
    for (std::int64_t row = 0; row < qzeros.dim(0); ++row)
      for (std::int64_t i = 0; i < qzeros.dim(1); ++i) {
        const std::uint32_t word = words[row * qzeros.dim(1) + i] & word_mask;
        // Fields of 3 bits do not begin with the word.
        for (int shift = static_cast<int>((bits - i * width % bits) % bits); shift + bits < width; shift += bits) {
          if ((word >> shift & mask) != mask) continue;
          if (word >> shift != word_mask >> shift) masked = true;
          else found = true;
          break;
        }
      }
  });
  return found && !masked;
}

// What asymmetric zero points look like under a reading that only labels call for.
void cross_check(const Stored& stored, const Layout& layout, const Tensor& qzeros, const Decoded& decoded,
                 std::string_view rule) {
  const Description& d = stored.description;
  const bool unmasking = d.producer.empty() || d.producer == "auto_gptq" || d.producer == "optimum";
  require(
      !(rule == per_field && unmasking && damaged(qzeros, layout)), stored,
      "words of qzeros are all ones from one field to their end, as AutoGPTQ leaves them after a zero point of 0: what was there "
      "is lost; if all of these are zero points of 0, set zeros to '{}' (of Choices, or of Description)",
      per_field);
  const Distances distances(decoded);
  const auto [mean, error] = distances.mean(decoded.zeros.to_vector<float>());
  if (std::abs(mean) <= 0.75 || error > 0.1) return;
  for (std::string_view other : possible_rules(layout)) {
    const double there = distances.mean(read_zeros(qzeros, layout, decoded.out, other)).first;
    require(
        std::abs(there) >= 0.25, stored,
        "code less zero point is {:.3f} in the mean with zero points stored '{}', as layout {} by {} has them, and {:.3f} with "
        "'{}', where the right reading gives 0; set zeros to one of them (of Choices, or of Description)",
        mean, rule, d.layout, d.producer.empty() ? "an unknown producer" : d.producer, there, other);
  }
}

void settle_zeros(const Stored& stored, const Layout& layout, const Tensor& qzeros, Decoded& decoded) {
  Description& d = decoded.description;
  const float middle = static_cast<float>(1 << (layout.bits - 1));
  const auto read = [&](std::string_view rule) {
    return Tensor::from(read_zeros(qzeros, layout, decoded.out, rule), {qzeros.dim(0), decoded.out});
  };
  const auto settle = [&](std::string_view rule, std::string reading) {
    d.zeros = rule;
    d.reading = std::move(reading);
    if (d.layout == undecided_layout) d.layout = rule == as_is ? "gptq_v2" : "gptq";
    decoded.zeros = read(rule);
  };

  if (!d.zeros.empty()) {
    bool can = false;
    try {
      can = gptq_can_store(d, d.zeros);
    } catch (const ValueError& error) {
      refuse(stored, "{}", error.what());
    }
    require(can, stored, "zero points of {} bits in layout {} cannot be stored '{}'", layout.bits, d.layout, d.zeros);
    return settle(std::string(d.zeros), fmt::format("zero points are stored '{}', as the caller says", d.zeros));
  }
  if (d.sym) {
    // The label's own reading comes first; it may also be the one that cannot be told.
    std::string ranges;
    for (std::string_view rule : possible_rules(layout)) {
      if (rule == per_word) continue;  // where all are the middle, nothing is borrowed
      const std::vector<float> zeros = read_zeros(qzeros, layout, decoded.out, rule);
      if (all_equal(zeros, middle)) {
        const bool as_labelled = (rule == as_is) == (d.layout != "gptq");
        return settle(
            rule,
            fmt::format("zero points are stored '{}', since that makes every one {}, as sym says{}", rule, middle,
                        as_labelled || d.layout == undecided_layout ? "" : fmt::format(", though the label is {}", d.layout)));
      }
      const auto [least, greatest] = std::minmax_element(zeros.begin(), zeros.end());
      ranges += fmt::format("{}{} to {} with zero points stored '{}'", ranges.empty() ? "" : ", ", *least, *greatest, rule);
    }
    require(
        d.sym_assumed, stored,
        "sym says that every zero point is {}, but they are {}; set sym to false in the config, or zeros to the right one (of "
        "Choices, or of Description)",
        middle, ranges);
  }
  if (d.layout == undecided_layout) {
    // Near 0 when the fields are the zero points, near 1 when they are less one.
    decoded.zeros = read(as_is);
    const double mean = mean_distance(decoded);
    require(std::abs(mean) < 0.25 || std::abs(mean - 1) < 0.25, stored,
            "is labelled gptq and gptq_v2, and its data do not tell: code less stored zero point is {:.3f} in the mean, where "
            "gptq_v2 would give 0 and gptq 1; set layout to one of them (of Choices, or of Description)",
            mean);
    d.layout = std::abs(mean) < 0.25 ? "gptq_v2" : "gptq";
    Stored as_settled = stored;
    as_settled.description = d;
    const std::string_view rule = labelled_rule(as_settled, layout);
    settle(rule, fmt::format(
                     "zero points are stored '{}': both labels are given, and code less stored zero point is {:.3f} in the mean",
                     rule, mean));
    return cross_check(as_settled, layout, qzeros, decoded, rule);
  }
  const std::string_view rule = labelled_rule(stored, layout);
  std::string producer = d.producer.empty() ? "an unknown producer" : fmt::format("{} {}", d.producer, d.producer_version);
  settle(rule, fmt::format("zero points are stored '{}', as layout {} by {} has them{}", rule, d.layout, producer,
                           d.sym ? ", though they are not all equal, as sym would have them" : ""));
  cross_check(stored, layout, qzeros, decoded, rule);
  if (rule != per_field || !d.producer.empty() || layout.bits == 3) return;
  const std::vector<float> zeros = decoded.zeros.to_vector<float>(), others = read_zeros(qzeros, layout, decoded.out, per_word);
  std::size_t different = 0;
  for (std::size_t i = 0; i < zeros.size(); ++i) different += zeros[i] != others[i];
  if (different > 0)
    d.reading += fmt::format(" ('{}', as GPTQModel has them, would change {} of {})", per_word, different, zeros.size());
}

// ---- codes ----

template <class Word>
void read_codes(const Word* words, const Layout& layout, std::int64_t out, std::int64_t k0, std::int64_t k1, std::int64_t n0,
                std::int64_t n1, std::uint8_t* codes) {
  for (std::int64_t k = k0; k < k1; ++k, codes += n1 - n0) {
    const Field f = field(layout.packing, layout.bits, layout.word_bits, k);
    for (int i = 0; i < f.count; ++i) {
      const Piece p = f.pieces[static_cast<std::size_t>(i)];
      const Word* row = words + p.word * out + n0;
      const auto mask = static_cast<Word>((1u << p.width) - 1);
      for (std::int64_t j = 0; j < n1 - n0; ++j) {
        const auto bits = static_cast<std::uint8_t>((row[j] >> p.shift & mask) << p.offset);
        codes[j] = i == 0 ? bits : static_cast<std::uint8_t>(codes[j] | bits);
      }
    }
  }
}

// ---- groups ----

void read_groups(const Stored& stored, std::int64_t groups, std::int64_t length, Decoded& decoded) {
  decoded.groups = groups_in_order(stored.in, length);
  decoded.group_size = length;
  // Act-order's groups cannot be guessed: read in order, almost every weight would get another group's scale.
  const auto check_in_order = [&](std::string_view what) {
    require(!stored.description.desc_act || groups == 1, stored,
            "{}, though desc_act says that its {} groups are scattered over the input channels; where they do run in order, as "
            "with static_groups, set desc_act to false in the config",
            what, groups);
  };
  if (!find(stored, "g_idx").defined()) return check_in_order("has no g_idx");
  const Tensor g_idx = checked(stored, "g_idx", {DType::i32, DType::i64}, {stored.in});
  const std::vector<std::int64_t> values = g_idx.to_vector<std::int64_t>();
  for (std::int64_t k = 0; k < stored.in; ++k) {
    const std::int64_t g = values[static_cast<std::size_t>(k)];
    require(g >= 0 && g < groups, stored, "g_idx puts input channel {} into group {}; there are {}", k, g, groups);
  }
  // Nothing but zeros is how files without act-order were once written; taken by the letter it would leave all other groups
  // unused.
  if (std::all_of(values.begin(), values.end(), [](std::int64_t g) { return g == 0; }))
    return check_in_order("has nothing but 0 in g_idx");
  if (std::equal(values.begin(), values.end(), decoded.groups.begin())) return;
  decoded.groups.assign(values.begin(), values.end());
  decoded.group_size = 0;
}

Decoded decode_gptq(const Stored& stored) {
  const Layout layout = layout_of(stored);
  const std::int64_t length = group_length(stored), groups = (stored.in + length - 1) / length;
  const Tensor qweight = checked(stored, "qweight", {layout.word}, {words(stored, layout, stored.in, "in_features"), stored.out});

  Decoded decoded;
  decoded.description = stored.description;
  decoded.in = stored.in;
  decoded.out = stored.out;
  decoded.bits = layout.bits;
  decoded.scales = checked_f32(stored, "scales", {groups, stored.out});
  decoded.native = find(stored, "scales").dtype();
  decoded.bias = checked_bias(stored);
  read_groups(stored, groups, length, decoded);
  decoded.codes = [qweight, layout, out = stored.out](std::int64_t k0, std::int64_t k1, std::int64_t n0, std::int64_t n1,
                                                      std::uint8_t* codes) {
    with_words(qweight, [&](const auto* words) { read_codes(words, layout, out, k0, k1, n0, n1, codes); });
  };

  if (!find(stored, "qzeros").defined()) {
    require(stored.description.sym, stored, "has no qzeros, and is not sym");
    decoded.zeros = Tensor::full({groups, stored.out}, 1 << (layout.bits - 1));
    decoded.description.reading = "no zero points are stored; sym says what they are";
    if (decoded.description.layout == undecided_layout) decoded.description.layout = "gptq";
    return decoded;
  }
  const Tensor qzeros = checked(stored, "qzeros", {layout.word}, {groups, words(stored, layout, stored.out, "out_features")});
  settle_zeros(stored, layout, qzeros, decoded);
  return decoded;
}

std::pair<std::int64_t, std::int64_t> gptq_features(const Stored& stored) {
  const Layout layout = layout_of(stored);
  const Tensor qweight = find(stored, "qweight"), g_idx = find(stored, "g_idx");
  require(qweight.rank() == 2, stored, "qweight has shape {}, not two dimensions", qweight.shape());
  return {g_idx.defined() ? g_idx.count() : qweight.dim(0) * layout.word_bits / layout.bits, qweight.dim(1)};
}

constexpr std::string_view layouts[] = {"gptq", "gptq_v2", "gptq_p"};
constexpr std::string_view required[] = {"qweight", "scales"};
constexpr std::string_view optional[] = {"qzeros", "g_idx", "bias"};

}  // namespace

bool gptq_can_store(const Description& description, std::string_view zeros) {
  const std::array rules{as_is, per_field, per_word, scrambled};
  check(std::find(rules.begin(), rules.end(), zeros) != rules.end(), "zero points stored '{}'; known are '{}'", zeros,
        fmt::join(rules, "', '"));
  return possible(zeros, description.layout == "gptq_p" ? Packing::planar : Packing::stream, description.bits);
}

constinit const Format gptq_format{"gptq", layouts, required, optional, decode_gptq, gptq_features, undecided_layout};

}  // namespace graft::quant
