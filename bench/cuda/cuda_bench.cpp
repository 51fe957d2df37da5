// Products with packed weights on a GPU, by every row of cuda/products.h that takes them, beside dense ones by cuBLASLt.
//
// Rows are <format>/<activations>/<fwd|bwd>/M:<m>/cold[/K:<k>/N:<n>][/lora<r>]/by:<kernel row>, 4096 × 4096 where K and N are not named.
// Weights are read in turn, 256 MB of them and more. A time is that of a replayed graph, divided by the products in it. Every round times
// the row, the bare row where there are LoRA terms, the dense product and launches that do nothing, one after the other, and ratios are
// medians of those of one round.
//
//   cuda_bench [--all] [--seconds=<n>] [flags of Google Benchmark]
//
// --all: every combination instead of the published rows. --seconds: rows that have not begun by then are cut, and say so.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <optional>
#include <set>

#include "graft/bench/cuda/limits.h"
#include "graft/bench/cuda/operands.h"
#include "graft/bench/cuda/replay.h"
#include "graft/cuda/gpu.h"

namespace graft::bench {
namespace {

using Clock = std::chrono::steady_clock;
Clock::time_point deadline = Clock::time_point::max();

/// A row's body; what it refuses is the row's answer, not the program's end.
void guarded(benchmark::State& state, const std::function<void()>& body) try {
  if (Clock::now() >= deadline) return state.SkipWithError("cut: no time was left");
  body();
} catch (const Error& error) {
  state.SkipWithError(error.what());
}

/// Microseconds of one product in every round of a few replays, that are timed in turns.
class Rounds {
 public:
  Rounds(std::int64_t products) : products_(products) {}
  void add(const Replay& replay) { replays_.push_back({&replay, {}}); }
  /// The first one's, in seconds.
  double next() {
    for (auto& [replay, times] : replays_) times.push_back(1e6 * replay->seconds() / static_cast<double>(products_));
    return 1e-6 * replays_[0].times.back();
  }
  double at(std::size_t which, double share) const {
    auto times = replays_[which].times;
    return quantile(times, share);
  }
  /// The median of `combine(first, which)` over the rounds.
  double median(std::size_t which, double (*combine)(double, double)) const {
    std::vector<double> values;
    for (std::size_t i = 0; i < replays_[which].times.size(); ++i)
      values.push_back(combine(replays_[0].times[i], replays_[which].times[i]));
    return quantile(values, 0.5);
  }

