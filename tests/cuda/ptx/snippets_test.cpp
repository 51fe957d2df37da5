// Kernels as nvcc compiles them, against the host.
#include "support/snippets.h"

#include <cmath>
#include <numeric>
#include <random>

#include "graft/core/dtype.h"

namespace graft::ptx {
namespace {

std::vector<float> numbers(std::size_t count, float from = -3, float to = 3, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(from, to);
  std::vector<float> values(count);
  for (float& value : values) value = uniform(random);
  return values;
}

struct Job {
  const float* x;
  float* y;
  int n;
  float scale;
  char shift[5];
};

TEST(Snippets, AStructByValueConstantsAndAVariable) {
  const Module module = snippet("scalar");
  Memory memory;
  const auto x = numbers(77);
  std::vector<float> y(77);
  Job job{memory.global(std::span(std::as_const(x)), "x"), memory.undefined(std::span(y), "y"), 77, 1.5f, {1, 2, 3, 4, -5}};
  const auto report = run(module, "scale", {.grid = {3}, .block = {20}}, memory, job);
  for (int i = 0; i < 77; ++i) EXPECT_EQ(y[i], std::fma(x[i], 1.5f, float(1 << i % 8)) + float(job.shift[i % 5])) << i;
  EXPECT_GT(report.instructions, 0u);
  EXPECT_GT(report.lane_operations, report.instructions);
  EXPECT_EQ(memory.unwritten(job.y), 0u);

  run(module, "scale", {.grid = {1}, .block = {1}}, memory, job);
  std::uint32_t launches = 0;
  std::memcpy(&launches, memory.symbol(module, "launches").data(), 4);
  EXPECT_EQ(launches, 42u) << "variables keep their values from launch to launch";
}

TEST(Snippets, RowsAreSummed) {
  constexpr int rows = 3, columns = 1000;
  Memory memory;
  const auto x = numbers(rows * columns);
  std::vector<float> sums(rows);
  run(snippet("scalar"), "sum_rows", {.grid = {rows}, .block = {256}}, memory, memory.global(std::span(x), "x"),
      memory.undefined(std::span(sums), "sums"), columns);
  for (int row = 0; row < rows; ++row)
    EXPECT_NEAR(sums[row], std::accumulate(x.begin() + row * columns, x.begin() + (row + 1) * columns, 0.0), 1e-3);
}

TEST(Snippets, BytesAreTransposed) {
  constexpr int rows = 45, columns = 70;
  std::vector<std::uint8_t> x(rows * columns), y(rows * columns);
  std::iota(x.begin(), x.end(), std::uint8_t(0));
  Memory memory;
  run(snippet("scalar"), "transpose", {.grid = {3, 2}, .block = {32, 8}}, memory, memory.global(std::span(std::as_const(x)), "x"),
      memory.undefined(std::span(y), "y"), rows, columns);
  for (int row = 0; row < rows; ++row)
    for (int column = 0; column < columns; ++column) ASSERT_EQ(y[column * rows + row], x[row * columns + column]);
}

int collatz(int n) {
  int steps = 0;
  while (n != 1) n = n % 2 ? 3 * n + 1 : n / 2, ++steps;
  return steps;
}

TEST(Snippets, LanesDivergeAndMeetAgain) {
  constexpr int n = 100;
  std::vector<int> x(n), y(n);
  for (int i = 0; i < n; ++i) x[i] = 1 + i * 37 % 91;
  Memory memory;
  run(snippet("scalar"), "diverge", {.grid = {2}, .block = {64}}, memory, memory.global(std::span(std::as_const(x)), "x"),
      memory.undefined(std::span(y), "y"), n);
  for (int i = 0; i < n; ++i) {
    int local[8];
    for (int j = 0; j < 8; ++j) local[(j + x[i]) % 8] = j * i;
    int value = local[i % 8];
    switch (x[i] % 7) {
      case 0: value += collatz(i + 1); break;
      case 1: value = -value; break;
      case 2: value ^= 0x55; break;
      case 3: value = __builtin_popcount(unsigned(value)); break;
      case 4: value = value / (i % 5 + 1); break;
      case 5: value = __builtin_clz(unsigned(value | 1)); break;
      default: value = collatz(x[i]);
    }
    EXPECT_EQ(y[i], value) << i;
  }
}

TEST(Snippets, MathematicsIsTheHosts) {
  auto x = numbers(64, -5, 5);
  x[3] = 1e6f, x[4] = -3e8f, x[5] = 0, x[6] = 123456;
  const int n = int(x.size());
  std::vector<float> y(10 * x.size());
  std::vector<double> z(x.size());
  Memory memory;
  run(snippet("scalar"), "mathematics", {.grid = {2}, .block = {32}}, memory, memory.global(std::span(std::as_const(x)), "x"),
      memory.undefined(std::span(y), "y"), memory.undefined(std::span(z), "z"), n);
  for (int i = 0; i < n; ++i) {
    const float v = x[i], *out = y.data() + 10 * i;
    const double wanted[] = {std::sin(double(v)),
                             std::exp(-std::fabs(double(v))),
                             std::log(std::fabs(double(v)) + 1),
                             std::tanh(double(v)),
                             std::pow(std::fabs(double(v)), 0.3),
                             std::sqrt(std::fabs(double(v))) / 3,
                             std::erf(double(v)),
                             std::fmod(v, 1.7f)};
    for (int at = 0; at < 8; ++at) EXPECT_NEAR(out[at], wanted[at], 2e-6 * (1 + std::fabs(wanted[at]))) << at << " of " << v;
    if (std::fabs(v) < 100) {
      EXPECT_EQ(out[8], float(f16(std::fma(float(f16(v)), 0.5f, 1.0f))));
      EXPECT_EQ(out[9], float(bf16(float(bf16(v)) + 1)));
    }
    EXPECT_DOUBLE_EQ(z[i], std::exp(double(-std::fabs(v))) / (std::sqrt(double(std::fabs(v))) + 3));
  }
}

TEST(Snippets, AtomicsCount) {
  std::vector<int> x(500);
  std::iota(x.begin(), x.end(), 0);
  std::vector<unsigned> counts(16);
  std::vector<float> total(1);
  Memory memory;
  run(snippet("scalar"), "histogram", {.grid = {3}, .block = {96}}, memory, memory.global(std::span(std::as_const(x)), "x"), 500,
      memory.global(std::span(counts), "counts"), memory.global(std::span(total), "total"));
  for (unsigned bin = 0; bin < 16; ++bin) EXPECT_EQ(counts[bin], bin < 500 % 16 ? 32u : 31u);
  EXPECT_EQ(total[0], 250);
}

TEST(Snippets, BlocksWaitForEachOther) {
  const std::vector<float> x = {1, 2, 3, 4};
  std::vector<float> sum(1);
  std::vector<unsigned> flag(1);
  Memory memory;
  const auto go = [&](unsigned resident) {
    flag[0] = 0, sum[0] = 0;
    run(snippet("scalar"), "chain", {.grid = {4}, .block = {32}, .resident_blocks = resident}, memory,
        memory.global(std::span(flag), "flag"), memory.global(std::span(sum), "sum"), memory.global(std::span(x), "x"));
  };
  go(4);
  EXPECT_EQ(sum[0], ((4 / 2.0f + 3) / 2 + 2) / 2 + 1);
  fault_of([&] { go(3); }, {"deadlock"});
}

TEST(Snippets, FencesHandDataOn) {
  std::vector<float> y(32);
  Memory memory;
  run(snippet("scalar"), "message", {.block = {64}}, memory, memory.undefined(std::span(y), "y"));
  for (int i = 0; i < 32; ++i) EXPECT_EQ(y[i], 2 * i);
}

std::vector<bf16> halves(std::size_t count, unsigned seed) {
  std::vector<bf16> values;
  for (const float value : numbers(count, -2, 2, seed)) values.push_back(bf16(value));
  return values;
}

struct Product {
  int m = 32, n = 24, k = 80;
  std::vector<bf16> a = halves(std::size_t(m * k), 3), b = halves(std::size_t(k * n), 4);
  std::vector<float> c = std::vector<float>(std::size_t(m * n));
  double wanted(int row, int column) const {
    double sum = 0;
    for (int x = 0; x < k; ++x) sum += double(float(a[std::size_t(row * k + x)])) * float(b[std::size_t(x * n + column)]);
    return sum;
  }
  void run(const char* kernel) {
    Memory memory;
    ptx::run(snippet("tensor"), kernel, {.grid = {unsigned(n / 8), unsigned(m / 16)}, .block = {32}}, memory,
             memory.global(std::span(std::as_const(a)), "a"), memory.global(std::span(std::as_const(b)), "b"),
             memory.undefined(std::span(c), "c"), k, n);
  }
  double worst() const {
    double worst = 0;
    for (int row = 0; row < m; ++row)
      for (int column = 0; column < n; ++column)
        worst = std::max(worst, std::fabs(c[std::size_t(row * n + column)] - wanted(row, column)));
    return worst;
  }
};

TEST(Snippets, TensorCoresMultiply) {
  Product product;
  product.run("multiply_right");
  EXPECT_LT(product.worst(), 1e-4);
}

TEST(Snippets, ASwappedFragmentIsFound) {
  Product product;
  product.run("multiply_swapped");
  EXPECT_GT(product.worst(), 1);
}

TEST(Snippets, TilesAreTransposed) {
  std::vector<std::uint32_t> x(32), z(32);
  std::vector<std::uint16_t> y(64);
  for (unsigned i = 0; i < 32; ++i) x[i] = 2 * i | (2 * i + 1) << 16;  // element (row, column) is 8 row + column
  Memory memory;
  run(snippet("tensor"), "transpose_tiles", {.block = {32}}, memory, memory.global(std::span(std::as_const(x)), "x"),
      memory.undefined(std::span(y), "y"), memory.undefined(std::span(z), "z"));
  for (unsigned lane = 0; lane < 32; ++lane) {
    const unsigned row = lane / 4, column = lane % 4 * 2;
    EXPECT_EQ(z[lane], (8 * column + row) | (8 * (column + 1) + row) << 16);
    EXPECT_EQ(y[2 * lane], 8 * column + row);
    EXPECT_EQ(y[2 * lane + 1], 8 * (column + 1) + row);
  }
}

}  // namespace
}  // namespace graft::ptx
