#include "graft/core/rng.h"

#include <cmath>

#include "graft/tests/core/kernel_operands.h"

namespace graft {
namespace {

using namespace test;
using Words = std::array<std::uint32_t, 4>;

// The known-answer vectors of Random123.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, CounterIsBlockAndStream) {
  EXPECT_EQ(random_block(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}));
}

TEST(Philox, UniformsAreBelowOne) {
  EXPECT_EQ(to_uniform(0), 0.0f);
  EXPECT_EQ(to_uniform(~0u), 1 - 0x1p-24f);
  EXPECT_EQ(to_uniform(0x80000000), 0.5f);
}

TEST(Philox, NormalsAreFiniteAtTheEdges) {
  for (std::uint32_t a : {0u, 1u, 0xffu, 0x100u, 0x80000000u, ~0u})
    for (std::uint32_t b : {0u, 0x40000000u, ~0u})
      for (double value : to_normals(a, b)) EXPECT_TRUE(std::isfinite(value)) << a << " " << b;
  EXPECT_DOUBLE_EQ(to_normals(0x80000000, 0)[0], std::sqrt(2 * std::log(2.0)));
}

std::vector<double> drawn(Draw kind, std::int64_t n, double p0, double p1, DType dtype = DType::f32, std::uint64_t stream = 5) {
  const Tensor y = Tensor::empty({n}, dtype);
  tested_kernels().draw(kind, 42, stream, y.view(), p0, p1);
  return y.to_vector<double>();
}

TEST(Draw, ElementsFollowFromSeedStreamAndIndex) {
  const auto uniforms = drawn(Draw::uniform, 10007, 0, 1), normals = drawn(Draw::normal, 10007, 0, 1);
  for (std::int64_t i : {0, 1, 2, 3, 4, 1023, 1024, 4095, 4096, 10006}) {
    const auto words = random_block(42, 5, i / 4);
    EXPECT_EQ(uniforms[i], to_uniform(words[i % 4])) << i;
    EXPECT_EQ(normals[i], static_cast<float>(to_normals(words[i % 4 / 2 * 2], words[i % 4 / 2 * 2 + 1])[i % 2])) << i;
  }
  const auto shorter = drawn(Draw::uniform, 5, 0, 1);
  EXPECT_EQ(shorter, std::vector<double>(uniforms.begin(), uniforms.begin() + 5));
  EXPECT_NE(drawn(Draw::uniform, 5, 0, 1, DType::f32, 6), shorter);
}

TEST(Draw, DoesNotDependOnLayout) {
  for (Layout layout : layouts) {
    const Guarded dense = operand(DType::f32, {6, 5, 7}), other = operand(DType::f32, {6, 5, 7}, layout);
    for (const Guarded* y : {&dense, &other}) tested_kernels().draw(Draw::normal, 1, 2, y->view(), 3, 4);
    EXPECT_EQ(dense.values(), other.values());
    EXPECT_TRUE(other.intact());
  }
}

TEST(DrawThreads, DoesNotDependOnThem) {
  expect_same_for_any_threads([] { return drawn(Draw::normal, 100000, 0, 1); });
}

TEST(Draw, MomentsAreRight) {
  constexpr std::int64_t n = 1 << 18;
  const auto moments = [&](Draw kind, double p0, double p1) {
    double mean = 0, square = 0;
    for (double value : drawn(kind, n, p0, p1)) mean += value / n, square += value * value / n;
    return std::pair(mean, square - mean * mean);
  };
  const double five_sigma = 5 / std::sqrt(static_cast<double>(n));
  const auto [uniform_mean, uniform_variance] = moments(Draw::uniform, -2, 4);
  EXPECT_NEAR(uniform_mean, 1, std::sqrt(3) * five_sigma);
  EXPECT_NEAR(uniform_variance, 3, 3 * five_sigma);
  const auto [normal_mean, normal_variance] = moments(Draw::normal, 1, 0.5);
  EXPECT_NEAR(normal_mean, 1, 0.5 * five_sigma);
  EXPECT_NEAR(normal_variance, 0.25, 0.25 * std::sqrt(2) * five_sigma);
  EXPECT_NEAR(moments(Draw::bernoulli, 0.3, 0).first, 0.3, std::sqrt(0.21) * five_sigma);
}

TEST(Draw, BernoulliGoesIntoAnyDtypeAndHitsItsEnds) {
  for (DType dtype : all_dtypes) {
    EXPECT_EQ(drawn(Draw::bernoulli, 9, 1, 0, dtype), std::vector<double>(9, 1.0)) << name(dtype);
    EXPECT_EQ(drawn(Draw::bernoulli, 9, 0, 0, dtype), std::vector<double>(9, 0.0)) << name(dtype);
    EXPECT_EQ(drawn(Draw::bernoulli, 99, 0.5, 0, dtype), drawn(Draw::bernoulli, 99, 0.5, 0)) << name(dtype);
  }
}

TEST(Draw, RefusesIntegers) {
  expect_error<TypeError>([] { drawn(Draw::normal, 3, 0, 1, DType::i32); },
                          "random normal numbers need floating elements, not i32");
}

}  // namespace
}  // namespace graft