 private:
  struct Timed {
    const Replay* replay;
    std::vector<double> times;
  };
  std::int64_t products_;
  std::vector<Timed> replays_;
};

double ratio(double a, double b) { return a / b; }
double difference(double a, double b) { return a - b; }

void report(benchmark::State& state, const Cell& cell, const Rounds& rounds, const Replay& row) {
  const double median = rounds.at(0, 0.5), least = 1e6 * floor_seconds(work(cell), limits(cell.dtype));
  state.counters["min_us"] = rounds.at(0, 0);
  state.counters["median_us"] = median;
  state.counters["p90_us"] = rounds.at(0, 0.9);
  state.counters["floor_us"] = least;
  state.counters["pct_of_roofline"] = 100 * least / median;
  state.counters["gbytes_per_s"] = 1e-3 * weight_bytes(cell) / median;
  state.counters["tflops"] = 1e-6 * work(cell).operations / median;
  if (!row.trouble().empty()) state.SetLabel("no graph: " + row.trouble());
}

void measure(benchmark::State& state, const Cell& cell, const cuda::Product& product) {
  const auto copies = copies_for(weight_bytes(cell));
  const Weights& weights = weights_for(cell, copies);
  const Cell bare_cell{cell.format, cell.dtype, cell.backward, cell.m, cell.k, cell.n};
  const Cell dense_cell{nullptr, cell.dtype, cell.backward, cell.m, cell.k, cell.n};
  const auto dense_copies = copies_for(weight_bytes(dense_cell));
  const auto& dense_weights = dense_weights_for(dense_cell, dense_copies);
  const Operands operands(cell), bare_operands(bare_cell);

  operands.poison();
  operands.run(product, weights, 0);
  const double error = operands.error(weights);
  state.counters["error"] = error;
  if (!(error <= operands.largest_error()))
    return state.SkipWithError(fmt::format("the answer is {:.2g} from the CPU's, and {:.2g} is what rounding can make of it",
                                           error, operands.largest_error())
                                   .c_str());
  bare_operands.run(product, weights, 0);
  bare_operands.run_dense(dense_weights, 0);

  // As many dense products as others, so that all rounds are alike.
  const Plan plan = plan_for(floor_seconds(work(cell), limits(cell.dtype)), copies);
  const std::int64_t products = plan.rotations * copies;
  const auto in_turn = [&](std::int64_t copies, const std::function<void(std::size_t)>& run) {
    return [=] {
      for (std::int64_t i = 0; i < products; ++i) run(static_cast<std::size_t>(i % copies));
    };
  };
  const Replay row(in_turn(copies, [&](std::size_t copy) { operands.run(product, weights, copy); }));
  std::optional<Replay> bare;
  if (cell.rank > 0) bare.emplace(in_turn(copies, [&](std::size_t copy) { bare_operands.run(product, weights, copy); }));
  const Replay dense(in_turn(dense_copies, [&](std::size_t copy) { bare_operands.run_dense(dense_weights, copy); }));
  // Without a graph nobody knows its launches; then one of a block stands for each product.
  const auto launches = row.kernels().empty()
                            ? std::vector<Replay::Launch>(static_cast<std::size_t>(products), {dim3(1), dim3(32), 0})
                            : row.kernels();
  const Replay empty([&] { launch_empty(launches); });
  Rounds rounds(products);
  for (const Replay* each : {&row, &dense, &empty}) rounds.add(*each);
  if (bare) rounds.add(*bare);
  for (auto _ : state) state.SetIterationTime(rounds.next());

  report(state, cell, rounds, row);
  state.counters["launches"] = static_cast<double>(launches.size()) / static_cast<double>(products);
  state.counters["t_fixed_us"] = rounds.at(2, 0.5);
  state.counters["us_without_launch"] = rounds.median(2, difference);
  state.counters["dense_us"] = rounds.at(1, 0.5);
  state.counters["ratio_to_dense"] = rounds.median(1, ratio);
  if (bare) {
    state.counters["us_over_bare"] = rounds.median(3, difference);
    state.counters["ratio_to_bare"] = rounds.median(3, ratio);
  }
}

void measure_dense(benchmark::State& state, const Cell& cell) {
  const auto copies = copies_for(weight_bytes(cell));
  const auto& weights = dense_weights_for(cell, copies);
  const Operands operands(cell);
  operands.poison();
  operands.run_dense(weights, 0);
  const double error = operands.error(weights);
  state.counters["error"] = error;
  if (!(error <= operands.largest_error())) return state.SkipWithError("the answer is not the CPU's");
  const Plan plan = plan_for(floor_seconds(work(cell), limits(cell.dtype)), copies);
  const std::int64_t products = plan.rotations * copies;
  const Replay row([&] {
    for (std::int64_t i = 0; i < products; ++i) operands.run_dense(weights, static_cast<std::size_t>(i % copies));
  });
  Rounds rounds(products);
  rounds.add(row);
  for (auto _ : state) state.SetIterationTime(rounds.next());
  report(state, cell, rounds, row);
}

/// A limit as a row of its own, before and after all others: clocks and neighbours that changed in between show. `work` is so much that its
/// time is one to read.
void add_limit(const char* name, const char* when, double (*rate)(), double work, const char* counter, double unit) {
  benchmark::RegisterBenchmark(fmt::format("limits/{}/{}", name, when).c_str(),
                               [=](benchmark::State& state) {
                                 guarded(state, [&] {
                                   double measured = 0;
                                   for (auto _ : state) {
                                     measured = rate();
                                     state.SetIterationTime(work / measured);
                                   }
                                   state.counters[counter] = unit * measured;
                                 });
                               })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond)
      ->Iterations(1);
}

void add_limits(const char* when) {
  add_limit("copy_1GB", when, copy_rate, 2e9, "gbytes_per_s", 1e-9);  // read and written
  add_limit(
      "dense_bf16_1TFLOP", when, [] { return dense_rate(DType::bf16); }, 1e12, "tflops", 1e-12);
  add_limit(
      "launch", when, [] { return 1 / launch_seconds(); }, 1, "launches_per_s", 1);
}

void add_row(const std::string& name, const Cell& cell, const std::function<void(benchmark::State&)>& body) {
  const auto copies = copies_for(weight_bytes(cell));
  benchmark::RegisterBenchmark(name.c_str(), [body](benchmark::State& state) { guarded(state, [&] { body(state); }); })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond)
      ->Iterations(plan_for(floor_seconds(work(cell), limits(cell.dtype)), copies).rounds);
}

