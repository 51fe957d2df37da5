// mbarriers, bulk copies and wgmma: kernels of sm_90a against the host, and their faults.
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include "graft/core/dtype.h"

#include "support/snippets.h"

namespace graft::ptx {
namespace {

class Pipelines : public testing::Test {
 protected:
  static constexpr int steps = 7, width = 64;
  std::vector<float> x = std::vector<float>(steps * width), y = std::vector<float>(steps * width);
  Memory memory;
  Module module = snippet("bulk_90a");

  Pipelines() { std::iota(x.begin(), x.end(), 0.0f); }
  void run(const char* kernel) {
    ptx::run(module, kernel, {.block = {96}}, memory, memory.global(std::span(std::as_const(x)), "x"),
             memory.undefined(std::span(y), "y"), steps);
  }
  void store(const char* kernel) { ptx::run(module, kernel, {.block = {64}}, memory, memory.undefined(std::span(y), "y")); }
};

TEST_F(Pipelines, HandStagesOn) {
  run("pipeline_none");
  for (int i = 0; i < steps * width; ++i) ASSERT_EQ(y[std::size_t(i)], 2 * x[std::size_t(i ^ 1)]);
}

TEST_F(Pipelines, StageOverwrittenTooEarly) {
  fault_of([&] { run("pipeline_full_for_empty"); }, {"of shared memory", "bulk copy"});
}

TEST_F(Pipelines, StageReadBeforeItIsFull) {
  fault_of([&] { run("pipeline_full_not_waited"); }, {"reads byte", "of shared memory, which nobody has written"});
}

TEST_F(Pipelines, BytesThatNeverCome) {
  fault_of([&] { run("pipeline_too_few_bytes"); }, {"deadlock: no warp can go on"});
}

TEST_F(Pipelines, ArrivalsThatNeverCome) {
  fault_of([&] { run("pipeline_arrival_missing"); }, {"deadlock: no warp can go on", "warp 0 is at line"});
}

TEST_F(Pipelines, OneLaneArrivesForItsWarp) {
  fault_of([&] { run("pipeline_arrival_before_the_warp"); }, {"race: writes byte", "reads, and nothing orders the two"});
}

TEST_F(Pipelines, MissingFenceBehindInit) {
  fault_of([&] { run("pipeline_init_without_fence"); }, {"the async proxy uses the mbarrier", "without a fence.proxy.async"});
}

TEST_F(Pipelines, CopiesOutOfSharedMemory) {
  store("store_none");
  for (int i = 0; i < width; ++i) {
    ASSERT_EQ(y[std::size_t(i)], i);
    ASSERT_EQ(y[std::size_t(width + i)], 100 + i);
  }
  fault_of([&] { store("store_without_fence"); },
           {"the async proxy reads byte 0 of shared memory, which lane 0 of warp 0 wrote, without a fence.proxy.async"});
  fault_of([&] { store("store_not_waited"); }, {"race: writes byte", "which a bulk copy of warp 0 reads"});
}

struct Layout {
  int bytes;
  unsigned leading_a, stride_a, leading_b, stride_b, swizzle;
  int step_a, step_b;
};

/// How an operand of 64 rows (or columns) and 64 k lies, and the offset of its element.
struct Placement {
  const char* name;
  bool transposed;
  unsigned swizzle, leading, stride;
  int step;
  std::function<unsigned(unsigned row, unsigned k)> offset;  // bytes, before the swizzle
};
constexpr unsigned size = 64;

unsigned swizzled(unsigned swizzle, unsigned offset) {
  const unsigned bits = swizzle == 1 ? 7 : swizzle == 2 ? 3 : swizzle == 3 ? 1 : 0;
  return offset ^ (offset >> 7 & bits) << 4;
}

/// The ways in which CUTLASS's canonical layouts place 64 x 64 elements of two bytes.
std::vector<Placement> placements() {
  std::vector<Placement> list;
  // Core matrices of 8 rows by 16 bytes, 128 bytes each: those of one k behind each other.
  list.push_back({"k_none", false, 0, 1024, 128, 2048,
                  [](unsigned row, unsigned k) { return k / 8 * 1024 + row / 8 * 128 + row % 8 * 16 + k % 8 * 2; }});
  list.push_back({"mn_none", true, 0, 1024, 128, 2048,
                  [](unsigned row, unsigned k) { return k / 8 * 1024 + row / 8 * 128 + k % 8 * 16 + row % 8 * 2; }});
  // Rows (or columns) of 128, 64, 32 bytes, in blocks of so many elements: `wide` of them.
  for (const unsigned swizzle : {1u, 2u, 3u}) {
    const unsigned width = 256u >> swizzle, wide = width / 2;
    // Along k: blocks of 64 rows of `width` bytes; within one, 16 k are 32 bytes. Only steps within a block are uniform.
    list.push_back({swizzle == 1   ? "k_128"
                    : swizzle == 2 ? "k_64"
                                   : "k_32",
                    false, swizzle, 16, 8 * width, swizzle == 1 ? 32 : 0,
                    [=](unsigned row, unsigned k) { return k / wide * (64 * width) + row * width + k % wide * 2; }});
    // Along m or n: blocks of `wide` elements for 8 k; those of one k behind each other.
    list.push_back({swizzle == 1   ? "mn_128"
                    : swizzle == 2 ? "mn_64"
                                   : "mn_32",
                    true, swizzle, 8 * width, 8 * width * (size / wide), int(2 * 8 * width * (size / wide)),
                    [=](unsigned row, unsigned k) {
                      return k / 8 * (8 * width * (size / wide)) + row / wide * (8 * width) + k % 8 * width + row % wide * 2;
                    }});
  }
  return list;
}

struct Operands {
  std::vector<bf16> a = std::vector<bf16>(size * size), b = a;
  Operands() {
    std::mt19937 random(5);
    for (auto* values : {&a, &b})
      for (bf16& value : *values) value = bf16(float(int(random() % 65) - 32) / 16);
  }
  /// a and b are [64][k]: the product is a b^T.
  float wanted(unsigned row, unsigned column, unsigned k) const {
    double sum = 0;
    for (unsigned x = 0; x < k; ++x) sum += double(float(a[row * size + x])) * float(b[column * size + x]);
    return float(sum);
  }
};

std::vector<bf16> placed(const std::vector<bf16>& values, const Placement& placement) {
  std::vector<bf16> lying(values.size());
  for (unsigned row = 0; row < size; ++row)
    for (unsigned k = 0; k < size; ++k) lying[swizzled(placement.swizzle, placement.offset(row, k)) / 2] = values[row * size + k];
  return lying;
}

// Rows of A one behind the other, for A in registers.
const Placement plain{"registers", false, 0, 0, 0, 0, [](unsigned row, unsigned k) { return (row * size + k) * 2; }};

void multiply(const char* kernel, const Placement& a, const Placement& b, unsigned k, unsigned swizzle, std::vector<float>& c) {
  const Operands operands;
  const auto lying_a = placed(operands.a, a), lying_b = placed(operands.b, b);
  Memory memory;
  const Layout layout{int(size * size * 2), a.leading, a.stride, b.leading, b.stride, swizzle, a.step, b.step};
  run(snippet("wgmma_90a"), kernel, {.block = {128}, .dynamic_shared = 2 * size * size * 2}, memory,
      memory.global(std::span(lying_a), "a"), memory.global(std::span(lying_b), "b"), int(k), layout,
      memory.undefined(std::span(c), "c"));
  for (unsigned row = 0; row < size; ++row)
    for (unsigned column = 0; column < size; ++column)
      ASSERT_EQ(c[row * size + column], operands.wanted(row, column, k))
          << a.name << " " << b.name << " " << row << " " << column;
}

TEST(GroupProducts, OperandsLieInEveryWay) {
  std::vector<float> c(size * size);
  for (const Placement& a : placements())
    for (const Placement& b : placements()) {
      if (a.swizzle != b.swizzle) continue;
      const std::string kernel = std::string(a.transposed ? "mn" : "k") + (b.transposed ? "_mn" : "_k");
      // Where k16 steps are not all of one length, as many as are.
      const unsigned k = (!a.transposed || !b.transposed) && a.swizzle > 1 ? 16 : 64;
      multiply(kernel.c_str(), a, b, k, a.swizzle, c);
    }
}

TEST(GroupProducts, AComesOutOfRegisters) {
  std::vector<float> c(size * size);
  for (const Placement& b : placements())
    if (b.swizzle <= 1) multiply(b.transposed ? "registers_mn" : "registers_k", plain, b, 64, b.swizzle, c);
}

TEST(GroupProducts, Faults) {
  std::vector<float> c(size * size);
  const Placement k128 = placements()[2];
  ASSERT_STREQ(k128.name, "k_128");
  const auto go = [&](const char* kernel) { multiply(kernel, k128, k128, 64, 1, c); };
  fault_of([&] { go("without_proxy_fence"); }, {"the async proxy reads byte", "without a fence.proxy.async between"});
  fault_of([&] { go("without_wait"); }, {"to which a wgmma accumulates whose group was not waited for"});
  fault_of([&] { go("without_fence"); }, {"no wgmma.fence stands before this wgmma"});
  fault_of([&] { go("written_too_early"); },
           {"race: writes byte", "of shared memory, which a wgmma of warp", "reads, and nothing orders the two"});
}

}  // namespace
}  // namespace graft::ptx
