#include "reference.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>

namespace graft::quant::reference {
namespace {

// A row of bits, cut into words lowest bit first.
class Bits {
 public:
  void put(std::size_t at, int width, unsigned value) {
    if (bits_.size() < at + static_cast<std::size_t>(width)) bits_.resize(at + static_cast<std::size_t>(width));
    for (int i = 0; i < width; ++i) bits_[at + static_cast<std::size_t>(i)] = value >> i & 1;
  }
  std::vector<std::uint32_t> words(int word_bits) const {
    std::vector<std::uint32_t> words((bits_.size() + static_cast<std::size_t>(word_bits) - 1) /
                                     static_cast<std::size_t>(word_bits));
    for (std::size_t i = 0; i < bits_.size(); ++i)
      if (bits_[i]) words[i / static_cast<std::size_t>(word_bits)] |= 1u << i % static_cast<std::size_t>(word_bits);
    return words;
  }

 private:
  std::vector<bool> bits_;
};

std::vector<std::uint32_t> stream(const std::vector<unsigned>& values, int bits, int word_bits) {
  Bits row;
  for (std::size_t i = 0; i < values.size(); ++i) row.put(i * static_cast<std::size_t>(bits), bits, values[i]);
  return row.words(word_bits);
}

// Blocks of 32 values, plane by plane; the table is the published one.
std::vector<std::uint32_t> planar(const std::vector<unsigned>& values, int bits, int) {
  static const std::vector<std::vector<std::pair<int, int>>> planes = {
      {}, {}, {{2, 0}}, {{2, 0}, {1, 2}}, {{4, 0}}, {{4, 0}, {1, 4}}, {{4, 0}, {2, 4}}, {{4, 0}, {2, 4}, {1, 6}}, {{8, 0}}};
  Bits row;
  std::size_t at = 0;
  for (std::size_t block = 0; block < values.size(); block += 32)
    for (const auto& [width, offset] : planes[static_cast<std::size_t>(bits)])
      for (std::size_t j = 0; j < 32; ++j, at += static_cast<std::size_t>(width)) row.put(at, width, values[block + j] >> offset);
  return row.words(32);
}

std::vector<std::uint32_t> interleaved(const std::vector<unsigned>& values, int, int) {
  constexpr std::array<std::size_t, 8> order = {0, 2, 4, 6, 1, 3, 5, 7};
  Bits row;
  for (std::size_t c = 0; c < values.size(); c += 8)
    for (std::size_t i = 0; i < 8; ++i) row.put(4 * (c + i), 4, values[c + order[i]]);
  return row.words(32);
}

Tensor words_tensor(const std::vector<std::uint32_t>& words, int word_bits, const Shape& shape) {
  switch (word_bits) {
    case 8: return Tensor::from(std::vector<std::int8_t>(words.begin(), words.end()), shape);
    case 16: return Tensor::from(std::vector<std::int16_t>(words.begin(), words.end()), shape);
    default: return Tensor::from(std::vector<std::int32_t>(words.begin(), words.end()), shape);
  }
}

using Packer = std::vector<std::uint32_t> (*)(const std::vector<unsigned>& values, int bits, int word_bits);

// Packs each row of rows × columns values. `change` may alter a row's words.
Tensor pack_rows(std::int64_t rows, std::int64_t columns, int bits, int word_bits, Packer pack,
                 const std::function<unsigned(std::int64_t, std::int64_t)>& value,
                 const std::function<void(std::vector<std::uint32_t>&)>& change = {}) {
  std::vector<std::uint32_t> all;
  for (std::int64_t r = 0; r < rows; ++r) {
    std::vector<unsigned> values;
    for (std::int64_t c = 0; c < columns; ++c) values.push_back(value(r, c));
    std::vector<std::uint32_t> words = pack(values, bits, word_bits);
    if (change) change(words);
    all.insert(all.end(), words.begin(), words.end());
  }
  return words_tensor(all, word_bits, {rows, static_cast<std::int64_t>(all.size()) / rows});
}

Tensor transposed(const Tensor& matrix) { return matrix.alias({matrix.dim(1), matrix.dim(0)}, {1, matrix.dim(1)}, 0).clone(); }

Stored start(const Integers& layer, const std::string& method, const std::string& layout) {
  Stored stored;
  stored.module = "reference";
  stored.in = layer.in;
  stored.out = layer.out;
  stored.description.method = method;
  stored.description.layout = layout;
  stored.description.bits = layer.bits;
  stored.description.group_size = layer.group_size;
  stored.description.sym = layer.sym;
  return stored;
}

}  // namespace

Integers draw(std::int64_t in, std::int64_t out, int bits, std::int64_t group_size, bool sym, bool act_order, unsigned seed,
              DType scale_dtype) {
  std::mt19937 random(seed);
  Integers layer;
  layer.in = in;
  layer.out = out;
  layer.bits = bits;
  layer.group_size = group_size;
  layer.sym = sym;
  const std::int64_t length = group_size > 0 ? std::min(group_size, in) : in;
  layer.groups = (in + length - 1) / length;
  const unsigned codes = 1u << bits;
  for (std::int64_t i = 0; i < in * out; ++i) layer.codes.push_back(static_cast<std::uint8_t>(random() % codes));
  for (std::int64_t i = 0; i < layer.groups * out; ++i) {
    const unsigned chance = static_cast<unsigned>(random() % 4);
    const unsigned zero = chance == 0 ? 0 : chance == 1 ? codes - 1 : static_cast<unsigned>(random() % codes);
    layer.zeros.push_back(static_cast<std::uint8_t>(sym ? codes / 2 : zero));
    layer.scales.push_back(static_cast<float>(random() % 1000 + 1) * 1e-4f);
  }
  layer.scales = scales(layer, scale_dtype).to_vector<float>();
  for (std::int64_t k = 0; k < in; ++k) layer.g_idx.push_back(static_cast<std::int32_t>(k / length));
  if (act_order) std::shuffle(layer.g_idx.begin(), layer.g_idx.end(), random);
  return layer;
}

Tensor scales(const Integers& layer, DType dtype) {
  const Tensor scales = Tensor::empty({layer.groups, layer.out}, dtype);
  scales.copy_(Tensor::from(layer.scales, scales.shape()));
  return scales;
}

Stored gptq(const Integers& layer, ZeroWriter writer, int word_bits, DType scale_dtype) {
  Stored stored = start(layer, "gptq", writer == ZeroWriter::as_is ? "gptq_v2" : "gptq");
  stored.description.producer = writer == ZeroWriter::per_field ? "auto_gptq" : "gptqmodel";
  stored.description.producer_version = writer == ZeroWriter::scrambled ? "4.2.5" : "7.7.0";
  const int bits = layer.bits;
  const unsigned mask = (1u << bits) - 1;
  stored.tensors["qweight"] = transposed(
      pack_rows(layer.out, layer.in, bits, word_bits, stream, [&](std::int64_t n, std::int64_t k) { return layer.code(k, n); }));
  const unsigned less = writer == ZeroWriter::per_field ? 1 : 0;
  stored.tensors["qzeros"] = pack_rows(
      layer.groups, layer.out, bits, word_bits, stream,
      [&](std::int64_t g, std::int64_t n) { return (layer.zero(g, n) - less) & mask; },
      [&](std::vector<std::uint32_t>& words) {
        constexpr std::array<std::uint32_t, 3> constants = {0x24924924, 0x92492492, 0x49249249};
        for (std::size_t i = 0; i < words.size(); ++i) {
          if (writer == ZeroWriter::scrambled) words[i] -= constants[i % 3];
          if (writer == ZeroWriter::per_word) words[i] -= bits == 2 ? 0x55555555u : bits == 4 ? 0x11111111u : 0x01010101u;
        }
      });
  stored.tensors["scales"] = scales(layer, scale_dtype);
  stored.tensors["g_idx"] = Tensor::from(layer.g_idx, {layer.in});
  return stored;
}

Stored gptq_planar(const Integers& layer, DType scale_dtype) {
  Stored stored = start(layer, "gptq", "gptq_p");
  stored.tensors["qweight"] = transposed(
      pack_rows(layer.out, layer.in, layer.bits, 32, planar, [&](std::int64_t n, std::int64_t k) { return layer.code(k, n); }));
  stored.tensors["qzeros"] = pack_rows(layer.groups, layer.out, layer.bits, 32, planar,
                                       [&](std::int64_t g, std::int64_t n) { return layer.zero(g, n); });
  stored.tensors["scales"] = scales(layer, scale_dtype);
  stored.tensors["g_idx"] = Tensor::from(layer.g_idx, {layer.in});
  return stored;
}

Stored awq_gemm(const Integers& layer) {
  Stored stored = start(layer, "awq", "gemm");
  const Packer packer = layer.bits == 4 ? interleaved : stream;
  stored.tensors["qweight"] =
      pack_rows(layer.in, layer.out, layer.bits, 32, packer, [&](std::int64_t k, std::int64_t n) { return layer.code(k, n); });
  stored.tensors["qzeros"] = pack_rows(layer.groups, layer.out, layer.bits, 32, packer,
                                       [&](std::int64_t g, std::int64_t n) { return layer.zero(g, n); });
  stored.tensors["scales"] = scales(layer, DType::f16);
  return stored;
}

namespace {

// Groups that gemv and its successors make room for.
std::int64_t padded_groups(const Integers& layer) {
  const std::int64_t length = layer.group_size > 0 ? std::min(layer.group_size, layer.in) : layer.in;
  const std::int64_t unit = length >= 128 ? 8 : length == 64 ? 16 : length == 32 ? 32 : 64;
  return (layer.groups + unit - 1) / unit * unit;
}

}  // namespace

Stored awq_gemv(const Integers& layer) {
  Stored stored = start(layer, "awq", "gemv");
  const std::int64_t padded = padded_groups(layer);
  stored.tensors["qweight"] =
      pack_rows(layer.out, layer.in, 4, 32, stream, [&](std::int64_t n, std::int64_t k) { return layer.code(k, n); });
  stored.tensors["qzeros"] = pack_rows(layer.out, padded, 4, 32, stream,
                                       [&](std::int64_t n, std::int64_t g) { return g < layer.groups ? layer.zero(g, n) : 0u; });
  const Tensor wide = Tensor::zeros({layer.out, padded}, DType::f16);
  wide.alias({layer.out, layer.groups}, {padded, 1}, 0).copy_(transposed(scales(layer, DType::f16)));
  stored.tensors["scales"] = wide;
  return stored;
}

Stored awq_fast(const Integers& layer, const std::string& layout) {
  Stored stored = start(layer, "awq", layout);
  const std::int64_t padded = padded_groups(layer), in = layer.in, out = layer.out;
  // As the packer does it: within 32 inputs the order of words is 0 8 16 24 1 9 …, in nibbles; four outputs then share a row,
  // each with 16 words at a time.
  std::vector<std::int16_t> words;
  for (std::int64_t row = 0; row < out; row += 4)
    for (std::int64_t k = 0; k < in; k += 64)
      for (std::int64_t n = row; n < row + 4; ++n)
        for (std::int64_t half = k; half < k + 64; half += 32)
          for (std::int64_t j = 0; j < 8; ++j) {
            unsigned word = 0;
            for (int nibble = 0; nibble < 4; ++nibble)
              word |= static_cast<unsigned>(layer.code(half + 8 * nibble + j, n)) << 4 * nibble;
            words.push_back(static_cast<std::int16_t>(word));
          }
  stored.tensors["qweight"] = Tensor::from(words, {out / 4, in});
  const Tensor wide_scales = Tensor::zeros({padded, out}, DType::f16), wide_zeros = Tensor::zeros({padded, out}, DType::f16);
  std::vector<float> scaled;
  for (std::size_t i = 0; i < layer.scales.size(); ++i) scaled.push_back(-layer.scales[i] * layer.zeros[i]);
  wide_scales.alias({layer.groups, out}, {out, 1}, 0).copy_(scales(layer, DType::f16));
  wide_zeros.alias({layer.groups, out}, {out, 1}, 0).copy_(Tensor::from(scaled, {layer.groups, out}));
  stored.tensors["scales"] = wide_scales;
  stored.tensors[layout == "llm-awq" ? "scaled_zeros" : "qzeros"] = wide_zeros;
  return stored;
}

Stored marlin(const Integers& layer, const std::string& method) {
  Stored stored = start(layer, method, "marlin");
  // A tile is 16 inputs by 64 outputs, held by 32 threads: thread i has output i / 4 of each of eight blocks of 8, and of these
  // the inputs that a tensor core's operand layout gives it. Every eight values then share a word in AWQ's order.
  std::vector<std::pair<int, int>> tile;  // (input, output) of each value in turn
  for (int thread = 0; thread < 32; ++thread)
    for (int block16 = 0; block16 < 64; block16 += 16)
      for (int block8 = 0; block8 < 16; block8 += 8)
        for (int k : {2 * (thread % 4), 2 * (thread % 4) + 1, 2 * (thread % 4) + 8, 2 * (thread % 4) + 9})
          tile.emplace_back(k, block16 + block8 + thread / 4);
  std::vector<std::uint32_t> words;
  for (std::int64_t k = 0; k < layer.in; k += 16)
    for (std::int64_t n = 0; n < layer.out; n += 64) {
      std::vector<unsigned> values;
      for (const auto& [row, column] : tile) values.push_back(layer.code(k + row, n + column));
      const auto packed = interleaved(values, 4, 32);
      words.insert(words.end(), packed.begin(), packed.end());
    }
  std::vector<float> permuted;
  const std::int64_t run = layer.groups > 1 ? 64 : 32;
  for (std::int64_t g = 0; g < layer.groups; ++g)
    for (std::int64_t n = 0; n < layer.out; n += run)
      for (std::int64_t i = 0; i < run; ++i) {
        constexpr std::array<std::int64_t, 8> pairs = {0, 1, 8, 9, 16, 17, 24, 25};
        const std::int64_t from = run == 64 ? i / 8 + i % 8 * 8 : 2 * (i / 8) + pairs[static_cast<std::size_t>(i % 8)];
        permuted.push_back(layer.scale(g, n + from));
      }
  Integers stored_scales = layer;
  stored_scales.scales = permuted;
  stored.tensors[method == "gptq" ? "B" : "qweight"] = words_tensor(words, 32, {layer.in / 16, 2 * layer.out});
  stored.tensors[method == "gptq" ? "s" : "scales"] = scales(stored_scales, DType::f16);
  if (method == "gptq") stored.tensors["workspace"] = Tensor::zeros({layer.out / 128 * 16}, DType::i32);
  return stored;
}

Integers draw_eetq(std::int64_t in, std::int64_t out, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 25);
  Integers layer = draw(in, out, 8, -1, true, false, seed);
  for (std::uint8_t& code : layer.codes)
    code = static_cast<std::uint8_t>(128 + std::clamp(std::lround(normal(random)), -100l, 100l));
  for (std::int64_t n = 0; n < out; ++n)  // every output reaches the end of the range somewhere
    layer.codes[static_cast<std::size_t>(static_cast<std::int64_t>(random() % static_cast<unsigned>(in)) * out + n)] =
        n % 2 ? 0 : 255;
  return layer;
}

