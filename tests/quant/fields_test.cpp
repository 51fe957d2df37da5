#include "graft/quant/formats/fields.h"

#include <gtest/gtest.h>

#include <functional>

#include "graft/tests/support/errors.h"

namespace graft::quant {
namespace {

std::vector<std::uint32_t> packed(Packing packing, int bits, const std::function<unsigned(int)>& code) {
  std::vector<std::uint32_t> words(static_cast<std::size_t>(words_for(packing, bits, 32, 32)));
  for (int k = 0; k < 32; ++k)
    field(packing, bits, 32, k).scatter(code(k), [&](std::int64_t i, std::uint32_t value) {
      words[static_cast<std::size_t>(i)] |= value;
    });
  for (int k = 0; k < 32; ++k)
    EXPECT_EQ(field(packing, bits, 32, k).gather([&](std::int64_t i) { return words[static_cast<std::size_t>(i)]; }), code(k));
  return words;
}

TEST(Fields, KnownWords) {
  using Words = std::vector<std::uint32_t>;
  const auto counting = [](int bits) { return [=](int k) { return static_cast<unsigned>(k) & ((1u << bits) - 1); }; };
  const Words four = {0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98};
  const auto followed_by = [&](Words rest) {
    rest.insert(rest.begin(), four.begin(), four.end());
    return rest;
  };
  EXPECT_EQ(packed(Packing::stream, 2, counting(2)), (Words{0xE4E4E4E4, 0xE4E4E4E4}));
  EXPECT_EQ(packed(Packing::stream, 3, counting(3)), (Words{0x88FAC688, 0xC688FAC6, 0xFAC688FA}));
  EXPECT_EQ(packed(Packing::stream, 4, counting(4)), four);
  EXPECT_EQ(packed(Packing::stream, 8, counting(8)),
            (Words{0x03020100, 0x07060504, 0x0B0A0908, 0x0F0E0D0C, 0x13121110, 0x17161514, 0x1B1A1918, 0x1F1E1D1C}));
  EXPECT_EQ(packed(Packing::planar, 3, counting(3)), (Words{0xE4E4E4E4, 0xE4E4E4E4, 0xF0F0F0F0}));
  EXPECT_EQ(packed(Packing::planar, 5, counting(5)), followed_by({0xFFFF0000}));
  EXPECT_EQ(packed(Packing::planar, 6, counting(6)), followed_by({0, 0x55555555}));
  EXPECT_EQ(packed(Packing::planar, 7, counting(7)), followed_by({0, 0x55555555, 0}));
  EXPECT_EQ(packed(Packing::interleaved, 4, [](int k) { return static_cast<unsigned>(k) & 7; }), Words(4, 0x75316420));
  const auto mixed = [](int k) { return static_cast<unsigned>(k * k + k / 3) & 7; };
  EXPECT_EQ(packed(Packing::stream, 3, mixed), (Words{0xE2791508, 0x6EB5C2C9, 0x7915080C}));
  EXPECT_EQ(packed(Packing::planar, 3, mixed), (Words{0x8432E984, 0xE98432E9, 0x441BBE44}));
}

TEST(Fields, RefusesWhatDoesNotExist) {
  test::expect_error<ValueError>([] { words_for(Packing::stream, 1, 32, 32); }, "integers of 1 bits; packed are 2 to 8");
  test::expect_error<ValueError>([] { words_for(Packing::stream, 4, 64, 32); }, "words of 64 bits; known are 8, 16 and 32");
  test::expect_error<ValueError>([] { words_for(Packing::stream, 3, 16, 32); },
                                 "3-bit integers in words of 16 bits; those that straddle need words of 32 bits");
  test::expect_error<ValueError>([] { words_for(Packing::planar, 5, 32, 40); },
                                 "the planar layout of 40 integers; it needs a multiple of 32");
  test::expect_error<ValueError>([] { words_for(Packing::interleaved, 4, 32, 12); },
                                 "the interleaved layout of 12 integers; it needs a multiple of 8");
}

}  // namespace
}  // namespace graft::quant
