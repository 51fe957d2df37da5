#include "graft/examples/llama/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

namespace graft::llama {

std::string clock_time(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::max(seconds, 0.0) + 0.5);
  const std::int64_t hours = whole / 3600, minutes = whole / 60 % 60;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, minutes, whole % 60);
  return fmt::format("{}:{:02}", minutes, whole % 60);
}

std::string progress_line(const Standing& s) {
  const auto width = fmt::formatted_size("{}", s.steps);
  return fmt::format("step {:>{}}/{}   loss {:.4f}   {:.0f} tokens/s   {} left", s.step, width, s.steps, s.loss,
                     s.tokens_per_second, clock_time(s.seconds_left));
}

Progress::Progress(std::int64_t begun, std::int64_t steps, std::FILE* out)
    : begun_(begun), steps_(steps), out_(out), terminal_(::isatty(::fileno(out)) == 1) {}

void Progress::step_done(std::int64_t step, double loss, std::int64_t tokens) {
  tokens_ += tokens;
  const double seconds = std::max(std::chrono::duration<double>(Clock::now() - start_).count(), 1e-9);
  const double per_step = seconds / static_cast<double>(step - begun_);
  const std::string line =
      progress_line({step, steps_, loss, static_cast<double>(tokens_) / seconds, per_step * static_cast<double>(steps_ - step)});
  if (terminal_) {
    fmt::print(out_, "\r{}\033[K", line);
    open_ = true;
  } else if (step == begun_ + 1 || step == steps_ || step % std::max<std::int64_t>(steps_ / 20, 1) == 0) {
    fmt::print(out_, "{}\n", line);
  }
  std::fflush(out_);
}

void Progress::finish() {
  if (open_) fmt::print(out_, "\n");
  std::fflush(out_);
  open_ = false;
}

}  // namespace graft::llama
