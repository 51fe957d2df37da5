#include <cmath>

#include "graft/tests/core/kernel_operands.h"

namespace graft::kernels_linalg_test {
namespace {

using namespace test;

constexpr DType matrix_types[] = {DType::f64, DType::f32};

/// a [.., m, k] b [.., k, n] in double.
std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, std::int64_t batch, std::int64_t m,
                            std::int64_t k, std::int64_t n) {
  std::vector<double> y(batch * m * n);
  for (std::int64_t g = 0; g < batch; ++g)
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t p = 0; p < k; ++p)
        for (std::int64_t j = 0; j < n; ++j) y[(g * m + i) * n + j] += a[(g * m + i) * k + p] * b[(g * k + p) * n + j];
  return y;
}
std::vector<double> transposed(const std::vector<double>& a, std::int64_t batch, std::int64_t m, std::int64_t n) {
  std::vector<double> y(a.size());
  for (std::int64_t g = 0; g < batch; ++g)
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) y[(g * n + j) * m + i] = a[(g * m + i) * n + j];
  return y;
}
std::vector<double> identity(std::int64_t batch, std::int64_t n) {
  std::vector<double> y(batch * n * n);
  for (std::int64_t i = 0; i < batch * n; ++i) y[i * n + i % n] = 1;
  return y;
}
void expect_close(const std::vector<double>& got, const std::vector<double>& wanted, double bound) {
  ASSERT_EQ(got.size(), wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted[i], bound) << i;
}
/// A well conditioned batch: random and a heavy diagonal.
Guarded regular(DType dtype, std::int64_t batch, std::int64_t n, Layout layout) {
  Guarded a = numbers(dtype, {batch, n, n}, 1, layout);
  View diagonal = a.view();
  diagonal.rank = 2;
  diagonal.sizes[1] = n;
  diagonal.strides[1] = a.view().strides[1] + a.view().strides[2];
  tested_kernels().unary(UnaryOp::affine, diagonal, diagonal, 1, static_cast<double>(n));
  return a;
}
double bound(DType dtype, std::int64_t n) { return 16 * unit_roundoff(dtype) * static_cast<double>(n); }

TEST(KernelsLinalg, Inverse) {
  for (DType dtype : matrix_types)
    for (std::int64_t n : {1, 2, 5, 40})
      for (Layout layout : layouts) {
        const Guarded a = regular(dtype, 3, n, layout), y = operand(dtype, {3, n, n}, layout);
        tested_kernels().inverse(a.view(), y.view());
        expect_close(product(a.values(), y.values(), 3, n, n, n), identity(3, n), bound(dtype, n));
        EXPECT_TRUE(y.intact());
      }
}

TEST(KernelsLinalg, InverseRefusesSingularAndUnfit) {
  const Tensor singular = Tensor::from<float>({1, 0, 0, 1, 1, 2, 2, 4}, {2, 2, 2}), y = Tensor::empty({2, 2, 2});
  expect_error<ValueError>([&] { tested_kernels().inverse(singular.view(), y.view()); },
                           "inverse: matrix 1 of the batch is singular");
  const Tensor rounded = Tensor::from<double>({0.1, 0.3, 0.2, 0.6}, {2, 2});
  expect_error<ValueError>([&] { tested_kernels().inverse(rounded.view(), rounded.view()); },
                           "inverse: matrix 0 of the batch is singular");
  const Tensor nan = Tensor::from<float>({1, NAN, 0, 1}, {2, 2});
  expect_error<ValueError>([&] { tested_kernels().inverse(nan.view(), nan.view()); },
                           "inverse: matrix 0 of the batch has an element that is not finite");
  const Tensor half = Tensor::ones({2, 2}, DType::f16);
  expect_error<TypeError>([&] { tested_kernels().inverse(half.view(), half.view()); }, "inverse: needs f32 or f64, not f16");
}

TEST(KernelsLinalg, InverseOfSmallNumbersIsNotSingular) {
  const Tensor a = Tensor::from<double>({1e-200, 0, 0, 2e-200}, {2, 2}), y = Tensor::empty({2, 2}, DType::f64);
  tested_kernels().inverse(a.view(), y.view());
  EXPECT_EQ(y.to_vector<double>(), (std::vector<double>{1e200, 0, 0, 5e199}));
}

TEST(KernelsLinalg, SolveTriangular) {
  for (DType dtype : matrix_types)
    for (bool upper : {false, true})
      for (std::int64_t n : {1, 6, 33})
        for (Layout layout : layouts) {
          const Guarded a = regular(dtype, 2, n, layout), b = numbers(dtype, {2, n, 4}, 2), y = operand(dtype, {2, n, 4}, layout);
          tested_kernels().solve_triangular(a.view(), b.view(), upper, y.view());
          auto triangle = a.values();  // the other half must not have mattered
          for (std::int64_t i = 0; i < 2 * n; ++i)
            for (std::int64_t j = 0; j < n; ++j)
              if (upper ? j < i % n : j > i % n) triangle[i * n + j] = 0;
          expect_close(product(triangle, y.values(), 2, n, n, 4), b.values(), bound(dtype, n));
        }
  const Tensor a = Tensor::from<float>({1, 0, 1, 0}, {2, 2}), b = Tensor::ones({2, 1});
  expect_error<ValueError>([&] { tested_kernels().solve_triangular(a.view(), b.view(), false, b.view()); },
                           "solve_triangular: matrix 0 of the batch has a zero on its diagonal");
}

