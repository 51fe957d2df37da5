// The maps of cuda/narrow_maps.h against the matrices: fragments are what tensor cores take them for, every sum has one owner, and no access
// meets a bank twice.
#include "graft/cuda/narrow_maps.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <utility>
#include <vector>

namespace graft::cuda::panels {
namespace {

constexpr int halves = 2, floats = 4, lines_of_narrow[] = {32, 64, 128};
struct Kind {
  int wide, narrow, ranks;
};
constexpr Kind kinds[] = {{2, 2, 16}, {2, 2, 32}, {2, 2, 64}, {2, 4, 16}, {2, 4, 32}, {4, 4, 16}, {4, 4, 32}};

/// Elements of two bytes by lines of `bytes`, element (l, c) numbered l · 64 + c, as copies put them.
std::vector<int> placed(int lines, int bytes) {
  std::vector<int> all(static_cast<std::size_t>(lines * bytes / halves), -1);
  for (int l = 0; l < lines; ++l)
    for (int c = 0; c < bytes / halves; ++c) {
      const int at = swizzled(bytes, l, c / 8) / halves + c % 8;
      EXPECT_EQ(all.at(static_cast<std::size_t>(at)), -1) << "written twice";
      all[static_cast<std::size_t>(at)] = l * 64 + c;
    }
  return all;
}

/// Element e of register r that ldmatrix.x4 gives a lane, whose rows lie where address(lane) says.
template <class Address>
int loaded(const std::vector<int>& from, bool transposed, int lane, int r, int e, Address address) {
  const int row = transposed ? lane % 4 * 2 + e : lane / 4, column = transposed ? lane / 4 : lane % 4 * 2 + e;
  return from.at(static_cast<std::size_t>(address(8 * r + row) / halves + column));
}

TEST(NarrowMaps, FragmentsAlong) {
  const auto wide = placed(rows, line);
  for (int row = 0; row < rows; row += 16)
    for (int k16 = 0; k16 < columns(halves) / 16; ++k16)
      for (int lane = 0; lane < 32; ++lane)
        for (int r = 0; r < 4; ++r)
          for (int e = 0; e < 2; ++e)
            EXPECT_EQ(loaded(wide, false, lane, r, e, [&](int l) { return along_wide(l, row, k16); }),
                      (row + lane / 4 + r % 2 * 8) * 64 + 16 * k16 + r / 2 * 8 + lane % 4 * 2 + e);
  for (const int bytes : lines_of_narrow) {
    const auto factor = placed(columns(halves), bytes);
    for (int k16 = 0; k16 < columns(halves) / 16; ++k16)
      for (int j = 0; j < bytes / piece_bytes; j += 2)
        for (int lane = 0; lane < 32; ++lane)
          for (int r = 0; r < 4; ++r)
            for (int e = 0; e < 2; ++e)  // registers r % 2 of B for ranks from 8 (j + r / 2) on
              EXPECT_EQ(loaded(factor, true, lane, r, e, [&](int l) { return along_factor(bytes, l, k16, j); }),
                        (16 * k16 + r % 2 * 8 + lane % 4 * 2 + e) * 64 + 8 * (j + r / 2) + lane / 4);
  }
}

TEST(NarrowMaps, FragmentsDown) {
  const auto wide = placed(rows, line);
  for (int warp = 0; warp < warps; ++warp)
    for (int pair = 0; pair < rows / 32; ++pair)
      for (int lane = 0; lane < 32; ++lane)
        for (int r = 0; r < 4; ++r)
          for (int e = 0; e < 2; ++e)  // registers r % 2 of B for rows from 32 pair + 16 (r / 2) on
            EXPECT_EQ(loaded(wide, true, lane, r, e, [&](int l) { return down_wide(l, warp, pair); }),
                      (32 * pair + 8 * r + lane % 4 * 2 + e) * 64 + 8 * warp + lane / 4);
  for (const int bytes : lines_of_narrow) {
    const auto narrow = placed(rows, bytes);
    for (int k16 = 0; k16 < rows / 16; ++k16)
      for (int i = 0; i < bytes / 32; ++i)
        for (int lane = 0; lane < 32; ++lane)
          for (int r = 0; r < 4; ++r)
            for (int e = 0; e < 2; ++e)  // A is transposed: rank lane / 4, and 8 more, by rows
              EXPECT_EQ(loaded(narrow, true, lane, r, e, [&](int l) { return down_narrow(bytes, l, k16, i); }),
                        (16 * k16 + r / 2 * 8 + lane % 4 * 2 + e) * 64 + 16 * i + r % 2 * 8 + lane / 4);
  }
}

TEST(NarrowMaps, EverySumHasOneOwner) {
  std::set<std::pair<int, int>> sums;
  for (int lane = 0; lane < 32; ++lane)
    for (int e = 0; e < 4; ++e) sums.insert({sum_row(lane, e), sum_column(lane, e)});
  EXPECT_EQ(sums.size(), 16u * 8u);
  EXPECT_EQ(*sums.rbegin(), std::pair(15, 7));
  for (const int ranks : {16, 32}) {
    std::set<int> places;
    for (int warp = 0; warp < warps; ++warp)
      for (int rank = 0; rank < ranks; ++rank)
        for (int lane = 0; lane < 32; ++lane) places.insert(warp_sum(ranks, warp, rank, lane));
    EXPECT_EQ(places.size(), static_cast<std::size_t>(warps * ranks * 32));
    EXPECT_LE(*places.rbegin() + 4, rows * line) << "in the place of a tile";
  }
}

/// 8 lanes with 16 bytes each are one access: all 32 banks, once.
template <class Address>
void expect_no_conflict(Address address) {
  for (int first = 0; first < 32; first += 8) {
    std::set<int> columns;
    for (int lane = first; lane < first + 8; ++lane) columns.insert(address(lane) / piece_bytes % 8);
    EXPECT_EQ(columns.size(), 8u);
  }
}

TEST(NarrowMaps, NoBankTwice) {
  for (int k16 = 0; k16 < columns(halves) / 16; ++k16)
    for (int row = 0; row < rows; row += 16) expect_no_conflict([&](int lane) { return along_wide(lane, row, k16); });
  for (int warp = 0; warp < warps; ++warp)
    for (int pair = 0; pair < rows / 32; ++pair) expect_no_conflict([&](int lane) { return down_wide(lane, warp, pair); });
  for (const int bytes : lines_of_narrow) {
    const int pieces = bytes / piece_bytes;
    for (int k16 = 0; k16 < rows / 16; ++k16)
      for (int at = 0; at < pieces; at += 2) {
        expect_no_conflict([&](int lane) { return along_factor(bytes, lane, k16, at); });
        expect_no_conflict([&](int lane) { return down_narrow(bytes, lane, k16, at / 2); });
      }
    for (int first = 0; first < threads; first += 32)  // copies
      expect_no_conflict([&](int lane) { return swizzled(bytes, (first + lane) / pieces, (first + lane) % pieces); });
  }
  // With narrow operands in f32 a thread has its own row of the tile, piece by piece, and a lane a word of any row.
  for (int piece = 0; piece < line / piece_bytes; ++piece)
    expect_no_conflict([&](int lane) { return swizzled(line, lane, piece); });
  for (const auto& [size, narrow, ranks] : kinds) {
    const int per = lane_columns(size, ranks);
    for (int side = 0; narrow == floats && side < warps_abreast(size, ranks); ++side)
      for (int row = 0; row < rows; ++row) {
        std::map<int, std::set<int>> words;  // that are read of each bank
        for (int lane = 0; lane < 32; ++lane) {
          const int word = lane_piece(size, per, row, side, lane) / 4;
          words[word % 32].insert(word);
        }
        for (const auto& [bank, read] : words) EXPECT_EQ(read.size(), 1u) << "of bank " << bank;
      }
  }
  for (const int ranks : {16, 32})
    for (int warp = 0; warp < warps; ++warp) {
      std::set<int> banks;
      for (int lane = 0; lane < 32; ++lane) banks.insert(warp_sum(ranks, warp, ranks - 1, lane) / 4 % 32);
      EXPECT_EQ(banks.size(), 32u);
    }
}

// With narrow operands in f32, warps side by side read each column of a row once, where the copies put it.
TEST(NarrowMaps, ColumnsDown) {
  for (const auto& [size, narrow, ranks] : kinds) {
    if (narrow != floats) continue;
    const int per = lane_columns(size, ranks), abreast = warps_abreast(size, ranks);
    EXPECT_EQ(warps % abreast, 0);
    EXPECT_LE(per * size, 4) << "a word is read at once";
    for (int row = 0; row < rows; ++row) {
      std::vector<int> read;
      for (int side = 0; side < abreast; ++side)
        for (int lane = 0; lane < 32; ++lane)
          for (int i = 0; i < per; ++i) read.push_back(lane_piece(size, per, row, side, lane) + i * size);
      ASSERT_EQ(read.size(), static_cast<std::size_t>(columns(size)));
      for (int column = 0; column < columns(size); ++column) {
        const int at = column * size;
        EXPECT_EQ(read[static_cast<std::size_t>(column)], swizzled(line, row, at / piece_bytes) + at % piece_bytes);
      }
    }
  }
}

// Copies bring every piece of every line once, and read whole sectors: 32 bytes of memory, as far as a line has them.
TEST(NarrowMaps, CopiesReadWholeSectors) {
  constexpr int sector = 32;
  for (const int bytes : lines_of_narrow)
    for (const int ld : {bytes, 4096}) {  // from line to line
      std::set<int> pieces;
      for (int warp = 0; warp < warps; ++warp)
        for (int step = 0; step * copied(bytes, 0).apart < rows; ++step) {
          std::map<int, int> sectors;  // bytes that a request takes of each
          for (int lane = 0; lane < 32; ++lane) {
            const Copied mine = copied(bytes, 32 * warp + lane);
            const int row = mine.first + step * mine.apart;
            EXPECT_LT(mine.piece, bytes / piece_bytes);
            EXPECT_TRUE(pieces.insert(row * bytes / piece_bytes + mine.piece).second) << "copied twice";
            sectors[(row * ld + mine.piece * piece_bytes) / sector] += piece_bytes;
          }
          for (const auto& [at, read] : sectors) EXPECT_EQ(read, sector) << "of sector " << at;
        }
      EXPECT_EQ(pieces.size(), static_cast<std::size_t>(rows * bytes / piece_bytes));
    }
}

TEST(NarrowMaps, SharedMemory) {
  constexpr int kb = 1024, reserved = 1024;  // of each block, by the driver
  for (const auto& [wide, narrow, ranks] : kinds) {
    const Shared lies(wide, narrow, ranks);
    EXPECT_LE(2 * (lies.total() + reserved), 228 * kb);
    for (int stage = 0; stage < stages; ++stage) {
      EXPECT_EQ(lies.wide(stage) % line, 0);
      EXPECT_EQ(lies.factor(stage) % line, 0);
    }
  }
  EXPECT_LE(2 * (Shared(2, 2, 16).total() + reserved), 164 * kb);  // sm_80
}

}  // namespace
}  // namespace graft::cuda::panels
