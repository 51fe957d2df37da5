#include "graft/core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "graft/tests/support/errors.h"

namespace graft {
namespace {

/// What a half format says a pattern means, from its definition.
struct Format {
  int exponent_bits, fraction_bits;
  double value(std::uint32_t bits) const {
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const std::uint32_t fraction = bits & ((1u << fraction_bits) - 1),
                        exponent = bits >> fraction_bits & ((1u << exponent_bits) - 1);
    const double sign = bits >> 15 ? -1 : 1;
    if (exponent == (1u << exponent_bits) - 1) return fraction ? std::nan("") : sign * std::numeric_limits<double>::infinity();
    const double significand = (exponent ? 1 : 0) + std::ldexp(fraction, -fraction_bits);
    return sign * std::ldexp(significand, static_cast<int>(exponent ? exponent : 1) - bias);
  }
};
constexpr Format binary16{5, 10}, brain{8, 7};

template <class Half>
void expect_all_values(Format format) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    Half half;
    half.bits = static_cast<std::uint16_t>(bits);
    const float value = half;
    const double meant = format.value(bits);
    if (std::isnan(meant)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(std::isnan(static_cast<float>(Half(value)))) << bits;
    } else {
      ASSERT_EQ(static_cast<double>(value), meant) << bits;
      ASSERT_EQ(std::signbit(value), bits >> 15 == 1) << bits;
      ASSERT_EQ(Half(value).bits, bits) << bits;
    }
  }
}

// Between two neighbours, the half way point goes to the even one and everything else to the nearer one.
template <class Half>
void expect_rounding(Format format, std::uint32_t infinity) {
  for (std::uint32_t sign : {0u, 0x8000u}) {
    for (std::uint32_t below = 0; below + 1 < infinity; ++below) {
      const double low = format.value(below), high = format.value(below + 1);
      const auto middle = static_cast<float>((low + high) / 2);
      ASSERT_EQ(static_cast<double>(middle), (low + high) / 2);
      const float flip = sign ? -1.0f : 1.0f;
      const std::uint32_t even = below % 2 == 0 ? below : below + 1;
      ASSERT_EQ(Half(flip * middle).bits, sign | even) << below;
      ASSERT_EQ(Half(flip * std::nextafter(middle, 0.0f)).bits, sign | below) << below;
      ASSERT_EQ(Half(flip * std::nextafter(middle, INFINITY)).bits, sign | (below + 1)) << below;
    }
  }
}

TEST(Half, EveryBinary16Converts) { expect_all_values<f16>(binary16); }
TEST(Half, EveryBfloat16Converts) { expect_all_values<bf16>(brain); }
TEST(Half, Binary16RoundsToNearestEven) { expect_rounding<f16>(binary16, 0x7c00); }
TEST(Half, Bfloat16RoundsToNearestEven) { expect_rounding<bf16>(brain, 0x7f80); }

TEST(Half, OverflowsToInfinityHalfWayPastTheLargest) {
  EXPECT_EQ(f16(65519.996f).bits, 0x7bff);
  EXPECT_EQ(f16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(f16(-1e30f).bits, 0xfc00);
  EXPECT_EQ(f16(INFINITY).bits, 0x7c00);
  EXPECT_EQ(bf16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_EQ(bf16(std::bit_cast<float>(0x7f7f7fffu)).bits, 0x7f7f);
  EXPECT_EQ(bf16(-INFINITY).bits, 0xff80);
}

TEST(Half, KeepsNanQuietWithItsSign) {
  for (std::uint32_t bits : {0x7f800001u, 0x7fc00000u, 0xff800001u, 0xffffffffu}) {
    const auto nan = std::bit_cast<float>(bits);
    EXPECT_EQ(f16(nan).bits & 0x7e00, 0x7e00) << bits;
    EXPECT_EQ(f16(nan).bits >> 15, bits >> 31);
    EXPECT_EQ(bf16(nan).bits & 0x7fc0, 0x7fc0) << bits;
    EXPECT_EQ(bf16(nan).bits >> 15, bits >> 31);
  }
}

TEST(DType, SizesAndKinds) {
  EXPECT_EQ(size_of(DType::f64), 8);
  EXPECT_EQ(size_of(DType::bf16), 2);
  EXPECT_EQ(size_of(DType::i16), 2);
  EXPECT_EQ(size_of(DType::boolean), 1);
  EXPECT_TRUE(is_floating(DType::bf16));
  EXPECT_FALSE(is_floating(DType::i64));
  EXPECT_TRUE(is_half(DType::f16));
  EXPECT_FALSE(is_half(DType::f32));
}

TEST(DType, NamesBothWays) {
  for (auto dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::i16, DType::i8, DType::u8,
                     DType::boolean})
    EXPECT_EQ(dtype_from_name(name(dtype)), dtype);
  EXPECT_EQ(dtype_from_name("torch.bfloat16"), DType::bf16);
  EXPECT_EQ(dtype_from_name("float16"), DType::f16);
  EXPECT_EQ(dtype_from_name("uint8"), DType::u8);
  EXPECT_EQ(fmt::format("{}", DType::boolean), "bool");
  test::expect_error<ValueError>([] { dtype_from_name("float8"); }, "'float8' is not an element type");
}

// torch.promote_types, row by row in the order f64 f32 f16 bf16 i64 i32 i16 i8 u8 bool.
TEST(DType, PromotesAsPyTorchDoes) {
  using enum DType;
  constexpr DType order[] = {f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean};
  constexpr DType table[10][10] = {
      {f64, f64, f64, f64, f64, f64, f64, f64, f64, f64},  {f64, f32, f32, f32, f32, f32, f32, f32, f32, f32},
      {f64, f32, f16, f32, f16, f16, f16, f16, f16, f16},  {f64, f32, f32, bf16, bf16, bf16, bf16, bf16, bf16, bf16},
      {f64, f32, f16, bf16, i64, i64, i64, i64, i64, i64}, {f64, f32, f16, bf16, i64, i32, i32, i32, i32, i32},
      {f64, f32, f16, bf16, i64, i32, i16, i16, i16, i16}, {f64, f32, f16, bf16, i64, i32, i16, i8, i16, i8},
      {f64, f32, f16, bf16, i64, i32, i16, i16, u8, u8},   {f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean},
  };
  for (int i = 0; i < 10; ++i)
    for (int j = 0; j < 10; ++j)
      EXPECT_EQ(promote(order[i], order[j]), table[i][j]) << name(order[i]) << " and " << name(order[j]);
}

TEST(DType, DispatchRefusesWhatIsNotInTheList) {
  EXPECT_EQ(dispatch(DType::f16, FloatingTypes{}, "size", []<class T>() { return static_cast<int>(sizeof(T)); }), 2);
  test::expect_error<TypeError>([] { dispatch(DType::i32, FloatingTypes{}, "softmax", []<class T>() {}); },
                                "softmax: does not take elements of type i32");
}

}  // namespace
}  // namespace graft
