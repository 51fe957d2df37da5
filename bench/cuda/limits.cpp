#include "graft/bench/cuda/limits.h"

#include <map>

#include "graft/autograd/ops.h"
#include "graft/bench/cuda/replay.h"
#include "graft/core/kernels.h"
#include "graft/cuda/gpu.h"

namespace graft::bench {
namespace {

constexpr Device gpu{Device::Type::cuda, 0};
constexpr int rounds = 15;

/// Seconds of a replay, the median of some.
double median_seconds(const std::function<void()>& launches) {
  launches();
  const Replay replay(launches);
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) times.push_back(replay.seconds());
  return quantile(times, 0.5);
}

}  // namespace

double copy_rate() {
  constexpr std::int64_t bytes = std::int64_t{1} << 30;
  Generator generator{4, 0};
  const Tensor from = uniform({bytes / 4}, -1, 1, generator, DType::f32, gpu), to = Tensor::empty(from.shape(), DType::f32, gpu);
  const auto copy = [&] {
    cuda::require(cudaMemcpyAsync(to.view().data, from.view().data, bytes, cudaMemcpyDeviceToDevice, cuda::gpu(0).stream()),
                  "copying");
  };
  return 2.0 * bytes / median_seconds(copy);
}

double dense_rate(DType dtype) {
  constexpr std::int64_t width = 8192;
  Generator generator{4, 1};
  const auto matrix = [&] { return uniform({width, width}, -1, 1, generator, dtype, gpu); };
  const Tensor a = matrix(), b = matrix(), y = Tensor::empty({width, width}, dtype, gpu);
  const double seconds = median_seconds([&] { runtime(gpu).kernels().matmul(a.view(), b.view(), y.view()); });
  return 2.0 * width * width * width / seconds;
}

double launch_seconds() {
  constexpr std::size_t launches = 256;
  return median_seconds([] { launch_empty(std::vector<Replay::Launch>(launches, {dim3(1), dim3(32), 0})); }) / launches;
}

const Limits& limits(DType dtype) {
  static const double bytes = copy_rate();
  static std::map<DType, Limits> measured;
  const auto [found, is_new] = measured.try_emplace(dtype);
  if (is_new) found->second = {bytes, dense_rate(dtype)};
  return found->second;
}

}  // namespace graft::bench
