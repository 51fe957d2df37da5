#include <cmath>
#include <limits>

#include "graft/tests/core/kernel_operands.h"

namespace graft {
namespace {

using namespace test;

TEST(KernelsCopy, EveryDtypeIntoEveryOther) {
  for (DType from : all_dtypes)
    for (DType to : all_dtypes)
      for (std::int64_t n : {1, 7, 40}) {
        const bool is_bool = from == DType::boolean || to == DType::boolean;
        const Tensor x = Tensor::empty({n}, from), y = Tensor::empty({n}, to);
        std::vector<double> wanted(n);
        const Tensor values = Tensor::empty({n}, DType::f64);
        for (std::int64_t i = 0; i < n; ++i) values.data<double>()[i] = wanted[i] = static_cast<double>(is_bool ? i % 2 : i);
        tested_kernels().copy(values.view(), x.view());
        tested_kernels().copy(x.view(), y.view());
        EXPECT_EQ(y.to_vector<double>(), wanted) << name(from) << " to " << name(to);
      }
}

TEST(KernelsCopy, EveryLayoutIntoEveryOther) {
  for (DType dtype : {DType::f32, DType::f16, DType::f64})
    for (Layout from : layouts)
      for (Layout to : layouts)
        for (const Sizes& sizes :
             {Sizes{}, Sizes{5}, Sizes{1}, Sizes{0}, Sizes{3, 4}, Sizes{2, 1, 5, 3}, Sizes{70, 65}, Sizes{2, 3, 2, 2, 3, 2}}) {
          const Guarded x = numbers(dtype, sizes, 3, from), y = operand(dtype, sizes, to);
          tested_kernels().copy(x.view(), y.view());
          EXPECT_EQ(y.values(), x.values());
          EXPECT_TRUE(y.intact());
        }
}

TEST(KernelsCopy, BroadcastsThroughStrideZero) {
  const Tensor x = Tensor::from<float>({1, 2, 3}, {3}), y = Tensor::empty({2, 3, 2});
  tested_kernels().copy(x.alias({2, 3, 2}, {0, 1, 0}, 0).view(), y.view());
  EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{1, 1, 2, 2, 3, 3, 1, 1, 2, 2, 3, 3}));
}

TEST(KernelsCopy, FloatingToIntegerTruncatesAndSaturates) {
  const Tensor x = Tensor::from<double>({1.9, -1.9, 300, -300, 1e30, -1e30, std::nan(""), INFINITY}, {8});
  const auto as = [&](DType dtype) {
    const Tensor y = Tensor::empty({8}, dtype);
    tested_kernels().copy(x.view(), y.view());
    return y.to_vector<std::int64_t>();
  };
  EXPECT_EQ(as(DType::i8), (std::vector<std::int64_t>{1, -1, 127, -128, 127, -128, 0, 127}));
  EXPECT_EQ(as(DType::u8), (std::vector<std::int64_t>{1, 0, 255, 0, 255, 0, 0, 255}));
  constexpr auto least = std::numeric_limits<std::int64_t>::min(), most = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(as(DType::i64), (std::vector<std::int64_t>{1, -1, 300, -300, most, least, 0, most}));
  EXPECT_EQ(as(DType::boolean), (std::vector<std::int64_t>{1, 1, 1, 1, 1, 1, 1, 1}));
}

TEST(KernelsCopy, IntegersWrapAndKeepAllBits) {
  const std::int64_t large = (std::int64_t{1} << 62) + 1;
  const Tensor x = Tensor::from<std::int64_t>({large, 257, -1}, {3}), wide = Tensor::empty({3}, DType::i64),
               narrow = Tensor::empty({3}, DType::u8);
  tested_kernels().copy(x.view(), wide.view());
  tested_kernels().copy(x.view(), narrow.view());
  EXPECT_EQ(wide.to_vector<std::int64_t>(), (std::vector<std::int64_t>{large, 257, -1}));
  EXPECT_EQ(narrow.to_vector<std::int64_t>(), (std::vector<std::int64_t>{1, 1, 255}));
}

TEST(KernelsCopy, HalvesAreTheSameOnEveryIsa) {
  // Every pattern widened, and every pattern of the upper half of a float (with a rounding tail) narrowed.
  const Tensor halves = Tensor::empty({65536}, DType::f16), floats = Tensor::empty({65536}, DType::f32);
  for (std::int64_t i = 0; i < 65536; ++i) {
    halves.data<f16>()[i].bits = static_cast<std::uint16_t>(i);
    floats.data<float>()[i] = std::bit_cast<float>(static_cast<std::uint32_t>(i << 16 | (i * 40503 & 0xffff)));
  }
  for (Isa isa : isas()) {
    const Pinned pinned(isa);
    const Tensor wide = Tensor::empty({65536}, DType::f32), narrow = Tensor::empty({65536}, DType::f16);
    tested_kernels().copy(halves.view(), wide.view());
    tested_kernels().copy(floats.view(), narrow.view());
    for (std::int64_t i = 0; i < 65536; ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(wide.data<float>()[i]),
                std::bit_cast<std::uint32_t>(static_cast<float>(halves.data<f16>()[i])))
          << i;
      ASSERT_EQ(narrow.data<f16>()[i].bits, f16(floats.data<float>()[i]).bits) << i;
    }
  }
}

TEST(KernelsCopy, Fills) {
  for (DType dtype : floating)
    for (Layout layout : layouts) {
      const Guarded y = operand(dtype, {3, 50, 7}, layout);
      tested_kernels().fill(y.view(), -0.5);
      EXPECT_EQ(y.values(), std::vector<double>(3 * 50 * 7, -0.5));
      EXPECT_TRUE(y.intact());
    }
  const Tensor whole = Tensor::empty({5}, DType::i16);
  tested_kernels().fill(whole.view(), 7);
  EXPECT_EQ(whole.to_vector<std::int64_t>(), std::vector<std::int64_t>(5, 7));
}

}  // namespace
}  // namespace graft
