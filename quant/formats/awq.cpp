#include "graft/quant/formats/awq.h"

#include "graft/quant/formats/fields.h"
#include "graft/quant/formats/places.h"
#include "graft/quant/formats/stored.h"

namespace graft::quant {
namespace {

constexpr int word_bits = 32;

const std::uint32_t* words_of(const Tensor& tensor) { return static_cast<const std::uint32_t*>(tensor.view().data); }

Decoded start(const Stored& stored, std::int64_t length) {
  Decoded decoded;
  decoded.description = stored.description;
  decoded.in = stored.in;
  decoded.out = stored.out;
  decoded.bits = stored.description.bits;
  decoded.groups = groups_in_order(stored.in, length);
  decoded.group_size = length;
  decoded.bias = checked_bias(stored);
  decoded.native = find(stored, "scales").defined() ? find(stored, "scales").dtype() : DType::f16;
  return decoded;
}

std::int64_t group_count(const Stored& stored) {
  const std::int64_t length = group_length(stored);
  return (stored.in + length - 1) / length;
}

void check_4_bits(const Stored& stored) {
  require(stored.description.bits == 4, stored, "{} bits in layout {}; it has 4", stored.description.bits,
          stored.description.layout);
}

void check_multiple(const Stored& stored, std::string_view what, std::int64_t count, std::int64_t of) {
  require(count % of == 0, stored, "layout {} with {} = {}; it needs a multiple of {}", stored.description.layout, what, count,
          of);
}

// ---- gemm ----

Decoded decode_gemm(const Stored& stored) {
  const int bits = stored.description.bits;
  const Packing packing = bits == 4 ? Packing::interleaved : Packing::stream;
  std::int64_t row_words = 0;
  try {
    row_words = words_for(packing, bits, word_bits, stored.out);
  } catch (const ValueError& error) {
    refuse(stored, "out_features: {}", error.what());
  }
  const std::int64_t groups = group_count(stored);
  const Tensor qweight = checked(stored, "qweight", {DType::i32}, {stored.in, row_words});
  const Tensor qzeros = checked(stored, "qzeros", {DType::i32}, {groups, row_words});

  Decoded decoded = start(stored, group_length(stored));
  decoded.scales = checked_f32(stored, "scales", {groups, stored.out});
  std::vector<Field> fields;
  for (std::int64_t n = 0; n < stored.out; ++n) fields.push_back(field(packing, bits, word_bits, n));

  decoded.zeros = Tensor::empty({groups, stored.out});
  float* zero = decoded.zeros.data<float>();
  for (std::int64_t g = 0; g < groups; ++g)
    for (const Field& f : fields)
      *zero++ = static_cast<float>(f.gather([&](std::int64_t i) { return words_of(qzeros)[g * row_words + i]; }));

  if (fields[0].count == 1 && word_bits % bits == 0) {  // no code straddles two words
    decoded.codes = place_reader(
        qweight, stored.in, stored.out, bits,
        [&](std::int64_t k) {
          return Place{k * row_words, 0};
        },
        [&](std::int64_t n) {
          const Piece& piece = fields[static_cast<std::size_t>(n)].pieces[0];
          return Place{piece.word, piece.shift};
        });
  } else {
    decoded.codes = [qweight, row_words, fields = std::move(fields)](std::int64_t k0, std::int64_t k1, std::int64_t n0,
                                                                     std::int64_t n1, std::uint8_t* codes) {
      for (std::int64_t k = k0; k < k1; ++k) {
        const std::uint32_t* row = words_of(qweight) + k * row_words;
        for (std::int64_t n = n0; n < n1; ++n)
          *codes++ =
              static_cast<std::uint8_t>(fields[static_cast<std::size_t>(n)].gather([&](std::int64_t i) { return row[i]; }));
      }
    };
  }
  decoded.description.reading = bits == 4 ? "4-bit codes interleaved within words; zero points as stored"
                                          : "codes as one stream of bits, without AWQ's interleave, which only 4 bits have";
  return decoded;
}

std::pair<std::int64_t, std::int64_t> gemm_features(const Stored& stored) {
  const Tensor qweight = find(stored, "qweight"), scales = find(stored, "scales");
  require(qweight.defined() && qweight.rank() == 2 && scales.defined() && scales.rank() == 2, stored,
          "has no qweight and scales of two dimensions");
  return {qweight.dim(0), scales.dim(1)};
}

// ---- gemv and its successors ----

// Words of eight groups each that the zero points of one output fill; smaller groups are padded to more.
std::int64_t zero_words(const Stored& stored) {
  const std::int64_t length = group_length(stored);
  const std::int64_t multiple = length >= 128 ? 1 : length == 64 ? 2 : length == 32 ? 4 : length == 16 ? 8 : 0;
  require(multiple > 0, stored, "layout {} with groups of {}; it has 16, 32, 64, and 128 or more", stored.description.layout,
          length);
  const std::int64_t words = (group_count(stored) + 7) / 8;
  return (words + multiple - 1) / multiple * multiple;
}

Decoded decode_gemv(const Stored& stored) {
  check_4_bits(stored);
  check_multiple(stored, "in_features", stored.in, 8);
  const std::int64_t groups = group_count(stored), row_words = stored.in / 8, zero_row = zero_words(stored);
  const Tensor qweight = checked(stored, "qweight", {DType::i32}, {stored.out, row_words});
  const Tensor qzeros = checked(stored, "qzeros", {DType::i32}, {stored.out, zero_row});
  const Tensor scales = checked_f32(stored, "scales", {stored.out, 8 * zero_row});

  Decoded decoded = start(stored, group_length(stored));
  decoded.scales = Tensor::empty({groups, stored.out});
  decoded.zeros = Tensor::empty({groups, stored.out});
  for (std::int64_t g = 0; g < groups; ++g)
    for (std::int64_t n = 0; n < stored.out; ++n) {
      decoded.scales.data<float>()[g * stored.out + n] = scales.data<float>()[n * 8 * zero_row + g];
      decoded.zeros.data<float>()[g * stored.out + n] =
          static_cast<float>(words_of(qzeros)[n * zero_row + g / 8] >> 4 * (g % 8) & 15);
    }
  decoded.codes = place_reader(
      qweight, stored.in, stored.out, 4,
      [](std::int64_t k) {
        return Place{k / 8, static_cast<int>(4 * (k % 8))};
      },
      [&](std::int64_t n) {
        return Place{n * row_words, 0};
      });
  decoded.description.reading = "codes in order along the input; zero points as stored";
  return decoded;
}

std::pair<std::int64_t, std::int64_t> gemv_features(const Stored& stored) {
  const Tensor qweight = find(stored, "qweight");
  require(qweight.defined() && qweight.rank() == 2, stored, "has no qweight of two dimensions");
  return {8 * qweight.dim(1), qweight.dim(0)};
}

Decoded decode_fast(const Stored& stored) {
  check_4_bits(stored);
  check_multiple(stored, "in_features", stored.in, 64);
  check_multiple(stored, "out_features", stored.out, 4);
  const bool scaled = find(stored, "scaled_zeros").defined();
  require(scaled != find(stored, "qzeros").defined(), stored, "layout {} needs one of qzeros and scaled_zeros",
          stored.description.layout);
  const std::int64_t groups = group_count(stored), rows = 8 * zero_words(stored);
  const Tensor qweight = checked(stored, "qweight", {DType::i16}, {stored.out / 4, stored.in});
  const auto first_groups = [&](std::string_view name) {
    return checked_f32(stored, name, {rows, stored.out}).alias({groups, stored.out}, {stored.out, 1}, 0);
  };

  Decoded decoded = start(stored, group_length(stored));
  decoded.scales = first_groups("scales");
  decoded.offsets = first_groups(scaled ? "scaled_zeros" : "qzeros");
  // Four outputs share a row. In it, 64 inputs take 64 words: 16 for each output, two halves of 8 words, each word holding inputs
  // j, j+8, j+16 and j+24 of its half.
  decoded.codes = place_reader(
      qweight, stored.in, stored.out, 4,
      [](std::int64_t k) {
        return Place{k / 64 * 64 + k / 32 % 2 * 8 + k % 8, static_cast<int>(4 * (k / 8 % 4))};
      },
      [&](std::int64_t n) {
        return Place{n / 4 * stored.in + n % 4 * 16, 0};
      });
  decoded.description.reading = "zero points are stored as -scale * zero, already rounded; weights are scale * code plus that";
  return decoded;
}

std::pair<std::int64_t, std::int64_t> fast_features(const Stored& stored) {
  const Tensor qweight = find(stored, "qweight");
  require(qweight.defined() && qweight.rank() == 2, stored, "has no qweight of two dimensions");
  return {qweight.dim(1), 4 * qweight.dim(0)};
}

constexpr std::string_view gemm_layouts[] = {"gemm"}, gemv_layouts[] = {"gemv"}, fast_layouts[] = {"gemv_fast", "llm-awq"};
constexpr std::string_view required[] = {"qweight", "qzeros", "scales"}, required_fast[] = {"qweight", "scales"};
constexpr std::string_view optional[] = {"bias"}, optional_fast[] = {"qzeros", "scaled_zeros", "bias"};

}  // namespace

constinit const Format awq_gemm_format{"awq", gemm_layouts, required, optional, decode_gemm, gemm_features};
constinit const Format awq_gemv_format{"awq", gemv_layouts, required, optional, decode_gemv, gemv_features};
constinit const Format awq_fast_format{"awq", fast_layouts, required_fast, optional_fast, decode_fast, fast_features};

}  // namespace graft::quant
