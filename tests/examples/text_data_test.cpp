#include "graft/examples/llama/text_data.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "../support/errors.h"

namespace graft::llama {
namespace {

using test::expect_error;

std::vector<std::int64_t> count_to(std::int64_t n) {
  std::vector<std::int64_t> ids(n);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

TEST(TextData, PredictsEveryTokenButTheFirstOnce) {
  const TextData data(count_to(11), 5);
  ASSERT_EQ(data.windows(), 2);
  const Batch all = data.in_order(0, 8);
  EXPECT_EQ(all.inputs.shape(), (Shape{2, 5}));
  EXPECT_EQ(all.inputs.to_vector<std::int64_t>(), count_to(10));
  std::vector<std::int64_t> next = count_to(11);
  next.erase(next.begin());
  EXPECT_EQ(all.labels.to_vector<std::int64_t>(), next);
  EXPECT_EQ(data.in_order(1, 8).inputs.dim(0), 1);
}

TEST(TextData, ShowsEachWindowOncePerEpochInAnOrderOfItsOwn) {
  const TextData data(count_to(101), 1);
  const auto epoch = [&](std::int64_t number, std::uint64_t seed) {
    return data.shuffled(seed, number * 100, 100).inputs.to_vector<std::int64_t>();
  };
  auto first = epoch(0, 7), second = epoch(1, 7);
  EXPECT_NE(first, second);
  EXPECT_NE(first, epoch(0, 8));
  EXPECT_EQ(first, epoch(0, 7));
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_EQ(first, count_to(100));
  EXPECT_EQ(second, count_to(100));
}

TEST(TextData, IsTheSameFromAnyPosition) {
  const TextData data(count_to(101), 1);
  const auto all = data.shuffled(3, 0, 250).inputs.to_vector<std::int64_t>();
  for (const std::int64_t position : {0, 1, 99, 100, 101, 240}) {
    const auto some = data.shuffled(3, position, 10).inputs.to_vector<std::int64_t>();
    EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + position)) << position;
  }
}

TEST(TextData, SaysHowMuchTextItNeeds) {
  expect_error<ValueError>([] { TextData(count_to(5), 5); }, "the text has 5 tokens, and one window of 5 needs 6");
  expect_error<ValueError>([] { TextData(count_to(5), 0); }, "a window of 0 tokens is wanted, and at least 1 is possible");
  expect_error<ValueError>([] { TextData({}, 1); }, "the text has 0 tokens, and one window of 1 needs 2");
}

TEST(TextData, ABatchForWhichThereIsNoRoomIsATypedErrorAtOnce) {
  const TextData data(count_to(11), 5);
  expect_error<OutOfMemoryError>([&] { data.shuffled(0, 0, std::int64_t{1} << 50); }, "out of memory: ");
}

}  // namespace
}  // namespace graft::llama
