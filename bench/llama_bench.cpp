// The tiny model of the demo: one training step with LoRA r = 8 on all seven projections, and one generated token.
// The limit of both is that of the multiply-adds or that of reading the weights, which a step does twice, whichever takes longer.
// peak_mb is what all tensors together took at most in a step: weights, activations that rules kept, gradients, moments.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>

#include "graft/adapters/inject.h"
#include "graft/autograd/ops.h"
#include "graft/autograd/optim.h"
#include "graft/bench/roofline.h"
#include "graft/core/isa.h"
#include "graft/core/parallel.h"
#include "graft/examples/llama/model.h"
#include "graft/quant/kernels.h"
#include "graft/quant/quant_linear.h"

namespace {

using namespace graft;

std::filesystem::path model_folder() {
  const char* folder = std::getenv("GRAFT_BENCH_MODEL");
  return folder ? folder : GRAFT_SOURCE_DIR "/examples/models/tiny-llama-gptq";
}

/// Weights that every token passes: projections and head. The embedding is only looked up.
double multiplied_weights(const llama::Config& c) {
  const double width = c.hidden_size, head_dim = c.head_dim;
  const double layer =
      width * head_dim * (2 * c.num_attention_heads + 2 * c.num_key_value_heads) + 3 * width * c.intermediate_size;
  return c.num_hidden_layers * layer + width * c.vocab_size;
}

/// Memory that holds those weights.
double multiplied_bytes(llama::CausalLM& model) {
  std::int64_t bytes = 0;
  for_each_module(model, [&](const std::string&, Module& module) {
    if (const auto* quantized = dynamic_cast<const quant::QuantLinear*>(&module)) bytes += quantized->packed().bytes();
    else if (dynamic_cast<const Linear*>(&module))
      for (const auto& [name, tensor] : named_parameters(module)) bytes += tensor.count() * size_of(tensor.dtype());
  });
  return static_cast<double>(bytes);
}

using Clock = std::chrono::steady_clock;

/// Seconds per iteration of a loop that began at `begin` and is over.
double seconds_each(const benchmark::State& state, Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count() / static_cast<double>(state.iterations());
}

/// What products with activations of this dtype are bound by.
double bench::Roofline::*rate(DType dtype) {
  return dtype == DType::bf16 ? &bench::Roofline::bf16_per_second : &bench::Roofline::flops_per_second;
}

Tensor random_ids(const llama::Config& config, std::int64_t batch, std::int64_t length) {
  Generator generator{1};
  return to(uniform({batch, length}, 0, static_cast<double>(config.vocab_size), generator), DType::i64);
}

void train_step(benchmark::State& state, DType dtype, std::int64_t batch, std::int64_t length, int threads) {
  set_thread_pool(make_thread_pool(threads));
  llama::CausalLM model = llama::load(model_folder(), dtype);
  const double weights = multiplied_bytes(model);
  adapters::inject(model,
                   LoraConfig{.r = 8,
                              .lora_alpha = 16,
                              .target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}});
  set_training(model, true);
  AdamW optimizer(trainable(model), {.lr = 1e-4});
  const Tensor ids = random_ids(model.config(), batch, length + 1);
  const Tensor inputs = slice(ids, 1, 0, length), labels = slice(ids, 1, 1, length + 1);
  const auto step = [&] {
    cross_entropy(model.forward(inputs), labels).backward();
    optimizer.step();
    optimizer.zero_grad();
  };
  step();  // which finds its memory, as the peer's first ones do
  memory::reset_peak();
  const auto begin = Clock::now();
  for (auto _ : state) step();
  const double seconds = seconds_each(state, begin), tokens = static_cast<double>(batch * length);
  state.counters["tokens_per_s"] = benchmark::Counter(tokens * state.iterations(), benchmark::Counter::kIsRate);
  state.counters["peak_mb"] = static_cast<double>(memory::peak_bytes()) / 1e6;
  // Forward and input gradient of every product, and attention's four and ten half-triangles of length².
  const auto& c = model.config();
  const double attention = 7.0 * tokens * length * c.num_hidden_layers * c.num_attention_heads * c.head_dim;
  const double flops = 4 * multiplied_weights(c) * tokens + attention;
  state.counters["pct_of_limit"] = bench::percent_of_limit(seconds, flops, rate(dtype), 2 * weights, threads);
  set_thread_pool(nullptr);
}

void generate_token(benchmark::State& state, DType dtype, int threads) {
  set_thread_pool(make_thread_pool(threads));
  NoGrad no_grad;
  llama::CausalLM model = llama::load(model_folder(), dtype);
  llama::KeyValueCache cache;
  model.forward(random_ids(model.config(), 1, 64), &cache);
  const Tensor next = random_ids(model.config(), 1, 1);
  const auto begin = Clock::now();
  for (auto _ : state) {
    benchmark::DoNotOptimize(argmax(model.forward(next, &cache)).item());
    cache.truncate(64);
  }
  const double seconds = seconds_each(state, begin);
  state.counters["tokens_per_s"] = benchmark::Counter(static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
  const double flops = 2 * multiplied_weights(model.config());
  state.counters["pct_of_limit"] = bench::percent_of_limit(seconds, flops, rate(dtype), multiplied_bytes(model), threads);
  set_thread_pool(nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  if (const char* set = std::getenv("GRAFT_ISA")) graft::pin_isa(graft::isa_named(set));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  for (const int threads : {1, 2}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      benchmark::RegisterBenchmark(fmt::format("train_step/lora8/{}/16x256/{}t", dtype, threads).c_str(), train_step, dtype, 16,
                                   256, threads)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
      benchmark::RegisterBenchmark(fmt::format("generate_token/{}/{}t", dtype, threads).c_str(), generate_token, dtype, threads)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
