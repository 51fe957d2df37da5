#include <cmath>

#include "graft/tests/core/kernel_operands.h"

namespace graft {
namespace {

using namespace test;

/// Sum, maximum and minimum over the dimensions where `kept` has extent 1, element by element in double.
std::vector<double> reference(ReduceOp op, const Guarded& x, const Sizes& kept) {
  std::int64_t outputs = 1;
  for (auto size : kept) outputs *= size;
  std::vector<double> y(outputs);
  std::vector<bool> met(outputs);
  const auto values = x.values();
  for (std::size_t flat = 0; flat < values.size(); ++flat) {
    std::int64_t rest = static_cast<std::int64_t>(flat), at = 0, step = 1;
    for (int d = x.view().rank - 1; d >= 0; --d) {
      if (kept[d] != 1) at += rest % x.view().sizes[d] * step, step *= kept[d];
      rest /= x.view().sizes[d];
    }
    const double value = values[flat];
    if (!met[at]) y[at] = value;
    else y[at] = op == ReduceOp::sum ? y[at] + value : op == ReduceOp::max ? std::max(y[at], value) : std::min(y[at], value);
    met[at] = true;
  }
  return y;
}

struct Case {
  Sizes sizes, kept;
};
const Case cases[] = {
    {{}, {}},
    {{1}, {1}},
    {{1000}, {1}},
    {{70001}, {1}},
    {{1500, 3}, {1, 3}},
    {{1500, 3}, {1500, 1}},
    {{3, 1500}, {1, 1500}},
    {{3, 1500}, {3, 1}},
    {{40, 1, 30}, {40, 1, 1}},
    {{4, 300, 5, 6}, {4, 1, 5, 1}},
    {{4, 300, 5, 6}, {1, 300, 1, 6}},
    {{6, 70, 33}, {1, 1, 33}},
    {{6, 70, 33}, {6, 1, 1}},
    {{2, 3, 2, 3, 2, 3}, {2, 1, 2, 1, 2, 1}},
    {{5, 7}, {5, 7}},
};

TEST(KernelsReduce, EveryOperationDtypeAndLayout) {
  for (const Case& test : cases)
    for (ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min})
      for (DType dtype : floating)
        for (Layout from : layouts)
          for (Layout to : {Layout::dense, Layout::gaps}) {
            SCOPED_TRACE(
                fmt::format("case {} op {} {} layout {}", &test - cases, static_cast<int>(op), dtype, static_cast<int>(from)));
            const Guarded x = numbers(dtype, test.sizes, 1, from), y = operand(dtype, test.kept, to);
            tested_kernels().reduce(op, x.view(), y.view());
            // Sums of numbers below 1: rounding of about √n terms' worth, in the accumulator's precision for halves.
            const double depth = std::sqrt(static_cast<double>(x.view().count()));
            expect_near(y, reference(op, x, test.kept), op != ReduceOp::sum ? 0 : is_half(dtype) ? 1.5 : 2 + depth);
          }
}

TEST(KernelsReduce, IntegersAreExactAndBoolsCount) {
  const std::int64_t large = (std::int64_t{1} << 60) + 1;
  const Tensor x = Tensor::from<std::int64_t>({large, 2, -3, 4}, {2, 2}), y = Tensor::empty({2, 1}, DType::i64);
  tested_kernels().reduce(ReduceOp::sum, x.view(), y.view());
  EXPECT_EQ(y.to_vector<std::int64_t>(), (std::vector<std::int64_t>{large + 2, 1}));
  tested_kernels().reduce(ReduceOp::max, x.view(), y.view());
  EXPECT_EQ(y.to_vector<std::int64_t>(), (std::vector<std::int64_t>{large, 4}));
  const Tensor truth = Tensor::full({300}, 1, DType::boolean), count = Tensor::empty({1}, DType::i64);
  tested_kernels().reduce(ReduceOp::sum, truth.view(), count.view());
  EXPECT_EQ(count.item(), 300);
  const Tensor bytes = Tensor::full({300}, 200, DType::u8), sum = Tensor::empty({1}, DType::i64);
  tested_kernels().reduce(ReduceOp::sum, bytes.view(), sum.view());
  EXPECT_EQ(sum.item(), 60000);
}

TEST(KernelsReduce, NanSpreadsAndInfinityIsOrdered) {
  for (std::int64_t at : {0, 5, 63, 64, 99}) {
    const Tensor x = Tensor::full({100}, 1), y = Tensor::empty({1});
    x.data<float>()[at] = NAN;
    for (ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
      tested_kernels().reduce(op, x.view(), y.view());
      EXPECT_TRUE(std::isnan(y.item())) << at;
    }
    x.data<float>()[at] = -INFINITY;
    tested_kernels().reduce(ReduceOp::min, x.view(), y.view());
    EXPECT_EQ(y.item(), -INFINITY);
    tested_kernels().reduce(ReduceOp::max, x.view(), y.view());
    EXPECT_EQ(y.item(), 1);
  }
}

TEST(KernelsReduce, NothingSumsToZeroAndHasNoMaximum) {
  const Tensor x = Tensor::empty({3, 0}), y = Tensor::full({3, 1}, 9);
  tested_kernels().reduce(ReduceOp::sum, x.view(), y.view());
  EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{0, 0, 0}));
  expect_error<ValueError>([&] { tested_kernels().reduce(ReduceOp::max, x.view(), y.view()); },
                           "max: no elements to choose from");
  const Tensor index = Tensor::empty({3}, DType::i64);
  expect_error<ValueError>([&] { tested_kernels().argmax(x.view(), index.view()); }, "argmax: no elements to choose from");
}