Stored eetq(const Integers& layer, const std::string& layout) {
  Stored stored = start(layer, "eetq", layout);
  const auto in = static_cast<std::size_t>(layer.in), out = static_cast<std::size_t>(layer.out);
  std::vector<std::uint8_t> bytes = layer.codes;  // code + 128 already
  if (layout == "sm80") {
    constexpr std::array<std::size_t, 16> rows = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
    std::vector<std::uint8_t> permuted(in * out), columns(in * out), woven;
    for (std::size_t t = 0; t < in; ++t)
      for (std::size_t n = 0; n < out; ++n) permuted[t * out + n] = bytes[(t / 16 * 16 + rows[t % 16]) * out + n];
    for (std::size_t k = 0; k < in; ++k)
      for (std::size_t n = 0; n < out; ++n) columns[n * in + k] = permuted[k * out + n];
    for (std::size_t pair = 0; pair < out; pair += 2)
      for (std::size_t k = 0; k < in; k += 64)
        for (std::size_t n = pair; n < pair + 2; ++n)
          for (std::size_t i = k; i < k + 64; ++i) woven.push_back(columns[n * in + i]);
    bytes = woven;
  }
  if (layout != "plain")
    for (std::size_t i = 0; i < bytes.size(); i += 4) std::swap(bytes[i + 1], bytes[i + 2]);
  else
    for (std::uint8_t& byte : bytes) byte ^= 0x80;
  stored.tensors["weight"] = Tensor::from(std::vector<std::int8_t>(bytes.begin(), bytes.end()), {layer.in, layer.out});
  stored.tensors["weight_scales"] = scales(layer, DType::f16).alias({layer.out}, {1}, 0);
  return stored;
}

