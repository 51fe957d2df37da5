// The maps of cuda/prepass_maps.h: every column, sum and packed row has one owner, what a block copies fits, and no access meets a bank twice or
// reads a part of a sector.
#include "graft/cuda/prepass_maps.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace graft::cuda::shrink {
namespace {

constexpr int kb = 1024, sizes[] = {2, 4};

template <class Check>
void each_cut(Check check) {
  for (const std::int64_t m : {1, 3, 4, 5, 17, 32, 33, 128, 129, 130, 1000, 4096, 32768})
    for (const std::int64_t columns : {1, 16, 127, 128, 129, 1000, 4096, 8192, 14336, 29000, 60000, 1 << 20})
      for (const int size : sizes)
        for (const bool arranged : {false, true})
          for (const bool sums : {false, true})
            for (const int multiprocessors : {1, 4, 108, 132})
              for (const std::int64_t most : {99 * kb, 163 * kb, 227 * kb})
                check(m, columns, size, arranged, most, cut(m, columns, size, arranged, sums, multiprocessors, most));
}

TEST(PrepassMaps, BlocksHaveEveryRowAndColumnOnce) {
  each_cut([](std::int64_t m, std::int64_t columns, int, bool, std::int64_t, const Cut& c) {
    EXPECT_TRUE(c.rows == few_rows || c.rows == many_rows);
    EXPECT_GE(std::int64_t{c.row_blocks} * c.rows, m);
    EXPECT_LT((c.row_blocks - 1) * std::int64_t{c.rows}, m) << "a block without rows";
    EXPECT_LE(c.row_blocks, most_row_blocks);
    EXPECT_EQ(c.part_columns % stretch, 0);
    EXPECT_GE(std::int64_t{c.parts} * c.part_columns, columns);
    EXPECT_LT((c.parts - 1) * std::int64_t{c.part_columns}, columns) << "a block without columns";
  });
}

TEST(PrepassMaps, WhatABlockCopiesFits) {
  each_cut([](std::int64_t, std::int64_t columns, int size, bool arranged, std::int64_t most, const Cut& c) {
    EXPECT_LE(c.shared_bytes(), most);
    EXPECT_GE(c.line, c.part_columns * size);
    EXPECT_EQ(c.line % (stretch * size), 0);
    EXPECT_TRUE(!c.whole || (arranged && c.line >= columns * size));
    EXPECT_TRUE(c.whole || c.sums_at() <= copied_bytes);
  });
  // The layers there are have whole rows where these are arranged.
  for (const std::int64_t columns : {4096, 8192, 14336, 28672})
    for (const std::int64_t m : {33, 512, 4095}) EXPECT_TRUE(cut(m, columns, 2, true, true, 132, 227 * kb).whole) << columns;
  EXPECT_EQ(cut(512, 4096, 2, true, true, 132, 227 * kb).rows, many_rows);
  // A single row is many blocks' work, and none copies more than it adds up where nothing is arranged.
  EXPECT_EQ(cut(1, 4096, 2, false, true, 132, 227 * kb).parts, 32);
}

TEST(PrepassMaps, EveryUnitIsSummedOnce) {
  for (int units = 1; units <= 80; ++units) {
    const int groups = groups_of(units), slices = warps / groups;
    EXPECT_EQ(warps % groups, 0);
    std::set<std::pair<int, int>> all;  // unit and slice
    for (int first = 0; first < units; first += groups)
      for (int warp = 0; warp < warps; ++warp)
        if (const int unit = first + warp % groups; unit < units) {
          EXPECT_TRUE(all.insert({unit, warp / groups}).second);
        }
    EXPECT_EQ(all.size(), static_cast<std::size_t>(units * slices));
  }
}

TEST(PrepassMaps, EveryColumnIsReadByOneLane) {
  for (const int slices : {1, 2, 4, 8})
    for (const int columns : {stretch, 3 * stretch, 16 * stretch}) {
      std::set<int> read;
      for (int slice = 0; slice < slices; ++slice)
        for (int lane = 0; lane < 32; ++lane)
          for (int column = slice * stretch + lane_column(lane); column < columns; column += slices * stretch)
            for (int i = 0; i < lane_columns; ++i) EXPECT_TRUE(read.insert(column + i).second);
      EXPECT_EQ(read.size(), static_cast<std::size_t>(columns));
    }
}

TEST(PrepassMaps, EverySumHasOneOwner) {
  for (const int rows : {few_rows, many_rows}) {
    std::set<int> numbers;
    std::set<std::pair<int, int>> places;
    for (int lane = 0; lane < 32; lane += lanes_per_sum(rows)) {
      const int number = lane / lanes_per_sum(rows);
      numbers.insert(number), places.insert({sum_rank(rows, number), sum_row(rows, number)});
    }
    EXPECT_EQ(numbers.size(), static_cast<std::size_t>(unit_sums(rows)));
    EXPECT_EQ(places.size(), numbers.size());
    EXPECT_EQ(*places.rbegin(), std::pair(unit_ranks - 1, rows - 1));
  }
}

// Lanes of one access, as many as 128 bytes are, meet each bank once.
TEST(PrepassMaps, NoBankTwice) {
  for (const int size : sizes) {
    const int bytes = lane_columns * size, together = 128 / bytes;
    for (int first = 0; first < 32; first += together) {
      std::set<int> banks;
      for (int lane = first; lane < first + together; ++lane)
        for (int byte = 0; byte < bytes; byte += 4) banks.insert((lane_column(lane) * size + byte) / 4 % 32);
      EXPECT_EQ(banks.size(), 32u);
    }
  }
}

TEST(PrepassMaps, WholeSectorsAreRead) {
  constexpr int sector = 32, piece = 16;
  std::map<int, int> of_x, of_A;  // bytes that a warp's request takes of each
  for (int warp = 0; warp < warps; ++warp) {
    of_x.clear(), of_A.clear();
    for (int lane = 0; lane < 32; ++lane) {
      of_x[copied_piece(32 * warp + lane) * piece / sector] += piece;
      of_A[lane_column(lane) * 4 / sector] += piece;
    }
    for (const auto* sectors : {&of_x, &of_A})
      for (const auto& [at, bytes] : *sectors) EXPECT_EQ(bytes, sector);
  }
  for (const int size : sizes) EXPECT_EQ(stretch * size % sector, 0) << "a part begins inside a sector";
}

}  // namespace
}  // namespace graft::cuda::shrink