TEST(KernelsReduce, LongSumsKeepTheirPrecision) {
  // 2²² equal terms: a running float sum would be off in the third digit.
  const Tensor x = Tensor::full({1 << 22}, 0.1f), y = Tensor::empty({1});
  tested_kernels().reduce(ReduceOp::sum, x.view(), y.view());
  const double exact = static_cast<double>(0.1f) * (1 << 22);
  EXPECT_NEAR(y.item(), exact, 1e-5 * exact);
}

TEST(KernelsReduceThreads, SameBitsForAnyThreadsAndIsa) {
  const auto compute = [] {
    std::vector<double> all;
    for (const Sizes& kept : {Sizes{1, 1, 1}, Sizes{90, 1, 1}, Sizes{1, 70, 1}, Sizes{1, 1, 83}, Sizes{1, 70, 83}}) {
      const Guarded x = numbers(DType::f32, {90, 70, 83}, 1), y = operand(DType::f32, kept);
      tested_kernels().reduce(ReduceOp::sum, x.view(), y.view());
      const auto values = y.values();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  expect_same_for_any_threads(compute);
  expect_same_for_any_isa(compute);
}

TEST(KernelsReduce, ArgmaxIsTheFirstOfEquals) {
  for (DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i8, DType::u8}) {
    const Tensor x = Tensor::empty({3, 2100}, dtype), index = Tensor::empty({3}, DType::i64);
    tested_kernels().fill(x.view(), 1);
    const auto put = [&](std::int64_t row, std::int64_t column) { x.alias({}, {}, row * 2100 + column).fill_(2); };
    put(0, 0), put(0, 5), put(1, 2099), put(2, 1024), put(2, 1025);
    tested_kernels().argmax(x.view(), index.view());
    EXPECT_EQ(index.to_vector<std::int64_t>(), (std::vector<std::int64_t>{0, 2099, 1024})) << name(dtype);
  }
  const Tensor x = Tensor::from<float>({1, NAN, INFINITY, NAN}, {4}), index = Tensor::empty({}, DType::i64);
  tested_kernels().argmax(x.view(), index.view());
  EXPECT_EQ(index.item(), 1);
}

}  // namespace
}  // namespace graft
