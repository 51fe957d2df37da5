#include "graft/examples/llama/progress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace graft::llama {
namespace {

TEST(Progress, WritesTimesAsClocksDo) {
  EXPECT_EQ(clock_time(0), "0:00");
  EXPECT_EQ(clock_time(59.4), "0:59");
  EXPECT_EQ(clock_time(59.6), "1:00");
  EXPECT_EQ(clock_time(754), "12:34");
  EXPECT_EQ(clock_time(3723), "1:02:03");
}

TEST(Progress, WritesOneLineForAStep) {
  EXPECT_EQ(progress_line({.step = 12, .steps = 300, .loss = 4.12341, .tokens_per_second = 5123.4, .seconds_left = 65}),
            "step  12/300   loss 4.1234   5123 tokens/s   1:05 left");
}

TEST(Progress, WritesPlainLinesWhereThereIsNoTerminal) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  Progress progress(0, 100, file);
  for (int step = 1; step <= 100; ++step) progress.step_done(step, 1.0, 10);
  progress.finish();
  std::rewind(file);
  std::string text(1 << 16, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 21) << "the first step and every twentieth of the run";
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_EQ(text.find("step   1/100   loss 1.0000"), 0u);
  EXPECT_NE(text.find("step 100/100"), std::string::npos);
}

}  // namespace
}  // namespace graft::llama
