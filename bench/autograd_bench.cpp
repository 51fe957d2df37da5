// Every row of the op table but attention, forward and with its gradients, in f32 on tensors beyond the caches: name/f32/<fwd|step>/<threads>t.
// The limit is the memory: one reading of every input and one writing of every result, and for the step the gradients of both.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "graft/autograd/ops.h"
#include "graft/core/parallel.h"

#include "../tests/support/op_table.h"
#include "roofline.h"

namespace {

using namespace graft;
using test::Row;

constexpr std::int64_t elements = std::int64_t{1} << 22;

std::int64_t counted(const std::vector<Tensor>& xs) {
  std::int64_t count = 0;
  for (const Tensor& x : xs) count += x.count();
  return count;
}

// The size at which the row's inputs hold about `elements` numbers: they grow with n, or with its square.
std::vector<Tensor> large_inputs(const Row& row) {
  std::int64_t n = 1;
  while (counted(make_inputs(row, n)) < elements && n < (std::int64_t{1} << 20)) n *= 2;
  std::vector<Tensor> inputs;
  for (const Tensor& x : make_inputs(row, n)) {
    inputs.push_back(is_floating(x.dtype()) ? to(x.detach(), DType::f32) : x);
    if (x.requires_grad()) inputs.back().set_requires_grad();
  }
  return inputs;
}

void run(benchmark::State& state, const Row& row, bool step, int threads) {
  set_thread_pool(make_thread_pool(threads));
  const std::vector<Tensor> inputs = large_inputs(row);
  std::vector<Tensor> wanted;
  for (const Tensor& x : inputs)
    if (x.requires_grad()) wanted.push_back(x);
  const Tensor shape = row.op(inputs), dy = Tensor::ones(shape.shape(), shape.dtype());
  const GradMode mode(step);
  const auto begin = std::chrono::steady_clock::now();
  for (auto _ : state) {
    const Tensor y = row.op(inputs);
    if (step) benchmark::DoNotOptimize(grad({&y, 1}, wanted, {&dy, 1}));
    benchmark::DoNotOptimize(y.view().data);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  double bytes = static_cast<double>(shape.count() * size_of(shape.dtype()));
  for (const Tensor& x : inputs) bytes += static_cast<double>(x.count() * size_of(x.dtype()));
  if (step) bytes *= 2;
  state.counters["pct_of_limit"] = bench::percent_of_limit(seconds / static_cast<double>(state.iterations()), 0,
                                                           &bench::Roofline::flops_per_second, bytes, threads);
  set_thread_pool(nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  for (const int threads : {1, 2})
    for (const Row& row : test::op_table())
      for (const bool step : {false, true}) {
        // Attention grows with the square of n; llama_bench shows it in a model.
        if (row.name == "attention" || (step && !row.differentiable)) continue;
        const std::string name = fmt::format("{}/f32/{}/{}t", row.label(), step ? "step" : "fwd", threads);
        benchmark::RegisterBenchmark(name.c_str(),
                                     [&row, step, threads](benchmark::State& state) { run(state, row, step, threads); })
            ->UseRealTime()
            ->Unit(benchmark::kMillisecond);
      }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
