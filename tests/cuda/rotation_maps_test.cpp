// The maps of cuda/rotation_maps.h: every quad of every row has one owner, what a block collects fits, and no access reads a part of a sector.
#include "graft/cuda/rotation_maps.h"

#include <gtest/gtest.h>

#include <set>

#include "sectors.h"

namespace graft::cuda::rotation {
namespace {

constexpr int kb = 1024;

template <class Check>
void each_cut(Check check) {
  for (const std::int64_t m : {1, 3, 4, 5, 17, 64, 65, 129, 1000, 1056, 4096, 32768})
    for (const std::int64_t columns : {4, 8, 252, 256, 260, 1024, 1028, 4096, 14336, 29000, 60000})
      for (const int size : {2, 4})
        for (const bool arranged : {false, true})
          for (const int multiprocessors : {1, 4, 108, 132})
            for (const std::int64_t most : {99 * kb, 163 * kb, 227 * kb})
              check(m, columns, size, arranged, multiprocessors, most, cut(m, columns, size, arranged, multiprocessors, most));
}

TEST(RotationMaps, BlocksHaveEveryRowAndQuadOnce) {
  each_cut([](std::int64_t m, std::int64_t columns, int size, bool, int, std::int64_t, const Cut& c) {
    EXPECT_TRUE(c.rows == few_rows || c.rows == many_rows(size));
    EXPECT_TRUE(c.threads == few_threads || c.threads == threads);
    EXPECT_GE(std::int64_t{c.row_blocks} * c.rows, m);
    EXPECT_LT((c.row_blocks - 1) * std::int64_t{c.rows}, m) << "a block without rows";
    const std::int64_t quads = columns / quad;
    EXPECT_TRUE(c.arranged ? c.parts == 1 : std::int64_t{c.parts} * c.threads >= quads);
    EXPECT_TRUE(c.arranged || (c.parts - 1) * std::int64_t{c.threads} < quads) << "a block without columns";
  });
  for (const int threads : {few_threads, rotation::threads}) {
    std::set<int> quads;
    for (int part = 0; part < 5; ++part)
      for (int thread = 0; thread < threads; ++thread) EXPECT_TRUE(quads.insert(first_quad(part, threads, thread)).second);
    EXPECT_EQ(quads.size(), static_cast<std::size_t>(5 * threads));
    EXPECT_EQ(*quads.rbegin(), 5 * threads - 1);
  }
}

TEST(RotationMaps, WhatIsArrangedFitsAndKeepsTheGpuBusy) {
  each_cut([](std::int64_t, std::int64_t columns, int, bool arranged, int multiprocessors, std::int64_t most, const Cut& c) {
    EXPECT_LE(c.shared_bytes, most);
    EXPECT_EQ(c.shared_bytes, c.arranged ? c.rows * columns * 2 : 0);
    EXPECT_TRUE(!c.arranged || (arranged && 2 * c.row_blocks >= multiprocessors));
  });
  for (const std::int64_t m : {1056, 2048, 4095}) EXPECT_TRUE(cut(m, 4096, 2, true, 132, 227 * kb).arranged) << m;
  EXPECT_FALSE(cut(512, 4096, 2, true, 132, 227 * kb).arranged);
  EXPECT_FALSE(cut(4095, 8192, 2, true, 132, 227 * kb).arranged);
  // A single row is the work of blocks on many multiprocessors.
  EXPECT_EQ(cut(1, 8192, 2, false, 132, 227 * kb).parts, 32);
}

TEST(RotationMaps, BlocksThatAreTaken) {
  for (const std::int64_t b : {4, 8, 12, 16, 32, 64, 128}) EXPECT_TRUE(takes(5, 4 * b, b));
  for (const std::int64_t b : {0, 1, 2, 6, 10, 132, 256}) EXPECT_FALSE(takes(5, 4 * b, b));
  EXPECT_FALSE(takes(0, 64, 8));
  EXPECT_FALSE(takes(5, 60, 8));
  EXPECT_FALSE(takes(most_rows, 64, 8));
  EXPECT_FALSE(takes(5, 0, 8));
}

// A warp's quads of one row of every block of R that it meets, and of a row of the result.
TEST(RotationMaps, WholeSectorsAreRead) {
  for (const int size : {2, 4}) {
    for (const int b : {16, 32, 48, 64, 96, 128}) {
      const auto at = [&](int lane) {
        const std::int64_t column = first_quad(0, threads, lane) * quad, block = column / b;
        return (block * b * b + column % b) * size;
      };
      expect_whole_sectors(32, quad * size, at);
    }
    expect_whole_sectors(32, quad * size, [&](int lane) { return std::int64_t{first_quad(1, threads, lane)} * quad * size; });
  }
}

}  // namespace
}  // namespace graft::cuda::rotation