TEST(KernelsLinalg, Cholesky) {
  for (DType dtype : matrix_types)
    for (std::int64_t n : {1, 5, 40})
      for (Layout layout : layouts) {
        const auto factor = numbers(DType::f64, {2, n, n + 3}, 4).values();
        const auto square = product(factor, transposed(factor, 2, n, n + 3), 2, n, n + 3, n);
        const Guarded a = operand(dtype, {2, n, n}, layout), lower = operand(dtype, {2, n, n}, layout);
        tested_kernels().copy(Tensor::from(square, {2, n, n}).view(), a.view());
        tested_kernels().cholesky(a.view(), lower.view());
        const auto l = lower.values();
        expect_close(product(l, transposed(l, 2, n, n), 2, n, n, n), a.values(), bound(dtype, n));
        for (std::int64_t i = 0; i < 2 * n; ++i)
          for (std::int64_t j = i % n + 1; j < n; ++j) ASSERT_EQ(l[i * n + j], 0);
      }
  const Tensor indefinite = Tensor::from<double>({1, 2, 2, 1}, {2, 2});
  expect_error<ValueError>([&] { tested_kernels().cholesky(indefinite.view(), indefinite.view()); },
                           "cholesky: matrix 0 of the batch is not positive definite");
}

TEST(KernelsLinalg, Qr) {
  for (DType dtype : matrix_types)
    for (auto [m, n] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {7, 4}, {4, 7}, {30, 30}}) {
      const std::int64_t k = std::min(m, n);
      const Guarded a = numbers(dtype, {2, m, n}, 1, Layout::gaps), q = operand(dtype, {2, m, k}),
                    r = operand(dtype, {2, k, n}, Layout::transposed);
      tested_kernels().qr(a.view(), q.view(), r.view());
      expect_close(product(q.values(), r.values(), 2, m, k, n), a.values(), bound(dtype, m));
      expect_close(product(transposed(q.values(), 2, m, k), q.values(), 2, k, m, k), identity(2, k), bound(dtype, m));
      const auto triangle = r.values();
      for (std::int64_t i = 0; i < 2 * k; ++i)
        for (std::int64_t j = 0; j < std::min(i % k, n); ++j) ASSERT_EQ(triangle[i * n + j], 0);
    }
}

void expect_svd(const Tensor& a, std::int64_t batch, std::int64_t m, std::int64_t n) {
  const std::int64_t k = std::min(m, n);
  const Tensor u = Tensor::empty({batch, m, k}, a.dtype()), s = Tensor::empty({batch, k}, a.dtype()),
               vt = Tensor::empty({batch, k, n}, a.dtype());
  tested_kernels().svd(a.view(), u.view(), s.view(), vt.view());
  const auto uv = u.to_vector<double>(), sv = s.to_vector<double>(), vv = vt.to_vector<double>();
  auto scaled = vv;
  double largest = 0;
  for (std::int64_t i = 0; i < batch * k; ++i) {
    for (std::int64_t j = 0; j < n; ++j) scaled[i * n + j] *= sv[i];
    EXPECT_GE(sv[i], 0);
    EXPECT_TRUE(i % k == 0 || sv[i] <= sv[i - 1]) << i;
    largest = std::max(largest, sv[i]);
  }
  expect_close(product(uv, scaled, batch, m, k, n), a.to_vector<double>(), bound(a.dtype(), m + n) * std::max(largest, 1e-300));
  expect_close(product(transposed(uv, batch, m, k), uv, batch, k, m, k), identity(batch, k), bound(a.dtype(), m + n));
  expect_close(product(vv, transposed(vv, batch, k, n), batch, k, n, k), identity(batch, k), bound(a.dtype(), m + n));
}

TEST(KernelsLinalg, Svd) {
  for (DType dtype : matrix_types)
    for (auto [m, n] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {9, 4}, {4, 9}, {40, 40}}) {
      const Tensor a = Tensor::empty({2, m, n}, dtype);
      a.copy_(Tensor::from(numbers(DType::f64, {2, m, n}, 7).values(), {2, m, n}));
      expect_svd(a, 2, m, n);
      // Rank one, and zero: the missing directions must be completed.
      for (std::int64_t i = 0; i < 2 * m * n; ++i) a.alias({}, {}, i).fill_(i < m * n ? static_cast<double>(i / n + 1) : 0);
      expect_svd(a, 2, m, n);
    }
}

TEST(KernelsLinalg, SvdOfKnownValues) {
  const Tensor a = Tensor::from<double>({3, 0, 0, 0, -5e-160, 0, 0, 0, 4e150}, {3, 3}), u = Tensor::empty({3, 3}, DType::f64),
               s = Tensor::empty({3}, DType::f64), vt = Tensor::empty({3, 3}, DType::f64);
  tested_kernels().svd(a.view(), u.view(), s.view(), vt.view());
  EXPECT_DOUBLE_EQ(s.to_vector<double>()[0], 4e150);
  EXPECT_DOUBLE_EQ(s.to_vector<double>()[1], 3);
}

TEST(KernelsLinalg, EmptyBatchesAndMatrices) {
  const Tensor none = Tensor::empty({0, 3, 3}), nothing = Tensor::empty({2, 0, 0});
  for (const Tensor* a : {&none, &nothing}) {
    tested_kernels().inverse(a->view(), a->view());
    tested_kernels().cholesky(a->view(), a->view());
    tested_kernels().qr(a->view(), a->view(), a->view());
  }
}

}  // namespace
}  // namespace graft::kernels_linalg_test
