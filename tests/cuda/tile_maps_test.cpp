// The maps of cuda/tile_maps.h against the matrices: what is packed, dequantized and read as tensor cores read it is the plain matrix,
// nothing lies in one place twice, and no access meets a bank twice.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <numeric>
#include <set>
#include <vector>

#include "graft/cuda/tiled.h"
#include "graft/quant/pack.h"
#include "graft/tests/cuda/sectors.h"
#include "graft/tests/quant/random_layer.h"

namespace graft::cuda::tiles {
namespace {

using quant::test::Case;

/// Codes in the place of weights, a stage's two boxes.
using Weights = std::array<std::uint16_t, weight_bytes / 2>;

/// What the threads make of a stage.
Weights dequantized(const Packed& w, bool backward, int tile, int step) {
  Weights weights;
  weights.fill(0xffff);
  const auto* codes = static_cast<const std::uint8_t*>(w.codes->data());
  for (int number = 0; number < items; ++number) {
    const Item it = item(number);
    const Corner at = corner(backward, tile, step, it.box);
    for (int c = 0; c < item_chunks; ++c) {
      const int in_box = item_chunks * it.half + c;
      for (int j = 0; j < chunk; ++j) {
        std::uint16_t code = 0;
        if (at.n < w.columns) {
          const std::uint8_t* from = codes + codes_at(w.bits, w.columns, at) + word_at(w.bits, in_box, it.column);
          const bool second = w.bits == 8 && j >= 4;
          std::uint32_t word = 0;
          std::memcpy(&word, from + (second ? second_word : 0), w.bits == 3 ? 3 : 4);
          code = static_cast<std::uint16_t>(word >> (bits_at(w.bits, in_box) + w.bits * (second ? j - 4 : j)) &
                                            ((1u << w.bits) - 1));
        }
        std::uint16_t& to = weights[static_cast<std::size_t>(weight_at(it, c) / 2 + j)];
        EXPECT_EQ(to, 0xffff) << "written twice";
        to = code;
      }
    }
  }
  return weights;
}

/// Calls f(step of the sum 0 … 63, result 0 … 127, element) for all that ldmatrix and mma.sync meet.
void read_by_mma(const Weights& weights, bool backward, const std::function<void(int, int, std::uint16_t)>& f) {
  for (int k16 = 0; k16 < depth / 16; ++k16)
    for (int result = 0; result < width; result += 16)
      for (int matrix = 0; matrix < 4; ++matrix)
        for (int lane = 0; lane < 32; ++lane)
          for (int e = 0; e < 2; ++e) {
            // Of the matrix, whose rows lie where lanes 8 matrix … say, a lane has (l / 4, l % 4 * 2 …), or of the transposed one.
            const int row = backward ? lane % 4 * 2 + e : lane / 4, column = backward ? lane / 4 : lane % 4 * 2 + e;
            const int at = weight_row_of(backward, 8 * matrix + row, result, k16) / 2 + column;
            // B's registers: 8 steps of the sum each, for 8 results.
            f(16 * k16 + matrix % 2 * 8 + lane % 4 * 2 + e, result + matrix / 2 * 8 + lane / 4,
              weights[static_cast<std::size_t>(at)]);
          }
}

/// The same for wgmma: canonical layouts with a 128-byte swizzle (the PTX manual's figures, in elements of two bytes).
void read_by_wgmma(const Weights& weights, bool backward, const std::function<void(int, int, std::uint16_t)>& f) {
  const Operand& o = backward ? across : along;
  for (int k16 = 0; k16 < depth / 16; ++k16)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < width; ++n) {
        int at = k16 * o.step;
        if (backward) at += n / 64 * o.leading + n % 64 * 2 + k / 8 * o.stride + k % 8 * 128;
        else at += n / 8 * o.stride + n % 8 * 128 + 2 * k;
        at ^= at / 128 % 8 * 16;
        f(16 * k16 + k, n, weights[static_cast<std::size_t>(at / 2)]);
      }
}

TEST(TileMaps, PackedThenReadIsThePlainMatrix) {
  for (const int bits : {2, 3, 4, 8}) {
    const auto w = quant::pack(quant::test::layer(Case{300, 180, bits, 32}));
    for (const bool backward : {false, true}) {
      const int steps = static_cast<int>(((backward ? w->columns : w->rows) + depth - 1) / depth);
      const int tiles = static_cast<int>(((backward ? w->rows : w->columns) + width - 1) / width);
      for (int tile = 0; tile < tiles; ++tile)
        for (int step = 0; step < steps; ++step) {
          const Weights weights = dequantized(*w, backward, tile, step);
          int met = 0;
          const auto compare = [&](int k, int n, std::uint16_t code) {
            const int sum = step * depth + k, result = tile * width + n;
            const std::int64_t row = backward ? result : sum, column = backward ? sum : result;
            const std::uint32_t wanted = column < w->columns && row < w->row_tiles() * 128 ? code_at(*w, row, column) : 0;
            ASSERT_EQ(code, wanted) << bits << " bits, " << row << " " << column;
            ++met;
          };
          read_by_mma(weights, backward, compare);
          read_by_wgmma(weights, backward, compare);
          EXPECT_EQ(met, 2 * depth * width);
        }
    }
  }
}

TEST(TileMaps, RowsOfX) {
  // As they are copied: 16 bytes to a column of a line.
  std::array<int, 64 * depth> x{};
  for (int row = 0; row < 64; ++row)
    for (int k = 0; k < depth; ++k) x[static_cast<std::size_t>(swizzled(row, k / chunk) / 2 + k % chunk)] = row * depth + k;
  for (int row = 0; row < 64; row += 16)
    for (int k16 = 0; k16 < depth / 16; ++k16)
      for (int r = 0; r < 4; ++r)
        for (int lane = 0; lane < 32; ++lane) {
          const int at = x_row_of(8 * r + lane / 4, row, k16) / 2 + lane % 4 * 2;
          // A's registers: rows, then rows + 8, of 8 columns; then of the next 8.
          EXPECT_EQ(x[static_cast<std::size_t>(at)], (row + r % 2 * 8 + lane / 4) * depth + 16 * k16 + r / 2 * 8 + lane % 4 * 2);
        }
  for (int row = 0; row < 64; ++row)
    for (int k = 0; k < depth; ++k) {
      int at = k / 16 * along.step + row / 8 * along.stride + row % 8 * 128 + k % 16 * 2;
      at ^= at / 128 % 8 * 16;
      EXPECT_EQ(x[static_cast<std::size_t>(at / 2)], row * depth + k);
    }
}

// Ranks of a term are a stage: of v as of weights, whichever way it is copied, and u as of x.
TEST(TileMaps, RanksAreSteps) {
  for (const int threads : {128, 256})
    for (const bool ranks_first : {false, true}) {
      Weights v;
      v.fill(0xffff);
      const VPiece apart = v_pieces_apart(ranks_first, threads);
      for (int thread = 0; thread < threads; ++thread)
        for (VPiece at = v_piece(ranks_first, thread); at.rank < depth && at.column < width;
             at.rank += apart.rank, at.column += apart.column)
          for (int e = 0; e < chunk; ++e) {
            std::uint16_t& to = v.at(static_cast<std::size_t>(v_at(at) / 2 + e));
            EXPECT_EQ(to, 0xffff) << "written twice";
            to = static_cast<std::uint16_t>((at.rank + e) * width + at.column);
          }
      int met = 0;
      read_by_mma(v, false, [&](int rank, int column, std::uint16_t element) {
        EXPECT_EQ(element, rank * width + column);
        ++met;
      });
      EXPECT_EQ(met, depth * width);
    }
  // Lanes' addresses from one step to the next, and from one fragment to the next.
  for (int lane = 0; lane < 32; ++lane)
    for (int k16 = 0; k16 < depth / 16; ++k16)
      for (int from = 0; from < width; from += 16)
        for (int on = 0; from + on < width; on += 16) {
          EXPECT_EQ(x_row_of(lane, from + on, k16), (x_row_of(lane, from, 0) ^ k16 * k16_bytes) + on * line);
          EXPECT_EQ(weight_row_of(false, lane, from + on, k16),
                    (weight_row_of(false, lane, from, 0) ^ k16 * k16_bytes) + on * line);
        }
}

/// 8 lanes with 16 bytes each are one access: all 32 banks, once.
template <class Address>
void expect_no_conflict(Address address) {
  for (int first = 0; first < 32; first += 8) {
    std::set<int> columns;
    for (int lane = first; lane < first + 8; ++lane) columns.insert(address(lane) / 16 % 8);
    EXPECT_EQ(columns.size(), 8u);
  }
}

TEST(TileMaps, NoBankTwice) {
  for (int k16 = 0; k16 < depth / 16; ++k16)
    for (int result = 0; result < width; result += 16) {
      expect_no_conflict([&](int lane) { return x_row_of(lane, result, k16); });
      for (const bool backward : {false, true})
        expect_no_conflict([&](int lane) { return weight_row_of(backward, lane, result, k16); });
    }
  for (int warp = 0; warp < items / 32; ++warp)
    for (int c = 0; c < item_chunks; ++c) expect_no_conflict([&](int lane) { return weight_at(item(warp * 32 + lane), c); });
  for (const bool ranks_first : {false, true})
    for (int first = 0; first < 256; first += 32)
      expect_no_conflict([&](int lane) { return v_at(v_piece(ranks_first, first + lane)); });
  // Copies of x: 8 lanes a line.
  for (int first = 0; first < 256; first += 32)
    expect_no_conflict([&](int lane) { return swizzled((first + lane) / 8, (first + lane) % 8); });
  // Words that a warp reads lie behind each other: no bank twice, but for the words of 3 bytes that share one.
  for (const int bits : {2, 3, 4, 8})
    for (int number = 0; number < 8; ++number)
      for (int column = 0; column + 1 < box; ++column)
        EXPECT_EQ(word_at(bits, number, column + 1) - word_at(bits, number, column), bits == 3 ? 3 : 4);
}

TEST(TileMaps, CopiesBringATileOnce) {
  for (const int threads : {128, items}) {
    std::vector<int> x(static_cast<std::size_t>(64 * depth));
    for (int thread = 0; thread < threads; ++thread)
      for (int row = x_piece(thread).row; row < 64; row += x_rows_apart(threads))
        for (int k = 0; k < chunk; ++k) ++x[static_cast<std::size_t>(row * depth + x_piece(thread).k + k)];
    EXPECT_EQ(std::count(x.begin(), x.end(), 1), 64 * depth);
    for (const int bits : {2, 3, 4, 8}) {
      std::vector<int> codes(static_cast<std::size_t>(code_bytes(bits)));
      for (int thread = 0; thread < threads; ++thread)
        for (int at = code_piece(thread); at < code_bytes(bits); at += code_piece(threads))
          for (int b = 0; b < piece_bytes; ++b) ++codes.at(static_cast<std::size_t>(at + b));
      EXPECT_EQ(std::count(codes.begin(), codes.end(), 1), code_bytes(bits));
    }
  }
}

TEST(TileMaps, WholeSectorsAreRead) {
  constexpr int warp = 32;
  // x: rows may lie at any multiple of 16 bytes. Where they begin with a sector, 8 lanes take four whole ones, elsewhere parts of five.
  for (const int elements : {4096, 4096 + 16, 4096 + 8})
    for (int first = 0; first < items; first += warp) {
      const Access access(warp, piece_bytes, [&](int lane) {
        const XPiece piece = x_piece(first + lane);
        return 2 * (piece.row * elements + piece.k);
      });
      EXPECT_EQ(access.bytes.size(), 4u * line);
      EXPECT_LE(access.sectors.size(), elements % 16 == 0 ? 16u : 18u);
    }
  // Codes lie behind each other, and a box's begin with a sector.
  for (const int bits : {2, 3, 4, 8})
    for (const bool backward : {false, true})
      for (int step = 0; step < 3; ++step) {
        const std::int64_t begin = codes_at(bits, 192, corner(backward, 1, step, 0));
        for (int first = 0; first < code_bytes(bits) / piece_bytes; first += warp)
          expect_whole_sectors(std::min(warp, code_bytes(bits) / piece_bytes - first), piece_bytes,
                               [&](int lane) { return begin + code_piece(first + lane); });
      }
  // Scales and zeros of a warp's items, and the places of their rows.
  for (int first = 0; first < items; first += warp)
    for (const bool backward : {false, true}) {
      const Corner at = corner(backward, 1, 2, item(first).box);
      constexpr int columns = 320, group = 3;
      expect_whole_sectors(warp, 4, [&](int lane) { return 4 * (group * columns + at.n + item(first + lane).column); });
      expect_whole_sectors(warp, 8, [&](int lane) { return 8 * (at.k + item(first).first_row() + lane); });
    }
}

// A warp's lanes have one unit's rows, so that one group and one place serve them all.
TEST(TileMaps, WarpsShareRows) {
  static_assert(item_rows == 2 * Packed::unit && item_chunks * chunk == item_rows);
  for (int number = 0; number < items; ++number) {
    EXPECT_EQ(item(number).half, item(number / 32 * 32).half);
    EXPECT_EQ(item(number).box, item(number / 32 * 32).box);
  }
}

template <class Tile>
void expect_one_owner_each() {
  std::vector<int> owned(static_cast<std::size_t>(Tile::rows * width));
  for (int thread = 0; thread < Tile::threads; ++thread) {
    const Owner owner = Tile::owner(thread);
    for (int i = 0; i < Tile::I; ++i)
      for (int h = 0; h < 2; ++h)
        for (int j = 0; j < Tile::J; ++j)
          for (int e = 0; e < 2; ++e) ++owned[static_cast<std::size_t>(owner.row_of(i, h) * width + owner.column_of(j) + e)];
  }
  for (const int times : owned) ASSERT_EQ(times, 1);
}

TEST(TileMaps, EverySumHasOneOwner) {
  expect_one_owner_each<MmaTile<64>>();
  expect_one_owner_each<MmaTile<128>>();
  expect_one_owner_each<WgmmaTile<64>>();
  expect_one_owner_each<WgmmaTile<256>>();
}

TEST(TileMaps, EveryTileIsOneBlocks) {
  std::set<std::array<int, 3>> met;
  for (unsigned number = 0; number < 3 * 5 * 2; ++number) {
    const Work at = work(number, 3, 5);
    EXPECT_TRUE(at.rows < 3 && at.tile < 5 && at.part < 2);
    met.insert({at.rows, at.tile, at.part});
  }
  EXPECT_EQ(met.size(), 30u);
}

TEST(TileMaps, SharedMemory) {
  constexpr int kb = 1024, reserved = 1024;  // of each block, by the driver
  for (const int bits : {2, 3, 4, 8}) {
    for (const int rows : {64, 128}) EXPECT_LE(Shared80(rows, bits).total(), 99 * kb);  // sm_86, sm_89
    EXPECT_LE(2 * (Shared80(64, bits).total() + reserved), 164 * kb);
    if (bits <= 4) {
      EXPECT_LE(2 * (Shared80(128, bits).total() + reserved), 164 * kb);
      EXPECT_LE(2 * (Shared90(64, bits).total() + reserved), 228 * kb);
    }
    EXPECT_LE(Shared90(256, bits).total(), 227 * kb);
    for (int stage = 0; stage < Shared90::stages; ++stage) {
      EXPECT_EQ(Shared90(64, bits).weights(stage) % Shared90::align, 0);
      EXPECT_EQ(Shared90(256, bits).x(stage) % Shared90::align, 0);
      EXPECT_EQ(Shared90(256, bits).codes(stage) % 16, 0);
    }
  }
  // Factors of terms take the place of the stages, and so does the result that their shares join.
  const auto added_bytes = [](int rows) { return term_bytes(rows) + rows * width * 2; };
  for (const int rows : {64, 128}) EXPECT_LE(added_bytes(rows), Shared80(rows, 2).total());
  for (const int rows : {64, 256}) EXPECT_LE(added_bytes(rows), Shared90(rows, 2).total());
}

}  // namespace
}  // namespace graft::cuda::tiles
