// What an adapter costs over the bare layer, 4096 × 4096: rows are <method><r>/<layer>/<activations>/<fwd|bwd>/M:<m>. Both are timed in
// every iteration, by turns first and second, and overhead_pct is the median, less one, of what two iterations took with the adapter
// over what they took without: neither a machine that slows down or speeds up in between shows, nor what the first leaves in the caches
// for the second. fwd is an inference forward. bwd is the backward pass of a training step: the bare layer's
// gives dx, the adapted one's dx and the gradients of the adapter's parameters.
//
// Rows swap/<operation> are about a model of 224 adapted layers, as many as one of seven billion parameters has: switching the active
// adapter, choosing one for a call and one for every row, adding one that is read already, and removing it. median_us is the median.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/routing.h"
#include "graft/adapters/rules.h"
#include "graft/autograd/ops.h"
#include "graft/bench/random_layer.h"
#include "graft/core/isa.h"
#include "graft/quant/pack.h"
#include "graft/quant/quant_linear.h"

namespace graft::bench {
namespace {

constexpr std::int64_t features = 4096;  // in and out

struct Format {
  const char* name;
  const char* method;  // empty: dense
  int bits;
  std::int64_t group_size;
};
constexpr Format formats[] = {
    {"dense", "", 32, 0}, {"gptq4g128", "gptq", 4, 128}, {"awq4g128", "awq", 4, 128}, {"eetq8", "eetq", 8, features}};

struct Method {
  const char* name;
  AdapterConfig config;
};
const std::vector<Method>& methods() {
  static const std::vector<Method> all = {
      {"lora16", LoraConfig{.r = 16, .target_modules = {"linear"}}},
      {"lora64", LoraConfig{.r = 64, .target_modules = {"linear"}}},
      {"dora16", LoraConfig{.r = 16, .target_modules = {"linear"}, .use_dora = true}},
      {"qalora16", LoraConfig{.r = 16, .target_modules = {"linear"}, .use_qalora = true, .qalora_group_size = 128}},
      {"adalora12", AdaLoraConfig{.total_step = 100, .target_modules = {"linear"}}},
      {"oft32", OFTConfig{.oft_block_size = 32, .target_modules = {"linear"}}}};
  return all;
}

std::shared_ptr<LinearBase> make_base(const Format& format, DType dtype) {
  Generator random{.seed = 1};
  if (format.method == std::string_view()) return std::make_shared<Linear>(normal({features, features}, 0, 0.02, random, dtype));
  quant::Description description;
  description.method = format.method;
  description.bits = format.bits;
  description.group_size = format.group_size;
  return std::make_shared<quant::QuantLinear>(description,
                                              quant::pack(random_layer({features, features, format.bits, format.group_size})));
}

/// The base of a row; the last one is kept, since rows of one layer follow each other.
std::shared_ptr<LinearBase> base_of(const Format& format, DType dtype) {
  static std::string kept;
  static std::shared_ptr<LinearBase> base;
  const auto name = fmt::format("{}/{}", format.name, dtype);
  if (kept != name) base = make_base(format, dtype), kept = name;
  return base;
}

struct Box final : Module {
  Slot<LinearBase> linear;
  std::string type_name() const override { return "Box"; }
  void visit(Visitor& visitor) override { visitor.child("linear", linear); }
};

double seconds(const auto& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The time of one pass of `layer` over x, with the gradients of `wanted` where this is about the backward pass.
double pass(const LinearBase& layer, const Tensor& x, const std::vector<Tensor>& wanted, const Tensor& dy) {
  if (wanted.empty()) {
    const NoGrad no_grad;
    return seconds([&] { benchmark::DoNotOptimize(layer.forward(x).view().data); });
  }
  const Tensor y = layer.forward(x);
  return seconds([&] { benchmark::DoNotOptimize(grad({&y, 1}, wanted, {&dy, 1})); });
}

/// A median, which may order its argument anew.
double median(std::vector<double>& of) {
  std::nth_element(of.begin(), of.begin() + static_cast<std::ptrdiff_t>(of.size() / 2), of.end());
  return of[of.size() / 2];
}

void run(benchmark::State& state, const Method& method, const Format& format, DType dtype, bool backward, std::int64_t m) {
  Box box;
  box.linear = base_of(format, dtype);
  const auto base = box.linear.pointer();
  Registry registry = Registry::builtin();
  registry.prepend(rules::quantized_dora());
  registry.prepend(rules::quantized_qalora());
  set_training(box, backward);
  adapters::inject(box, method.config, {.registry = registry});

  Generator random{.seed = 2};
  Tensor x = normal({m, features}, 0, 1, random, dtype);
  const Tensor dy = normal({m, features}, 0, 1, random, dtype);
  std::vector<Tensor> bare, adapted;
  if (backward) {
    x.set_requires_grad();
    bare = adapted = {x};
    for (const auto& parameter : trainable(box)) adapted.push_back(parameter.tensor);
  }
  std::vector<double> ratios, times;
  double both_adapted = 0, both_bare = 0;
  bool base_first = false;
  for (auto _ : state) {
    double of_base = 0, of_adapted = 0;
    base_first = !base_first;
    if (base_first) of_base = pass(*base, x, bare, dy), both_adapted = both_bare = 0;
    of_adapted = pass(*box.linear, x, adapted, dy);
    if (!base_first) of_base = pass(*base, x, bare, dy);
    state.SetIterationTime(of_adapted);
    both_adapted += of_adapted, both_bare += of_base;
    if (!base_first || ratios.empty()) ratios.push_back(both_adapted / both_bare);
    times.push_back(of_base);
  }
  state.counters["overhead_pct"] = 100 * (median(ratios) - 1);
  state.counters["base_us"] = 1e6 * median(times);
}

/// 224 layers around one small base.
struct Tower final : Module {
  std::vector<Slot<LinearBase>> layers;
  explicit Tower(const std::shared_ptr<LinearBase>& base) : layers(224, base) {}
  std::string type_name() const override { return "Tower"; }
  void visit(Visitor& visitor) override {
    for (std::size_t i = 0; i < layers.size(); ++i) visitor.child(fmt::format("model.layers.{}.linear", i), layers[i]);
  }
};

enum class Swap { switching, choosing, choosing_rows, adding, removing };
constexpr std::pair<const char*, Swap> swaps[] = {{"switching", Swap::switching},
                                                  {"choosing", Swap::choosing},
                                                  {"choosing_rows", Swap::choosing_rows},
                                                  {"adding", Swap::adding},
                                                  {"removing", Swap::removing}};

void run_swap(benchmark::State& state, Swap operation) {
  Generator random{.seed = 1};
  Tower tower(std::make_shared<Linear>(normal({32, 32}, 0, 0.1, random)));
  const LoraConfig config{.r = 2, .target_modules = {"linear"}};
  for (const char* name : {"a", "b"}) adapters::inject(tower, config, {.adapter_name = name});
  // What comes and goes is made once: reading a file and making tensors is no part of a swap.
  std::vector<std::shared_ptr<Adapter>> guest;
  for (const auto& slot : tower.layers) guest.push_back(dynamic_cast<AdapterLayer&>(*slot).adapter("b"));
  const auto add = [&] {
    for (std::size_t i = 0; i < guest.size(); ++i) dynamic_cast<AdapterLayer&>(*tower.layers[i]).add_adapter("guest", guest[i]);
  };
  const auto remove = [&] { adapters::delete_adapter(tower, "guest"); };
  const std::vector<std::string> rows = {"a", "b", "a", adapters::base_name, "b", "a", "b", "a"};
  std::vector<double> times;
  bool first = false;
  for (auto _ : state) {
    first = !first;
    if (operation == Swap::removing) add();
    times.push_back(seconds([&] {
      switch (operation) {
        case Swap::switching: adapters::set_adapter(tower, {first ? "a" : "b"}); break;
        case Swap::choosing: {
          const adapters::UseAdapters use(tower, {"a"});
          break;
        }
        case Swap::choosing_rows: {
          const adapters::MixedBatch mixed(tower, rows);
          break;
        }
        case Swap::adding: add(); break;
        case Swap::removing: remove(); break;
      }
    }));
    state.SetIterationTime(times.back());
    if (operation == Swap::adding) remove();
  }
  state.counters["median_us"] = 1e6 * median(times);
}

void register_rows() {
  for (const auto& [name, operation] : swaps) {
    const auto row = [operation = operation](benchmark::State& state) { run_swap(state, operation); };
    benchmark::RegisterBenchmark(fmt::format("swap/{}", name).c_str(), row)->UseManualTime()->Unit(benchmark::kMicrosecond);
  }

  for (const Format& format : formats)
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const Method& method : methods()) {
        if (method.name == std::string_view("qalora16") && format.bits == 32) continue;  // there is none on dense layers
        for (const bool backward : {false, true})
          for (const std::int64_t m : {1, 4, 16, 64, 512}) {
            const auto name = fmt::format("{}/{}/{}/{}/M:{}", method.name, format.name, dtype, backward ? "bwd" : "fwd", m);
            const auto row = [=, &method, &format](benchmark::State& state) { run(state, method, format, dtype, backward, m); };
            benchmark::RegisterBenchmark(name.c_str(), row)->UseManualTime()->Unit(benchmark::kMicrosecond);
          }
      }
}

}  // namespace
}  // namespace graft::bench

int main(int argc, char** argv) {
  if (const char* set = std::getenv("GRAFT_ISA")) graft::pin_isa(graft::isa_named(set));
  graft::bench::register_rows();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("isa", std::string(graft::name(graft::isa())));
  benchmark::RunSpecifiedBenchmarks();
}
