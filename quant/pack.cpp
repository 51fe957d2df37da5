#include "graft/quant/pack.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "graft/core/parallel.h"

namespace graft::quant {
namespace {

constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

// Channels sorted by group, groups filled up to whole units, and the segments that this gives.
void arrange(const Decoded& layer, Packed& packed) {
  std::vector<std::int32_t> sizes(static_cast<std::size_t>(packed.groups));
  for (std::int32_t group : layer.groups) {
    check(group >= 0 && group < packed.groups, "pack: a channel is in group {}, but there are scales for {} groups", group,
          packed.groups);
    ++sizes[static_cast<std::size_t>(group)];
  }
  std::vector<std::int32_t> begins(sizes.size() + 1, 0);
  for (std::size_t g = 0; g < sizes.size(); ++g)
    begins[g + 1] = begins[g] + static_cast<std::int32_t>(round_up(sizes[g], Packed::unit));
  packed.rows = begins.back();

  packed.order.assign(static_cast<std::size_t>(packed.rows), -1);
  std::vector<std::int32_t> next(begins.begin(), begins.end() - 1);
  bool sorted = true;  // filling may follow the last channel, but nowhere else
  for (std::int32_t k = 0; k < layer.in; ++k) {
    const std::int32_t row = next[static_cast<std::size_t>(layer.groups[static_cast<std::size_t>(k)])]++;
    packed.order[static_cast<std::size_t>(row)] = k;
    sorted = sorted && row == k;
  }
  if (sorted) packed.order.clear();

  packed.tiles.push_back(0);
  for (std::int64_t g = 0; g < packed.groups; ++g)
    for (std::int32_t begin = begins[static_cast<std::size_t>(g)]; begin < begins[static_cast<std::size_t>(g) + 1];) {
      const auto tile_end = static_cast<std::int32_t>((begin / Packed::tile_rows + 1) * Packed::tile_rows);
      const std::int32_t end = std::min(begins[static_cast<std::size_t>(g) + 1], tile_end);
      packed.segments.push_back({begin, end, static_cast<std::int32_t>(g)});
      if (end == tile_end) packed.tiles.push_back(static_cast<std::int32_t>(packed.segments.size()));
      begin = end;
    }
  if (packed.rows % Packed::tile_rows != 0) packed.tiles.push_back(static_cast<std::int32_t>(packed.segments.size()));
}

// One f32 table [groups, out] times a power of two, its rows filled up with zeros; the same memory where that changes nothing.
std::shared_ptr<Storage> widened(const Tensor& table, float factor, const Packed& packed) {
  const bool whole = table.count() * size_of(DType::f32) == table.storage()->bytes();
  if (factor == 1 && packed.columns == packed.out && whole) return table.storage();
  auto storage = Storage::allocate(packed.groups * packed.columns * std::int64_t{sizeof(float)});
  auto* to = static_cast<float*>(storage->data());
  const float* from = table.data<float>();
  for (std::int64_t g = 0; g < packed.groups; ++g, from += packed.out, to += packed.columns) {
    std::transform(from, from + packed.out, to, [factor](float value) { return value * factor; });
    std::fill(to + packed.out, to + packed.columns, 0.0f);
  }
  return storage;
}

// A row tile of codes as they come from the layer, [tile_rows][columns].
void read_codes(const Decoded& layer, const Packed& packed, std::int64_t tile, std::vector<std::uint8_t>& codes) {
  codes.assign(static_cast<std::size_t>(Packed::tile_rows * packed.columns), 0);
  const std::int64_t begin = tile * Packed::tile_rows, end = std::min(begin + Packed::tile_rows, packed.rows);
  if (packed.order.empty() && packed.columns == packed.out) {
    layer.codes(begin, std::min(end, packed.in), 0, packed.out, codes.data());
    return;
  }
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t k = packed.order.empty() ? (row < packed.in ? row : -1) : packed.order[static_cast<std::size_t>(row)];
    if (k >= 0) layer.codes(k, k + 1, 0, packed.out, codes.data() + (row - begin) * packed.columns);
  }
}

// A row tile, [tile_rows][columns] codes, cut into words. Each byte of the words is made for all columns of a tile at once, from the
// codes that have bits in it: then every loop over columns is one over neighbouring bytes.
template <int bits>
void write_tiles(const std::uint8_t* codes, const Packed& packed, std::uint8_t* to) {
  constexpr int per = Packed::rows_per_word(bits), bytes = Packed::bytes_per_word(bits);
  std::uint8_t words[bytes][Packed::tile_columns];
  for (std::int64_t column = 0; column < packed.columns; column += Packed::tile_columns)
    for (std::int64_t row = 0; row < Packed::tile_rows; row += per) {
      for (int b = 0; b < bytes; ++b) {
        std::uint8_t* byte = words[b];
        std::fill(byte, byte + Packed::tile_columns, std::uint8_t{0});
        for (int i = 0; i < per; ++i) {
          const int at = bits * i - 8 * b;  // where the code begins in this byte
          if (at <= -bits || at >= 8) continue;
          const std::uint8_t* from = codes + (row + i) * packed.columns + column;
          const auto factor = static_cast<std::uint8_t>(at >= 0 ? 1 << (at + packed.shift) : 0);
          if (at >= 0)
            for (std::int64_t n = 0; n < Packed::tile_columns; ++n) byte[n] |= static_cast<std::uint8_t>(from[n] * factor);
          else
            for (std::int64_t n = 0; n < Packed::tile_columns; ++n) byte[n] |= static_cast<std::uint8_t>(from[n] >> -at);
        }
      }
      for (std::int64_t n = 0; n < Packed::tile_columns; ++n)
        for (int b = 0; b < bytes; ++b) *to++ = words[b][n];
    }
}

void write_tiles(const std::vector<std::uint8_t>& codes, const Packed& packed, std::int64_t tile) {
  auto* to = static_cast<std::uint8_t*>(packed.codes->data()) + tile * packed.column_tiles() * Packed::tile_bytes(packed.bits);
  switch (packed.bits) {
    case 2: return write_tiles<2>(codes.data(), packed, to);
    case 3: return write_tiles<3>(codes.data(), packed, to);
    case 4: return write_tiles<4>(codes.data(), packed, to);
    default: return write_tiles<8>(codes.data(), packed, to);
  }
}

}  // namespace