std::vector<Stored> one_of_each(std::int64_t in, std::int64_t out) {
  std::vector<Stored> layers;
  for (int bits : {2, 3, 4, 8}) layers.push_back(gptq(draw(in, out, bits, 32, false, bits == 4, 1), ZeroWriter::as_is));
  layers.push_back(gptq(draw(in, out, 4, 128, true, false, 2), ZeroWriter::per_word));
  for (int bits : {5, 6, 7}) layers.push_back(gptq_planar(draw(in, out, bits, 64, false, false, 3)));
  for (int bits : {4, 5}) layers.push_back(awq_gemm(draw(in, out, bits, 64, false, false, 4)));
  layers.push_back(awq_gemv(draw(in, out, 4, 64, false, false, 5)));
  layers.push_back(awq_fast(draw(in, out, 4, 32, false, false, 6), "gemv_fast"));
  layers.push_back(awq_fast(draw(in, out, 4, 128, false, false, 7), "llm-awq"));
  layers.push_back(marlin(draw(in, out, 4, 128, true, false, 9), "gptq"));
  layers.push_back(marlin(draw(in, out, 4, -1, true, false, 10), "awq"));
  for (const char* layout : {"plain", "sm70", "sm80"}) layers.push_back(eetq(draw_eetq(in, out, 8), layout));
  check(layers.size() == count_of_each, "{} layers, and {} were announced", layers.size(), count_of_each);
  return layers;
}

}  // namespace graft::quant::reference
