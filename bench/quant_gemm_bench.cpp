// Quantized and dense products, forward and for the input gradient, with the share of what the machine allows.
//
// Rows are <layer>/<activations>/<fwd|bwd>/M:<m>[/K:<in>/N:<out>]/<hot|cold>/<n>t[/busy]. Hot: one weight, again and again, from the
// last-level cache if it fits. Cold: copies of it in turn, more than any cache holds. Busy: one core has other work all the while.
#include <benchmark/benchmark.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "graft/bench/eigen.h"
#include "graft/bench/openblas.h"
#include "graft/bench/random_layer.h"
#include "graft/bench/roofline.h"
#include "graft/core/cpu/gemm.h"
#include "graft/core/parallel.h"
#include "graft/core/rng.h"
#include "graft/quant/pack.h"

namespace graft::bench {
namespace {

constexpr std::int64_t features = 4096;                       // in and out, unless a layer says otherwise
constexpr std::int64_t cold_bytes = std::int64_t{256} << 20;  // of weights in turn

struct Layer {
  const char* name;
  int bits;
  std::int64_t group_size;
  bool act_order = false;
  std::int64_t in = features, out = features;

  bool operator==(const Layer&) const = default;
};
constexpr Layer layers[] = {{"gptq4g128", 4, 128}, {"gptq3g128", 3, 128},  {"gptq2g64", 2, 64},
                            {"gptq8g128", 8, 128}, {"eetq8", 8, features}, {"gptq4g128act", 4, 128, true}};
constexpr Layer large{"gptq4g128", 4, 128, false, 8192, 28672};  // of Llama 70B's MLP

// What rows call activations, and what bounds a product of them.
struct Kind {
  const char* name;
  DType dtype;
  quant::Compute compute;
  double Roofline::*rate;
};
constexpr Kind f32{"f32", DType::f32, quant::Compute::exact, &Roofline::flops_per_second};
constexpr Kind kinds[] = {f32,
                          {"bf16", DType::bf16, quant::Compute::exact, &Roofline::bf16_per_second},
                          {"int8", DType::f32, quant::Compute::int8_activations, &Roofline::int8_per_second}};

std::shared_ptr<Storage> copy(const Storage& from) {
  auto to = Storage::allocate(from.bytes());
  std::memcpy(to->data(), from.data(), static_cast<std::size_t>(from.bytes()));
  return to;
}

// A weight and as many copies as the cold rows walk through; made at first use, and one layer at a time is kept.
const std::vector<quant::Packed>& weights(const Layer& layer, std::int64_t copies) {
  static Layer of{};
  static std::vector<quant::Packed> all;
  if (of != layer) {
    all.clear();
    all.push_back(*quant::pack(random_layer({layer.in, layer.out, layer.bits, layer.group_size, layer.act_order})));
    of = layer;
  }
  while (static_cast<std::int64_t>(all.size()) < copies) {
    quant::Packed next = all.front();
    next.codes = copy(*next.codes);
    next.scales = copy(*next.scales);
    next.zeros = copy(*next.zeros);
    all.push_back(std::move(next));
  }
  return all;
}

const std::vector<std::vector<float>>& dense_weights(std::int64_t copies) {
  static std::vector<std::vector<float>> kept;
  while (static_cast<std::int64_t>(kept.size()) < copies) {
    kept.emplace_back(static_cast<std::size_t>(features * features));
    for (std::size_t i = 0; i < kept.back().size(); ++i) kept.back()[i] = static_cast<float>(i % 1013) * 0.001f - 0.5f;
  }
  return kept;
}

// Activations [m, width] of a dtype.
struct Activations {
  Activations(std::int64_t m, std::int64_t width, DType dtype) : bytes(static_cast<std::size_t>(m * width * size_of(dtype))) {
    view.data = bytes.data();
    view.dtype = dtype;
    view.rank = 2;
    view.sizes[0] = m;
    view.sizes[1] = view.strides[0] = width;
    view.strides[1] = 1;
    dispatch(dtype, Types<float, bf16>{}, "bench", [&]<class T>() {
      for (std::int64_t i = 0; i < m * width; ++i) view.as<T>()[i] = T(to_uniform(random_block(2, 0, i)[0]) - 0.5f);
    });
  }
  std::vector<std::byte> bytes;
  View view;
};

// The dense weight [out, in] of a layer, against which its answers are checked; one at a time is kept.
const std::vector<float>& dense_of(const Layer& layer) {
  static Layer of{};
  static std::vector<float> kept;
  if (of == layer) return kept;
  kept.resize(static_cast<std::size_t>(layer.in * layer.out));
  quant::dequantize(weights(layer, 1).front(), 0, layer.out, kept.data());
  of = layer;
  return kept;
}

// Whether 64 entries of y here and there are x wᵀ (or x w when transposed) in f64, but for what sums and roundings lose: those of f32
// and of y itself; of weights that a gradient in bf16 may round; of activations in int8, half of 1/127 of the largest, which is twice
// the mean.
bool right(const Kind& kind, const Activations& x, const std::vector<float>& w, bool transposed, const Activations& y) {
  const bool bf16_weights = transposed && x.view.dtype == DType::bf16, int8 = kind.compute == quant::Compute::int8_activations;
  const std::int64_t in = x.view.sizes[1], out = y.view.sizes[1];
  const double relative = int8 ? 2.1 / 254 : bf16_weights ? 0x1p-8 : 1e-5;
  return dispatch(x.view.dtype, Types<float, bf16>{}, "bench", [&]<class T>() {
    for (std::uint64_t i = 0; i < 64; ++i) {
      const auto words = random_block(3, 0, i);
      const std::int64_t row = words[0] % x.view.sizes[0], column = words[1] % out;
      double sum = 0, size = 0;
      for (std::int64_t k = 0; k < in; ++k) {
        const double term = static_cast<float>(x.view.as<T>()[row * in + k]) *
                            double{w[static_cast<std::size_t>(transposed ? k * out + column : column * in + k)]};
        sum += term;
        size += std::abs(term);
      }
      const double got = static_cast<float>(y.view.as<T>()[row * out + column]);
      if (!(std::abs(got - sum) <= relative * size + (x.view.dtype == DType::bf16 ? std::abs(sum) / 256 : 0))) return false;
    }
    return true;
  });
}

// Keeps one core from everybody else.
class OtherWork {
 public:
  OtherWork()
      : thread_([this] {
          while (!done_) continue;
        }) {}
  ~OtherWork() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

// A row's columns.
struct Cell {
  bool transposed;
  std::int64_t m;
  bool cold;
  int threads;
  bool busy = false;
};

// Times `product(copy)` of so many operations under the cell's pool and reports what it reached.
template <class F, class Check>
void time(benchmark::State& state, const Kind& kind, const Cell& cell, double flops, std::int64_t weight_bytes,
          std::int64_t copies, F&& product, Check&& right) {
  const int threads = cell.threads;
  roofline(threads);  // measured before, not inside
  set_thread_pool(make_thread_pool(threads));
  set_openblas_threads(threads);
  std::int64_t copy = 0;
  product(0);
  if (!right()) {
    set_thread_pool(nullptr);
    return state.SkipWithError("the answer is not that of f64");
  }
  std::optional<OtherWork> other;
  if (cell.busy) other.emplace();
  double best = 1e30;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    product(copy++ % copies);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
  }
  set_thread_pool(nullptr);
  const double bytes = copies > 1 ? static_cast<double>(weight_bytes) : 0;
  state.counters["gflops"] = flops / best * 1e-9;
  state.counters["pct_of_limit"] = percent_of_limit(best, flops, kind.rate, bytes, threads);
}

// ‖y − exact‖ / ‖exact‖ of products in int8.
double int8_error(const quant::Packed& weight, const Activations& x, const Activations& y) {
  const Activations exact(y.view.sizes[0], y.view.sizes[1], DType::f32);
  quant::forward(weight, x.view, nullptr, exact.view);
  double difference = 0, size = 0;
  for (std::int64_t i = 0; i < y.view.sizes[0] * y.view.sizes[1]; ++i) {
    const double want = exact.view.as<float>()[i], gap = y.view.as<float>()[i] - want;
    difference += gap * gap;
    size += want * want;
  }
  return std::sqrt(difference / size);
}

void quantized(benchmark::State& state, const Layer& layer, const Kind& kind, const Cell& cell) {
  const std::int64_t bytes = weights(layer, 1).front().bytes(), copies = cell.cold ? (cold_bytes + bytes - 1) / bytes : 1;
  const auto& all = weights(layer, copies);
  const bool transposed = cell.transposed;
  const Activations x(cell.m, transposed ? layer.out : layer.in, kind.dtype),
      y(cell.m, transposed ? layer.in : layer.out, kind.dtype);
  const quant::Problem problem{all.front(), transposed, x.view, nullptr, y.view, {}, kind.compute};
  for (const quant::Row& row : quant::rows())
    if (includes(isa(), row.isa) && row.supports(problem)) {
      state.SetLabel(std::string(row.name));
      break;
    }
  time(
      state, kind, cell, 2.0 * static_cast<double>(cell.m * layer.in * layer.out), bytes, copies,
      [&](std::int64_t copy) {
        const quant::Packed& weight = all[static_cast<std::size_t>(copy)];
        if (transposed) quant::backward(weight, x.view, y.view);
        else quant::forward(weight, x.view, nullptr, y.view, {}, kind.compute);
      },
      [&] { return right(kind, x, dense_of(layer), transposed, y); });
  if (kind.compute == quant::Compute::int8_activations) state.counters["error"] = int8_error(all.front(), x, y);
}

enum class Dense { graft, openblas, eigen };

void dense(benchmark::State& state, Dense by, const Cell& cell) {
  const std::int64_t bytes = features * features * std::int64_t{sizeof(float)}, copies = cell.cold ? cold_bytes / bytes : 1;
  const auto& all = dense_weights(copies);
  const bool transposed = cell.transposed;
  const Activations x(cell.m, features, DType::f32), y(cell.m, features, DType::f32);
  time(
      state, f32, cell, 2.0 * static_cast<double>(cell.m) * features * features, bytes, copies,
      [&](std::int64_t copy) {
        const float* w = all[static_cast<std::size_t>(copy)].data();  // [out, in]: forward multiplies by its transpose
        if (by != Dense::graft) {
          constexpr auto n = static_cast<int>(features);
          const auto sgemm = by == Dense::openblas ? openblas_sgemm : eigen_sgemm;
          return sgemm(static_cast<int>(cell.m), n, n, x.view.as<float>(), w, !transposed, y.view.as<float>());
        }
        View b = x.view;
        b.data = const_cast<float*>(w);
        b.sizes[0] = features;
        b.strides[0] = transposed ? features : 1;
        b.strides[1] = transposed ? 1 : features;
        cpu::matmul(x.view, b, y.view);
      },
      [&] { return right(f32, x, all.front(), transposed, y); });
}

template <class Run>
void add(std::string_view layer, const Kind& kind, const Cell& cell, std::string_view shape, Run run) {
  const auto name = fmt::format("{}/{}/{}/M:{}{}/{}/{}t{}", layer, kind.name, cell.transposed ? "bwd" : "fwd", cell.m, shape,
                                cell.cold ? "cold" : "hot", cell.threads, cell.busy ? "/busy" : "");
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { run(state, cell); })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

void register_rows() {
  std::vector<int> counts{1};
  if (const auto all = static_cast<int>(std::thread::hardware_concurrency()); all > 1) counts.push_back(all);
  const auto each_cell = [](const Kind& kind, const std::vector<int>& counts, auto&& add) {
    for (bool transposed : {false, true})
      for (std::int64_t m : {1, 4, 16, 64, 512})
        for (bool cold : {false, true})
          for (int threads : counts)
            if (!transposed || kind.compute == quant::Compute::exact) add(Cell{transposed, m, cold, threads});
  };
  const auto run = [](const Layer& layer, const Kind& kind) {
    return [&](benchmark::State& state, const Cell& cell) { quantized(state, layer, kind, cell); };
  };
  for (const Layer& layer : layers)
    for (const Kind& kind : kinds)
      each_cell(kind, counts, [&](const Cell& cell) { add(layer.name, kind, cell, "", run(layer, kind)); });
  for (std::int64_t m : {1, 4, 16, 64, 512})
    if (counts.size() > 1) add(layers[0].name, f32, {false, m, false, counts.back(), true}, "", run(layers[0], f32));
  for (const Kind& kind : kinds)
    for (int threads : counts)
      add(large.name, kind, {false, 1, true, threads}, fmt::format("/K:{}/N:{}", large.in, large.out), run(large, kind));
  for (const auto& [name, by] : {std::pair("dense_graft", Dense::graft), std::pair("dense_openblas", Dense::openblas),
                                 std::pair("dense_eigen", Dense::eigen)}) {
    if (by == Dense::openblas && !have_openblas()) continue;
    each_cell(f32, by == Dense::eigen ? std::vector{1} : counts, [&, by = by](const Cell& cell) {
      add(name, f32, cell, "", [by](benchmark::State& state, const Cell& of) { dense(state, by, of); });
    });
  }
}

}  // namespace
}  // namespace graft::bench

int main(int argc, char** argv) {
  if (const char* set = std::getenv("GRAFT_ISA")) graft::pin_isa(graft::isa_named(set));
  graft::bench::register_rows();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const auto& one = graft::bench::roofline(1);
  benchmark::AddCustomContext("isa", std::string(graft::name(graft::isa())));
  benchmark::AddCustomContext("fma_gflops_1t", fmt::format("{:.1f}", one.flops_per_second * 1e-9));
  benchmark::AddCustomContext("bf16_gflops_1t", fmt::format("{:.1f}", one.bf16_per_second * 1e-9));
  benchmark::AddCustomContext("int8_gops_1t", fmt::format("{:.1f}", one.int8_per_second * 1e-9));
  benchmark::AddCustomContext("read_gbytes_1t", fmt::format("{:.1f}", one.bytes_per_second * 1e-9));
  benchmark::RunSpecifiedBenchmarks();
}
