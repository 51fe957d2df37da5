#include "graft/tests/core/kernel_operands.h"

namespace graft {
namespace {

using namespace test;

/// A tensor of small whole numbers in any dtype, and its copy in another layout.
Tensor counted(const Shape& shape, DType dtype, std::int64_t modulus = 50) {
  const Tensor x = Tensor::empty(shape, dtype);
  std::vector<double> values(shape.count());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(static_cast<std::int64_t>(i) % modulus);
  x.copy_(Tensor::from(values, shape));
  return x;
}
Tensor reversed(const Tensor& x) {
  Strides strides = x.shape();
  std::int64_t step = 1;
  for (int i = 0; i < x.rank(); ++i) strides[i] = step, step *= x.shape()[i];
  const Tensor y = Tensor::empty(x.shape(), x.dtype()).alias(x.shape(), strides, 0);
  y.copy_(x);
  return y;
}

Tensor positions(const Shape& shape, std::int64_t extent) {
  const Tensor index = Tensor::empty(shape, DType::i64);
  for (std::int64_t i = 0; i < index.count(); ++i) index.data<std::int64_t>()[i] = random_block(9, 0, i)[0] % extent;
  return index;
}

std::int64_t flat(const Shape& shape, const Shape& at) {
  std::int64_t offset = 0;
  for (int i = 0; i < shape.rank(); ++i) offset = offset * shape[i] + at[i];
  return offset;
}
template <class F>
void each_position(const Shape& shape, F&& f) {
  for (std::int64_t i = 0; i < shape.count(); ++i) {
    Shape at = shape;
    std::int64_t rest = i;
    for (int d = shape.rank() - 1; d >= 0; --d) at[d] = rest % shape[d], rest /= shape[d];
    f(at, i);
  }
}

const Shape shape{4, 5, 70};

TEST(KernelsIndex, SelectEveryDimDtypeAndLayout) {
  for (int dim = 0; dim < 3; ++dim)
    for (DType dtype : all_dtypes)
      for (bool turned : {false, true}) {
        const Tensor dense = counted(shape, dtype), x = turned ? reversed(dense) : dense;
        const Tensor index = positions({9}, shape[dim]);
        Shape out = shape;
        out[dim] = 9;
        const Tensor y = turned ? reversed(Tensor::zeros(out, dtype)) : Tensor::zeros(out, dtype);
        tested_kernels().index_select(x.view(), dim, index.view(), y.view());
        const auto from = dense.to_vector<double>(), got = y.to_vector<double>();
        each_position(out, [&](Shape at, std::int64_t i) {
          at[dim] = index.data<std::int64_t>()[at[dim]];
          ASSERT_EQ(got[i], from[flat(shape, at)]) << "dim " << dim << " " << name(dtype);
        });
      }
}

TEST(KernelsIndex, GatherEveryDimDtypeAndLayout) {
  for (int dim = 0; dim < 3; ++dim)
    for (DType dtype : all_dtypes)
      for (bool turned : {false, true}) {
        const Tensor dense = counted(shape, dtype), x = turned ? reversed(dense) : dense;
        Shape out{3, 4, 60};
        out[dim] = 8;
        const Tensor index = turned ? reversed(positions(out, shape[dim])) : positions(out, shape[dim]),
                     y = Tensor::empty(out, dtype);
        tested_kernels().gather(x.view(), dim, index.view(), y.view());
        const auto from = dense.to_vector<double>(), got = y.to_vector<double>();
        const auto where = index.to_vector<std::int64_t>();
        each_position(out, [&](Shape at, std::int64_t i) {
          at[dim] = where[i];
          ASSERT_EQ(got[i], from[flat(shape, at)]) << "dim " << dim << " " << name(dtype);
        });
      }
}

TEST(KernelsIndex, AddEveryDimDtypeAndLayout) {
  for (int dim = 0; dim < 3; ++dim)
    for (DType dtype : all_dtypes) {
      if (dtype == DType::boolean) continue;
      for (bool turned : {false, true}) {
        Shape small = shape;
        small[dim] = 9;
        const Tensor x = turned ? reversed(counted(small, dtype, 7)) : counted(small, dtype, 7),
                     index = positions({9}, shape[dim]);
        const Tensor y = turned ? reversed(counted(shape, dtype, 5)) : counted(shape, dtype, 5);
        auto wanted = y.to_vector<double>();
        tested_kernels().index_add(y.view(), dim, index.view(), x.view());
        const auto add = x.to_vector<double>();
        each_position(small, [&](Shape at, std::int64_t i) {
          at[dim] = index.data<std::int64_t>()[at[dim]];
          wanted[flat(shape, at)] += add[i];
        });
        EXPECT_EQ(y.to_vector<double>(), wanted) << "dim " << dim << " " << name(dtype);
      }
    }
}

TEST(KernelsIndex, ScatterAddEveryDimDtypeAndLayout) {
  for (int dim = 0; dim < 3; ++dim)
    for (DType dtype : all_dtypes) {
      if (dtype == DType::boolean) continue;
      for (bool turned : {false, true}) {
        Shape small{3, 4, 68};
        small[dim] = 6;
        const Tensor x = counted(small, dtype, 7),
                     index = turned ? reversed(positions(small, shape[dim])) : positions(small, shape[dim]);
        const Tensor y = turned ? reversed(counted(shape, dtype, 5)) : counted(shape, dtype, 5);
        auto wanted = y.to_vector<double>();
        tested_kernels().scatter_add(y.view(), dim, index.view(), x.view());
        const auto add = x.to_vector<double>();
        const auto where = index.to_vector<std::int64_t>();
        each_position(small, [&](Shape at, std::int64_t i) {
          at[dim] = where[i];
          wanted[flat(shape, at)] += add[i];
        });
        EXPECT_EQ(y.to_vector<double>(), wanted) << "dim " << dim << " " << name(dtype);
      }
    }
}

TEST(KernelsIndex, ManyHalvesAddUpWithoutStalling) {
  // In bf16 itself 256 + 1 is 256; the sum of 1000 ones must be 1000.
  const Tensor y = Tensor::zeros({2}, DType::bf16), x = Tensor::ones({1000}, DType::bf16),
               index = Tensor::zeros({1000}, DType::i64);
  tested_kernels().index_add(y.view(), 0, index.view(), x.view());
  EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{1000, 0}));
}

TEST(KernelsIndex, NothingToMove) {
  const Tensor x = Tensor::ones({3, 2}), index = Tensor::empty({0}, DType::i64), none = Tensor::empty({0, 2});
  tested_kernels().index_select(x.view(), 0, index.view(), none.view());
  tested_kernels().index_add(x.view(), 0, index.view(), none.view());
  EXPECT_EQ(x.to_vector<float>(), std::vector<float>(6, 1));
}

TEST(KernelsIndex, BoolsDoNotAddUp) {
  const Tensor y = Tensor::zeros({2}, DType::boolean), index = Tensor::zeros({2}, DType::i64);
  expect_error<TypeError>([&] { tested_kernels().scatter_add(y.view(), 0, index.view(), y.view()); },
                          "scatter_add: does not take elements of type bool");
}

TEST(KernelsIndexThreads, SameBitsForAnyThreads) {
  expect_same_for_any_threads([] {
    const Guarded x = numbers(DType::f32, {2000, 130}, 1), y = numbers(DType::f32, {11, 130}, 2);
    const Tensor index = positions({2000}, 11);
    tested_kernels().index_add(y.view(), 0, index.view(), x.view());
    return y.values();
  });
}

}  // namespace
}  // namespace graft
