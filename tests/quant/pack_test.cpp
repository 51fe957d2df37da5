#include "graft/quant/pack.h"

#include <gtest/gtest.h>

#include "graft/tests/quant/random_layer.h"
#include "graft/tests/support/errors.h"

namespace graft::quant {
namespace {

using namespace test;

TEST(Pack, GivesTheCodesBack) {
  for (int bits : {2, 3, 4, 6, 8})
    for (Grouping grouping : {Grouping::in_order, Grouping::shuffled, Grouping::irregular}) {
      const Decoded d = layer({150, 70, bits, 40, grouping});
      std::vector<std::uint8_t> codes(150 * 70);
      d.codes(0, 150, 0, 70, codes.data());
      EXPECT_EQ(unpack(*pack(d)), codes) << bits << " bits";
    }
}

TEST(Pack, SizeIsThatOfTheCodes) {
  const auto packed = pack(layer({512, 256, 4, 128}));
  EXPECT_EQ(packed->codes->bytes(), 512 * 256 / 2);
  EXPECT_EQ(packed->bytes(), 512 * 256 / 2 + 2 * 4 * 256 * 4);
  EXPECT_TRUE(packed->order.empty());
  EXPECT_EQ(pack(layer({512, 256, 3, 128}))->codes->bytes(), 512 * 256 * 3 / 8);
}

TEST(Pack, Refusals) {
  Decoded d = layer({40, 20, 4, 16});
  d.groups[7] = 3;
  expect_error<ValueError>([&] { pack(d); }, "pack: a channel is in group 3, but there are scales for 3 groups");
  d.groups.pop_back();
  expect_error<ValueError>([&] { pack(d); }, "pack: groups for 39 channels of 40");
  d = layer({40, 20, 4, 16});
  d.zeros = Tensor::empty({3, 19});
  expect_error<ValueError>([&] { pack(d); }, "pack: scales [3, 20] and zeros [3, 19]; both must be [groups, 20]");
  d.bits = 9;
  expect_error<ValueError>([&] { pack(d); }, "pack: a layer of 40 × 20 in 9 bits");
}

}  // namespace
}  // namespace graft::quant