void add_rows(const std::vector<Cell>& cells) {
  add_limits("before");
  std::set<std::string> dense_rows;
  for (const Cell& cell : cells) {
    for (const cuda::Product& product : cuda::products())
      if (supports(product, cell))
        add_row(fmt::format("{}/by:{}", name(cell), slug(product.name)), cell,
                [cell, &product](benchmark::State& state) { measure(state, cell, product); });
    const Cell dense{nullptr, cell.dtype, cell.backward, cell.m, cell.k, cell.n};
    if (dense_rows.insert(name(dense)).second)
      add_row(name(dense), dense, [dense](benchmark::State& state) { measure_dense(state, dense); });
  }
  add_limits("after");
}

void add_context() {
  cudaDeviceProp device{};
  cuda::require(cudaGetDeviceProperties(&device, 0), "asking what a GPU is");
  int driver = 0;
  cuda::require(cudaDriverGetVersion(&driver), "asking for the driver");
  const Limits& measured = limits(DType::bf16);
  const std::pair<const char*, std::string> context[] = {
      {"device", device.name},
      {"capability", fmt::format("{}.{}", device.major, device.minor)},
      {"multiprocessors", fmt::format("{}", device.multiProcessorCount)},
      {"l2_mb", fmt::format("{:.0f}", device.l2CacheSize / 1e6)},
      {"driver_cuda", fmt::format("{}.{}", driver / 1000, driver % 1000 / 10)},
      {"copy_gbytes_per_s", fmt::format("{:.0f}", 1e-9 * measured.bytes_per_second)},
      {"dense_bf16_tflops", fmt::format("{:.0f}", 1e-12 * measured.operations_per_second)},
      {"launch_us", fmt::format("{:.2f}", 1e6 * launch_seconds())},
  };
  for (const auto& [name, value] : context) benchmark::AddCustomContext(name, value);
}

/// Takes our own arguments out of the list; false if one is not understood.
bool take_arguments(int& argc, char** argv, bool& all) {
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    constexpr std::string_view seconds = "--seconds=";
    if (argument == "--all") {
      all = true;
    } else if (argument.starts_with(seconds)) {
      int count = 0;
      const auto [end, error] = std::from_chars(argument.data() + seconds.size(), argument.data() + argument.size(), count);
      if (error != std::errc() || end != argument.data() + argument.size() || count <= 0) {
        fmt::print(stderr, "cuda_bench: {}: a whole number of seconds is wanted\n", argument);
        return false;
      }
      deadline = Clock::now() + std::chrono::seconds(count);
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  return true;
}

int run(int argc, char** argv) try {
  bool all = false;
  if (!take_arguments(argc, argv, all)) return 2;
  std::string why;
  if (cuda::count_gpus(&why) == 0) {
    fmt::print(stderr, "cuda_bench: there is no GPU to measure: {}\n", why);
    return 3;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const cuda::Current here(0);
  add_context();
  add_rows(all ? all_cells() : core_cells());
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
} catch (const Error& error) {
  fmt::print(stderr, "cuda_bench: {}\n", error.what());
  return 1;
}

}  // namespace
}  // namespace graft::bench

int main(int argc, char** argv) { return graft::bench::run(argc, argv); }
