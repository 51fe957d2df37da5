// Every index of the product of few rows: what is copied, read and multiplied is what was packed, and no access is wasteful.
#include "graft/cuda/skinny_layout.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <set>
#include <vector>

#include "graft/quant/pack.h"
#include "graft/tests/cuda/sectors.h"
#include "graft/tests/quant/random_layer.h"

namespace graft::cuda::skinny {
namespace {

using quant::test::Case;
using quant::test::Grouping;

constexpr int widths[] = {2, 3, 4, 8};

/// The value of a half of a register.
float number(std::uint32_t halves, int upper, bool is_bf16) {
  const auto bits = static_cast<std::uint16_t>(halves >> 16 * upper);
  if (is_bf16) return std::bit_cast<bf16>(bits);
  return std::bit_cast<f16>(bits);
}

/// What the tensor cores are given for code p of a word (upper 0) or code p + rows_per_word / 2 (upper 1), less the offset.
float code_of(int bits, bool is_bf16, std::uint32_t word, int p, int upper) {
  const std::uint32_t apart = spread(bits, word);
  float value = number(fed(bits, is_bf16, apart, p), upper, is_bf16);
  if (in_two(bits, is_bf16)) value += number(fed_more(apart, p), upper, is_bf16);
  return value - feed(bits, is_bf16).offset;
}

TEST(SkinnyLayout, EveryCodeIsFedAsItIs) {
  for (const int bits : widths)
    for (const bool is_bf16 : {false, true})
      for (int i = 0; i < rows_per_word(bits); ++i)
        for (std::uint32_t code = 0; code < 1u << bits; ++code)
          for (const std::uint32_t others : {0u, ~0u, 0x55555555u, 0xaaaaaaaau}) {
            const std::uint32_t mask = ((1u << bits) - 1) << bits * i, word = (others & ~mask) | code << bits * i;
            const int half = rows_per_word(bits) / 2;
            ASSERT_EQ(code_of(bits, is_bf16, word, i % half, i / half), static_cast<float>(code)) << bits << " bits, code " << i;
          }
}

TEST(SkinnyLayout, AUnitsRowsAreTakenOnceAndPartsAreWhole) {
  for (const int bits : widths) {
    std::set<int> rows;
    unsigned all = 0;
    for (int step = 0; step < steps; ++step)
      for (int t = 0; t < 4; ++t)
        for (int e = 0; e < 4; ++e) {
          const int row = row_of(bits, step, t, e);
          rows.insert(row);
          EXPECT_EQ(row / Packed::unit, part_of(bits, step, t)) << bits;
          EXPECT_TRUE(parts_of(bits, step) >> part_of(bits, step, t) & 1);
        }
    for (int step = 0; step < steps; ++step) all |= parts_of(bits, step);
    EXPECT_EQ(all, (1u << parts) - 1);
    EXPECT_EQ(rows.size(), static_cast<std::size_t>(unit));
    EXPECT_EQ(*rows.begin(), 0);
    EXPECT_EQ(*rows.rbegin(), unit - 1);
  }
  std::set<int> columns;
  for (int tile = 0; tile < 2; ++tile)
    for (int upper = 0; upper < 2; ++upper) columns.insert(column_of(tile, upper));
  EXPECT_EQ(columns, (std::set<int>{0, 1, 2, 3}));
}

/// A slot of the ring, filled from a load's first byte by all lanes.
std::vector<std::uint8_t> copied(int bits, const std::uint8_t* from) {
  std::vector<std::uint8_t> slot(static_cast<std::size_t>(load_bytes(bits)), 0xee);
  for (int lane = 0; lane < copying_lanes(bits); ++lane)
    std::copy_n(from + copied_from(bits, lane), 16, slot.begin() + copied_to(lane));
  return slot;
}

/// A lane's word for column `i` of its four; what follows a word of 3 bytes may be anything.
std::uint32_t word_in(int bits, const std::vector<std::uint8_t>& slot, int lane, int i) {
  std::uint32_t word = 0;
  for (int b = 0; b < 4; ++b) {
    const auto at = static_cast<std::size_t>(read_from(bits, lane) + i * bytes_per_word(bits) + b);
    word |= static_cast<std::uint32_t>(b < bytes_per_word(bits) ? slot[at] : 0xa5) << 8 * b;
  }
  return word;
}

// Packed, copied, read, fed: every element of A is the matrix's, at the row that B's element has and at the column that the lane's sums have.
TEST(SkinnyLayout, FragmentsAreThePackedMatrix) {
  for (const int bits : {2, 3, 4, 6, 8}) {
    const Case c{300, 200, bits, 48, Grouping::irregular};
    const auto w = quant::pack(layer(c));
    for (const bool is_bf16 : {false, true}) {
      std::vector<int> met(static_cast<std::size_t>(w->row_tiles() * Packed::tile_rows * w->columns));
      for (std::int64_t u = 0; u * unit < w->rows; ++u)
        for (std::int64_t part = 0; part < w->columns / 32; ++part)  // a warp's columns
          for (int load = 0; load < loads_per_unit(w->bits); ++load) {
            const std::int64_t tile = u * unit / Packed::tile_rows * w->column_tiles() + part * 32 / Packed::tile_columns;
            const std::int64_t in_tile = u % 2 * loads_per_unit(w->bits) + load;
            const auto* from = static_cast<const std::uint8_t*>(w->codes->data()) + tile * Packed::tile_bytes(w->bits) +
                               in_tile * load_stride(w->bits) + part % 2 * 32 * bytes_per_word(w->bits);
            const auto slot = copied(w->bits, from);
            for (int step = 0; step < steps; ++step)
              for (int lane = 0; lane < 32 && load_of(w->bits, step) == load; ++lane)
                for (int reg = 0; reg < 4; ++reg)
                  for (int tile16 = 0; tile16 < 2; ++tile16)
                    for (int upper = 0; upper < 2; ++upper) {
                      const int i = column_of(tile16, reg % 2);
                      const std::int64_t row = u * unit + row_of(w->bits, step, lane % 4, reg / 2 * 2 + upper);
                      const std::int64_t column = part * 32 + lane_column(lane) + i;
                      ++met[static_cast<std::size_t>(row * w->columns + column)];
                      ASSERT_EQ(
                          code_of(w->bits, is_bf16, word_in(w->bits, slot, lane, i), first_pair(w->bits, step) + reg / 2, upper),
                          static_cast<float>(quant::code_at(*w, row, column)))
                          << bits << " bits, row " << row << ", column " << column;
                    }
          }
      for (std::int64_t row = 0; row < (w->rows + unit - 1) / unit * unit; ++row)
        for (std::int64_t column = 0; column < w->columns; ++column)
          ASSERT_EQ(met[static_cast<std::size_t>(row * w->columns + column)], 1);
    }
  }
}

/// The most different words of one bank that lanes ask for at once, when each accesses `bytes` at its address: wide accesses are made by
/// halves or quarters of a warp.
int conflicts(int bytes, int lanes, auto&& address) {
  const int together = bytes == 16 ? 8 : bytes == 8 ? 16 : 32;
  std::size_t most = 0;
  for (int begin = 0; begin < lanes; begin += together) {
    std::array<std::set<int>, 32> banks;
    for (int lane = begin; lane < std::min(begin + together, lanes); ++lane)
      for (int b = 0; b < bytes; b += 4)
        banks[static_cast<std::size_t>((address(lane) + b) / 4 % 32)].insert((address(lane) + b) / 4);
    for (const auto& bank : banks) most = std::max(most, bank.size());
  }
  return static_cast<int>(most);
}

TEST(SkinnyLayout, NoBankIsAskedTwice) {
  for (const int bits : widths) {
    EXPECT_EQ(conflicts(16, copying_lanes(bits), [](int lane) { return copied_to(lane); }), 1);
    if (bits == 3) EXPECT_EQ(conflicts(4, 32, [](int lane) { return read_from(3, lane); }), 1);
    else EXPECT_EQ(conflicts(16, 32, [&](int lane) { return read_from(bits, lane); }), 1);
  }
  for (const int tiles : {1, 2, 4}) {
    EXPECT_EQ(conflicts(8, 32, [&](int lane) { return staged_at(tiles, 1, tiles - 1, 3, lane); }), 1);
    EXPECT_EQ(conflicts(8, 32, [&](int lane) { return 4 * sum_at(tiles, 1, 2, 8 * (tiles - 1) + 2 * (lane % 4)); }), 1);
  }
}

TEST(SkinnyLayout, WholeSectorsAreRead) {
  for (const int bits : widths) {
    SCOPED_TRACE(bits);
    // Codes: every load of a tile, for the warps of both its halves.
    for (int load = 0; load < loads_per_tile(bits); ++load)
      for (const int half : {0, 1})
        expect_whole_sectors(copying_lanes(bits), 16, [&](int lane) {
          const int at = load * load_stride(bits) + half * 32 * bytes_per_word(bits) + copied_from(bits, lane);
          EXPECT_EQ(at % 16, 0);
          return at;
        });
    EXPECT_EQ(Packed::tile_bytes(bits) % 32, 0);
    EXPECT_EQ(load_stride(bits) * loads_per_tile(bits), Packed::tile_bytes(bits));
    EXPECT_GE(2 * warps * (slots(bits) - 1) * batch_bytes(bits), 64 << 10) << "under way on a multiprocessor";
    // x: lanes have 8 rows, and a word's codes of each. With 2 bits those are 32 bytes, which two instructions halve; here they are one.
    const int bytes = 2 * rows_per_word(bits), row_bytes = 2 * 4096;
    for (int load = 0; load < loads_per_unit(bits); ++load)
      expect_whole_sectors(32, bytes, [&](int lane) { return lane / 4 * row_bytes + 2 * word_row(bits, load, lane % 4); });
  }
  // Scales and zeros: lanes of four columns each, of which those of the same columns read the same.
  expect_whole_sectors(32, 16, [](int lane) { return 4 * lane_column(lane); });
}

TEST(SkinnyLayout, SharedMemoryIsDividedWithoutOverlap) {
  for (const int bits : widths)
    for (const int tiles : {1, 2, 4}) {
      const Shared s = shared_layout(bits, tiles);
      EXPECT_EQ(staged_at(tiles, staged_units(tiles) - 1, tiles - 1, steps - 1, 31) + 8, s.sums);
      EXPECT_EQ(s.sums + 4 * (sum_at(tiles, staged_units(tiles) - 1, parts, 8 * tiles - 1) + 1), s.groups);
      for (const int begin : {s.sums, s.groups, s.last, s.totals, s.ring}) EXPECT_EQ(begin % 16, 0);
      EXPECT_LE(staged_ranks * (slab + most_rows) * 4, s.sums);
      EXPECT_LE(s.bytes, 99 << 10) << "a block of the GPUs with the least";
      EXPECT_LE(2 * (s.bytes + 1024), 228 << 10) << "two blocks on an H100";
      if (tiles <= 2) {
        EXPECT_LE(2 * (s.bytes + 1024), 164 << 10) << "and on an A100";
      }
    }
}

TEST(SkinnyLayout, SharesAreEqualAndSlotsAreOnesOwn) {
  for (const int slabs : {1, 2, 3, 7, 32})
    for (const int per_slab : {1, 2, 5, 16, 129})
      for (const int blocks : {1, 2, 3, 8, 264}) {
        const int units = slabs * per_slab;
        if (blocks > units) continue;
        std::vector<int> taken(static_cast<std::size_t>(meetings(blocks, slabs)));
        for (int block = 0; block < blocks; ++block) {
          const int begin = share_begin(units, blocks, block), end = share_begin(units, blocks, block + 1);
          EXPECT_GE(end - begin, units / blocks);
          EXPECT_LE(end - begin, units / blocks + 1);
          for (int u = begin; u < end; ++u) EXPECT_EQ(block_of(units, blocks, u), block);
          for (int s = begin / per_slab; s <= (end - 1) / per_slab; ++s) {
            EXPECT_GE(block, block_of(units, blocks, s * per_slab));
            EXPECT_LE(block, block_of(units, blocks, (s + 1) * per_slab - 1));
            ++taken.at(static_cast<std::size_t>(meeting(block, s)));
          }
        }
        EXPECT_EQ(share_begin(units, blocks, blocks), units);
        for (const int count : taken) EXPECT_LE(count, 1);
      }
}

}  // namespace
}  // namespace graft::cuda::skinny
