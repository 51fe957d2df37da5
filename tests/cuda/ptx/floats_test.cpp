// Floating instructions and conversions against the host's arithmetic.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <ostream>

#include "graft/core/dtype.h"

#include "support/probe.h"

namespace graft::ptx::floats_test {
namespace {

using U = std::uint64_t;
using u32 = std::uint32_t;

float f(U bits) { return std::bit_cast<float>(u32(bits)); }
U bits(float value) { return std::isnan(value) ? 0x7fffffff : std::bit_cast<u32>(value); }
double g(U bits) { return std::bit_cast<double>(bits); }
U bits(double value) { return std::bit_cast<U>(value); }
template <class H>
float half(U raw) {
  H value;
  value.bits = std::uint16_t(raw);
  return float(value);
}
template <class H>
U raw(float value) {
  return std::isnan(value) ? 0x7fff : H(value).bits;
}

/// A float operation in another direction, by the host's own rounding mode.
template <class F>
U directed(int mode, F f) {
  std::fesetround(mode);
  volatile float result = f();
  std::fesetround(FE_TONEAREST);
  return bits(float(result));
}
float flushed(float value) { return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value; }
/// The one that is a number where the other is NaN; -0 below +0.
float lesser(float x, float y) {
  return std::isnan(x) ? y : std::isnan(y) ? x : x == y ? (std::signbit(x) ? x : y) : x < y ? x : y;
}

template <class H>
U pair(U a, U b, float (*apply)(float, float)) {
  return raw<H>(apply(half<H>(a), half<H>(b))) | raw<H>(apply(half<H>(a >> 16), half<H>(b >> 16))) << 16;
}

struct Row {
  const char* code;
  Widths widths;
  int exponent_bits;  // of a
  U (*wanted)(U a, U b, U c);
};
void PrintTo(const Row& row, std::ostream* out) { *out << row.code; }

const Row rows[] = {
    {"add.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) { return bits(f(a) + f(b)); }},
    {"add.rz.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) { volatile float x = f(a), y = f(b); return directed(FE_TOWARDZERO, [&] { return x + y; }); }},
    {"add.rp.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) { volatile float x = f(a), y = f(b); return directed(FE_UPWARD, [&] { return x + y; }); }},
    {"sub.ftz.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) { return bits(flushed(flushed(f(a)) - flushed(f(b)))); }},
    {"mul.rn.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) { return bits(f(a) * f(b)); }},
    {"mul.rm.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) { volatile float x = f(a), y = f(b); return directed(FE_DOWNWARD, [&] { return x * y; }); }},
    {"fma.rn.f32 %d, %a, %b, %c;", {32, 32, 32, 32}, 8, [](U a, U b, U c) { return bits(std::fma(f(a), f(b), f(c))); }},
    {"fma.rz.f32 %d, %a, %b, %c;", {32, 32, 32, 32}, 8, [](U a, U b, U c) {
       volatile float x = f(a), y = f(b), z = f(c);
       return directed(FE_TOWARDZERO, [&] { return std::fma(float(x), float(y), float(z)); });
     }},
    {"fma.rn.sat.f32 %d, %a, %b, %c;", {32, 32, 32, 32}, 8, [](U a, U b, U c) {
       const float value = std::fma(f(a), f(b), f(c));
       return bits(std::isnan(value) || value <= 0 ? 0.0f : std::min(value, 1.0f));
     }},
    {"div.rn.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) { return bits(f(a) / f(b)); }},
    {"div.rp.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) { volatile float x = f(a), y = f(b); return directed(FE_UPWARD, [&] { return x / y; }); }},
    {"rcp.rn.f32 %d, %a;", {32, 32}, 8, [](U a, U, U) { return bits(1 / f(a)); }},
    {"sqrt.rn.f32 %d, %a;", {32, 32}, 8, [](U a, U, U) { return bits(std::sqrt(f(a))); }},
    {"sqrt.rz.f32 %d, %a;", {32, 32}, 8, [](U a, U, U) { volatile float x = f(a); return directed(FE_TOWARDZERO, [&] { return std::sqrt(float(x)); }); }},
    {"min.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) { return bits(lesser(f(a), f(b))); }},
    {"max.NaN.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) {
       return std::isnan(f(a)) || std::isnan(f(b)) ? 0x7fffffff : f(a) == f(b) ? a & (b | 0x7fffffff) : bits(std::fmax(f(a), f(b)));
     }},
    {"abs.f32 %d, %a;", {32, 32}, 8, [](U a, U, U) { return a & 0x7fffffff; }},
    {"neg.f32 %d, %a;", {32, 32}, 8, [](U a, U, U) { return a ^ 0x80000000; }},
    {"copysign.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) { return (a & 0x80000000) | (b & 0x7fffffff); }},
    {"setp.lt.f32 %d, %a, %b;", {1, 32, 32}, 8, [](U a, U b, U) { return U(f(a) < f(b)); }},
    {"setp.neu.f32 %d, %a, %b;", {1, 32, 32}, 8, [](U a, U b, U) { return U(!(f(a) == f(b))); }},
    {"setp.leu.f32 %d, %a, %b;", {1, 32, 32}, 8, [](U a, U b, U) { return U(!(f(a) > f(b))); }},
    {"setp.ne.f32 %d, %a, %b;", {1, 32, 32}, 8, [](U a, U b, U) { return U(f(a) < f(b) || f(a) > f(b)); }},
    {"setp.nan.f32 %d, %a, %b;", {1, 32, 32}, 8, [](U a, U b, U) { return U(std::isnan(f(a)) || std::isnan(f(b))); }},
    {"testp.subnormal.f32 %d, %a;", {1, 32}, 8, [](U a, U, U) { return U(std::fpclassify(f(a)) == FP_SUBNORMAL); }},
    {"add.f64 %d, %a, %b;", {64, 64, 64}, 11, [](U a, U b, U) { return bits(g(a) + g(b)); }},
    {"fma.rn.f64 %d, %a, %b, %c;", {64, 64, 64, 64}, 11, [](U a, U b, U c) { return bits(std::fma(g(a), g(b), g(c))); }},
    {"div.rn.f64 %d, %a, %b;", {64, 64, 64}, 11, [](U a, U b, U) { return bits(g(a) / g(b)); }},
    {"neg.f64 %d, %a;", {64, 64}, 11, [](U a, U, U) { return a ^ U(1) << 63; }},
    {"add.rn.f16 %d, %a, %b;", {16, 16, 16}, 5, [](U a, U b, U) { return raw<f16>(half<f16>(a) + half<f16>(b)); }},
    {"mul.f16x2 %d, %a, %b;", {32, 32, 32}, 5, [](U a, U b, U) { return pair<f16>(a, b, [](float x, float y) { return x * y; }); }},
    {"sub.f16x2 %d, %a, %b;", {32, 32, 32}, 5, [](U a, U b, U) { return pair<f16>(a, b, [](float x, float y) { return x - y; }); }},
    {"min.bf16x2 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) { return pair<bf16>(a, b, lesser); }},
    {"max.NaN.f16 %d, %a, %b;", {16, 16, 16}, 5, [](U a, U b, U) {
       const float x = half<f16>(a), y = half<f16>(b);
       return raw<f16>(std::isnan(x) || std::isnan(y) ? NAN : x == y ? (std::signbit(x) ? y : x) : std::fmax(x, y));
     }},
    {"abs.bf16x2 %d, %a;", {32, 32}, 8, [](U a, U, U) { return a & 0x7fff7fff; }},
    {"neg.f16x2 %d, %a;", {32, 32}, 5, [](U a, U, U) { return a ^ 0x80008000; }},
    {"setp.gt.f16 %d, %a, %b;", {1, 16, 16}, 5, [](U a, U b, U) { return U(half<f16>(a) > half<f16>(b)); }},
    {"setp.lt.f16x2 %q0|%d, %a, %b;", {1, 32, 32}, 5, [](U a, U b, U) { return U(half<f16>(a >> 16) < half<f16>(b >> 16)); }},
    {"cvt.f32.f16 %d, %a;", {32, 16}, 5, [](U a, U, U) { return bits(half<f16>(a)); }},
    {"cvt.f32.bf16 %d, %a;", {32, 16}, 8, [](U a, U, U) { return bits(half<bf16>(a)); }},
    {"cvt.rn.f16.f32 %d, %a;", {16, 32}, 8, [](U a, U, U) { return raw<f16>(f(a)); }},
    {"cvt.rn.bf16.f32 %d, %a;", {16, 32}, 8, [](U a, U, U) { return raw<bf16>(f(a)); }},
    {"cvt.rz.bf16.f32 %d, %a;", {16, 32}, 8, [](U a, U, U) { return std::isnan(f(a)) ? 0x7fff : a >> 16; }},
    {"cvt.rn.f16x2.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) { return raw<f16>(f(a)) << 16 | raw<f16>(f(b)); }},
    {"cvt.rn.relu.bf16x2.f32 %d, %a, %b;", {32, 32, 32}, 8, [](U a, U b, U) {
       const auto relu = [](float x) { return x < 0 ? 0.0f : x; };
       return raw<bf16>(relu(f(a))) << 16 | raw<bf16>(relu(f(b)));
     }},
    {"cvt.rna.tf32.f32 %d, %a;", {32, 32}, 8, [](U a, U, U) -> U {
       return std::isnan(f(a)) ? 0x7fffffff : std::isinf(f(a)) ? a : (a + 0x1000) & ~U(0x1fff);
     }},
    {"cvt.rn.f32.f64 %d, %a;", {32, 64}, 11, [](U a, U, U) { return bits(float(g(a))); }},
    {"cvt.f64.f32 %d, %a;", {64, 32}, 8, [](U a, U, U) { return bits(double(f(a))); }},
    {"cvt.rn.f32.s32 %d, %a;", {32, 32}, 8, [](U a, U, U) { return bits(float(std::int32_t(a))); }},
    {"cvt.rn.f32.u64 %d, %a;", {32, 64}, 11, [](U a, U, U) { return bits(float(a)); }},
    {"cvt.rz.f32.s64 %d, %a;", {32, 64}, 11, [](U a, U, U) { volatile auto x = std::int64_t(a); return directed(FE_TOWARDZERO, [&] { return float(x); }); }},
    {"cvt.rn.f64.u64 %d, %a;", {64, 64}, 11, [](U a, U, U) { return bits(double(a)); }},
    {"cvt.rn.f16.s32 %d, %a;", {16, 32}, 8, [](U a, U, U) { return raw<f16>(float(std::clamp(std::int32_t(a), -1 << 20, 1 << 20))); }},
    {"cvt.rzi.s32.f32 %d, %a;", {32, 32}, 8, [](U a, U, U) -> U {
       return std::isnan(f(a)) ? 0 : u32(std::int32_t(std::clamp(std::trunc(double(f(a))), -2147483648.0, 2147483647.0)));
     }},
    {"cvt.rni.s32.f32 %d, %a;", {32, 32}, 8, [](U a, U, U) -> U {
       return std::isnan(f(a)) ? 0 : u32(std::int32_t(std::clamp(std::nearbyint(double(f(a))), -2147483648.0, 2147483647.0)));
     }},
    {"cvt.rmi.u32.f32 %d, %a;", {32, 32}, 8, [](U a, U, U) -> U { return std::isnan(f(a)) ? 0 : u32(std::clamp(std::floor(double(f(a))), 0.0, 4294967295.0)); }},
    {"cvt.rzi.s64.f64 %d, %a;", {64, 64}, 11, [](U a, U, U) -> U {
       const double x = g(a);
       return std::isnan(x) ? U(1) << 63 : x >= 0x1p63 ? INT64_MAX : x < -0x1p63 ? U(INT64_MIN) : U(std::int64_t(x));
     }},
    {"cvt.rpi.f32.f32 %d, %a;", {32, 32}, 8, [](U a, U, U) { return bits(std::ceil(f(a))); }},
    {"cvt.rzi.s8.f16 %d, %a;", {32, 16}, 5, [](U a, U, U) -> U {
       const float x = half<f16>(a);
       return std::isnan(x) ? 0 : u32(std::int32_t(std::clamp(std::trunc(x), -128.0f, 127.0f)));
     }},
    {"cvt.sat.f32.f32 %d, %a;", {32, 32}, 8, [](U a, U, U) { return bits(std::isnan(f(a)) || f(a) <= 0 ? 0.0f : std::min(f(a), 1.0f)); }},
};

class Floats : public testing::TestWithParam<Row> {};

TEST_P(Floats, AreTheHosts) {
  const Row& row = GetParam();
  const auto values = float_values(row.widths.a, row.exponent_bits);
  const auto got = probe(row.code, row.widths, values);
  for (std::size_t at = 0; at < values.size(); ++at) {
    const auto [a, b, c] = values[at];
    U wanted = row.wanted(a, b, c);
    if (row.widths.d == 64 && std::isnan(g(wanted)) && std::isnan(g(got[at]))) continue;
    ASSERT_EQ(got[at], wanted) << row.code << " of " << std::hex << a << ", " << b << ", " << c;
  }
}

INSTANTIATE_TEST_SUITE_P(Ptx, Floats, testing::ValuesIn(rows), [](const auto& info) {
  std::string name =
      std::string(info.param.code).substr(0, std::string(info.param.code).find(' ')) + "_" + std::to_string(info.index);
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
});

// Sums of products that an f32 does not hold: one rounding, not two. The judge is the host's long double, where that holds them.
template <class H>
void expect_one_rounding(const std::string& code, int exponent_bits) {
  const auto values = float_values(16, exponent_bits);
  const auto got = probe(code, {16, 16, 16, 16}, values);
  for (std::size_t at = 0; at < values.size(); ++at) {
    const auto exact = [&](U bits) { return static_cast<long double>(half<H>(bits)); };
    const long double a = exact(values[at][0]), b = exact(values[at][1]), c = exact(values[at][2]);
    const long double product = a * b, wanted = product + c;  // 64 bits hold what exponents this near need
    const long double scale = std::max(std::fabs(product), std::fabs(c)), small = std::min(std::fabs(product), std::fabs(c));
    if (!(scale < 1e4L) || std::isnan(wanted) || wanted == 0 || (small > 0 && small < scale * 0x1p-30L) || small == 0) continue;
    H low, high;
    low.bits = high.bits = std::uint16_t(got[at]);
    const long double error = std::fabs(static_cast<long double>(float(low)) - wanted);
    for (const int step : {-1, 1}) {
      H next;
      next.bits = std::uint16_t(got[at] + U(step));
      const long double other = std::fabs(static_cast<long double>(float(next)) - wanted);
      ASSERT_TRUE(error < other || (error == other && got[at] % 2 == 0))
          << code << std::hex << " " << values[at][0] << " " << values[at][1] << " " << values[at][2];
    }
  }
}
TEST(Halves, FmaRoundsOnce) {
  expect_one_rounding<f16>("fma.rn.f16 %d, %a, %b, %c;", 5);
  expect_one_rounding<bf16>("fma.rn.bf16 %d, %a, %b, %c;", 8);
}

// Approximate instructions are the host's functions.
TEST(Approximations, AreNear) {
  const auto near = [](const char* code, float from, float to, double (*wanted)(double)) {
    std::vector<Values> values;
    for (int at = 0; at < 200; ++at) values.push_back({bits(from + (to - from) * float(at) / 199), 0, 0});
    const auto got = probe(code, {32, 32}, values);
    for (std::size_t at = 0; at < values.size(); ++at)
      ASSERT_NEAR(f(got[at]), wanted(f(values[at][0])), 1e-6 * (1 + std::fabs(wanted(f(values[at][0])))))
          << code << " of " << f(values[at][0]);
  };
  near("ex2.approx.ftz.f32 %d, %a;", -20, 20, std::exp2);
  near("lg2.approx.f32 %d, %a;", 0.01f, 100, std::log2);
  near("sin.approx.f32 %d, %a;", -3, 3, std::sin);
  near("cos.approx.f32 %d, %a;", -3, 3, std::cos);
  near("tanh.approx.f32 %d, %a;", -4, 4, std::tanh);
  near("rsqrt.approx.f32 %d, %a;", 0.1f, 50, [](double x) { return 1 / std::sqrt(x); });
  near("rcp.approx.ftz.f32 %d, %a;", 0.1f, 50, [](double x) { return 1 / x; });
  near("sqrt.approx.f32 %d, %a;", 0.1f, 50, std::sqrt);
}

}  // namespace
}  // namespace graft::ptx::floats_test