std::shared_ptr<const Packed> pack(const Decoded& layer) {
  check(layer.in > 0 && layer.out > 0 && layer.bits >= 2 && layer.bits <= 8, "pack: a layer of {} × {} in {} bits", layer.in,
        layer.out, layer.bits);
  check(static_cast<std::int64_t>(layer.groups.size()) == layer.in, "pack: groups for {} channels of {}", layer.groups.size(),
        layer.in);
  const Tensor& zeros = layer.offsets.defined() ? layer.offsets : layer.zeros;
  check(layer.scales.rank() == 2 && layer.scales.dim(1) == layer.out && zeros.shape() == layer.scales.shape(),
        "pack: scales {} and zeros {}; both must be [groups, {}]", layer.scales.shape(), zeros.shape(), layer.out);
  check(layer.scales.is_contiguous() && zeros.is_contiguous(), "pack: scales and zeros must be contiguous");

  auto packed = std::make_shared<Packed>();
  packed->in = layer.in;
  packed->out = layer.out;
  packed->bits = layer.bits <= 4 ? layer.bits : 8;
  packed->shift = packed->bits - layer.bits;
  packed->affine = layer.offsets.defined();
  packed->groups = layer.scales.dim(0);
  packed->columns = round_up(layer.out, Packed::tile_columns);
  arrange(layer, *packed);
  const auto steps = static_cast<float>(1 << packed->shift);
  packed->scales = widened(layer.scales, 1 / steps, *packed);
  packed->zeros = widened(zeros, packed->affine ? 1 : steps, *packed);
  packed->codes = Storage::allocate(packed->row_tiles() * packed->column_tiles() * Packed::tile_bytes(packed->bits));
  parallel_for(packed->row_tiles(), [&](std::int64_t tile) {
    std::vector<std::uint8_t> codes;
    read_codes(layer, *packed, tile, codes);
    write_tiles(codes, *packed, tile);
  });
  return packed;
}

std::uint32_t code_at(const Packed& weight, std::int64_t row, std::int64_t column) {
  const std::int64_t per = Packed::rows_per_word(weight.bits), bytes = Packed::bytes_per_word(weight.bits);
  const std::int64_t tile = row / Packed::tile_rows * weight.column_tiles() + column / Packed::tile_columns;
  const std::int64_t word = row % Packed::tile_rows / per * Packed::tile_columns + column % Packed::tile_columns;
  const auto* from =
      static_cast<const std::uint8_t*>(weight.codes->data()) + tile * Packed::tile_bytes(weight.bits) + word * bytes;
  std::uint32_t bits = 0;
  for (std::int64_t b = 0; b < bytes; ++b) bits |= static_cast<std::uint32_t>(from[b]) << (8 * b);
  return bits >> (weight.bits * (row % per)) & ((1u << weight.bits) - 1);
}

std::vector<std::uint8_t> unpack(const Packed& weight) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(weight.in * weight.out));
  parallel_for(weight.rows, [&](std::int64_t row) {
    const std::int64_t k = weight.order.empty() ? row : weight.order[static_cast<std::size_t>(row)];
    if (k < 0 || k >= weight.in) return;
    for (std::int64_t n = 0; n < weight.out; ++n)
      codes[static_cast<std::size_t>(k * weight.out + n)] = static_cast<std::uint8_t>(code_at(weight, row, n) >> weight.shift);
  });
  return codes;
}

}  // namespace graft::quant
