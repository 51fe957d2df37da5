#include "graft/quant/inverse_factor.h"

#include <gtest/gtest.h>

#include "graft/core/parallel.h"

#include "../support/errors.h"
#include "calibrated_layer.h"

namespace graft::quant {
namespace {

// X Xᵀ in f64, with noise above the diagonal, which must not be read.
Tensor gram(std::int64_t n, std::int64_t rank) {
  const auto x = test::normals(static_cast<std::uint64_t>(n), n * rank);
  const Tensor h = Tensor::empty({n, n}, DType::f64);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (std::int64_t k = 0; k < rank; ++k) sum += static_cast<double>(x[i * rank + k]) * x[j * rank + k];
      h.data<double>()[i * n + j] = j > i ? 1e9 : sum;
    }
  return h;
}

TEST(InverseFactor, ItsSquareTimesTheMatrixIsOne) {
  for (std::int64_t n : {1, 2, 7, 127, 128, 129, 300}) {
    const double damping = 0.05 * static_cast<double>(n);
    const Tensor h = gram(n, n);
    const auto original = h.to_vector<double>();
    const auto upper = inverse_factor(h, damping);
    ASSERT_TRUE(upper.has_value()) << n;
    const float* u = upper->data<float>();
    const auto at = [&](std::int64_t i, std::int64_t j) {
      return original[std::max(i, j) * n + std::min(i, j)] + (i == j ? damping : 0);
    };
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < i; ++j) ASSERT_EQ(u[i * n + j], 0);
    // U H Uᵀ = I, entry by entry.
    std::vector<double> uh(static_cast<std::size_t>(n * n), 0.0);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t k = i; k < n; ++k)
        for (std::int64_t j = 0; j < n; ++j) uh[i * n + j] += u[i * n + k] * at(k, j);
    for (std::int64_t i = 0; i < n; ++i) {
      ASSERT_GT(u[i * n + i], 0);
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (std::int64_t k = j; k < n; ++k) sum += uh[i * n + k] * u[j * n + k];
        ASSERT_NEAR(sum, i == j, 2e-5) << n << ": " << i << ", " << j;
      }
    }
  }
}

TEST(InverseFactor, IsNothingForWhatIsNotPositiveDefinite) {
  EXPECT_FALSE(inverse_factor(Tensor::from<double>({1, 0, 2, 1}, {2, 2}), 0).has_value());
  EXPECT_TRUE(inverse_factor(Tensor::from<double>({1, 0, 2, 1}, {2, 2}), 1.5).has_value());
  Tensor late = gram(200, 200);
  late.data<double>()[199 * 200 + 199] = -1;
  EXPECT_FALSE(inverse_factor(late, 0).has_value());
  EXPECT_FALSE(inverse_factor(Tensor::full({3, 3}, NAN, DType::f64), 1).has_value());
}

TEST(InverseFactor, DoesNotDependOnThreads) {
  std::vector<std::vector<float>> factors;
  for (int threads : {1, 2, 3, 7}) {
    set_thread_pool(make_thread_pool(threads));
    factors.push_back(inverse_factor(gram(290, 290), 1)->to_vector<float>());
  }
  set_thread_pool(nullptr);
  for (const auto& factor : factors) EXPECT_EQ(factor, factors[0]);
}

TEST(InverseFactor, RefusesOtherShapes) {
  test::expect_error<ValueError>([] { inverse_factor(Tensor::zeros({2, 3}, DType::f64), 1); }, "not shape [2, 3]");
  test::expect_error<TypeError>([] { inverse_factor(Tensor::zeros({2, 2}), 1); }, "not f64");
}

}  // namespace
}  // namespace graft::quant
