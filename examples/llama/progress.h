// The progress line: one that is rewritten on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace graft::llama {

/// Where a run stands.
struct Standing {
  std::int64_t step = 0, steps = 0;
  double loss = 0;
  double tokens_per_second = 0;
  double seconds_left = 0;
};

/// "step  12/300   loss 4.1234   5123 tokens/s   1:05 left".
std::string progress_line(const Standing& standing);

/// "0:07", "12:34", "1:02:03".
std::string clock_time(double seconds);

class Progress {
 public:
  /// Reports steps after `begun` up to `steps`, to `out`, which stays the caller's.
  Progress(std::int64_t begun, std::int64_t steps, std::FILE* out);
  /// One more step is done: its loss and how many tokens it saw. Elsewhere than on a terminal every twentieth of the run is
  /// shown.
  void step_done(std::int64_t step, double loss, std::int64_t tokens);
  /// Ends the rewritten line, if there is one.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  std::int64_t begun_, steps_, tokens_ = 0;
  std::FILE* out_;
  bool terminal_, open_ = false;
  Clock::time_point start_ = Clock::now();
};

}  // namespace graft::llama
