// Corners of the operations that the op table does not reach: special values, refusals, views, autocast.
#include "graft/autograd/ops.h"

#include <gtest/gtest.h>

#include <cmath>

#include "graft/core/autocast.h"

#include "../support/errors.h"
#include "../support/tensors.h"

namespace graft {
namespace {

using test::expect_error;
using test::full;
using test::ones;
using test::placed;
using test::zeros;
constexpr double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();

Tensor tensor(const std::vector<double>& values, const Shape& shape) { return test::from(values, shape); }
Tensor row(const std::vector<double>& values) { return tensor(values, {static_cast<std::int64_t>(values.size())}); }
Tensor ids(const std::vector<std::int64_t>& values) { return test::from(values, {static_cast<std::int64_t>(values.size())}); }
std::vector<double> values(const Tensor& x) { return x.to_vector<double>(); }
using List = std::vector<double>;

// The gradient of Σ f(x).
List slope(const std::function<Tensor(const Tensor&)>& f, Tensor x) {
  x.set_requires_grad();
  const Tensor y = sum(f(x));
  return values(grad({&y, 1}, {&x, 1})[0]);
}

TEST(Elementwise, TiesShareTheGradient) {
  Tensor a = row({1, 2, 3}).set_requires_grad(), b = row({2, 2, 2}).set_requires_grad();
  sum(maximum(a, b)).backward();
  EXPECT_EQ(values(a.grad()), List({0, 0.5, 1}));
  EXPECT_EQ(values(b.grad()), List({1, 0.5, 0}));
  a.set_grad({});
  sum(minimum(a, b)).backward();
  EXPECT_EQ(values(a.grad()), List({1, 0.5, 0}));
}

TEST(Elementwise, SlopesAtTheCorners) {
  EXPECT_EQ(slope(relu, row({-1, 0, 1})), List({0, 0, 1}));
  EXPECT_EQ(slope(abs, row({-1, 0, 1})), List({-1, 0, 1}));
  EXPECT_EQ(slope([](const Tensor& x) { return clamp(x, -1, 1); }, row({-2, -1, 0, 1, 2})), List({0, 1, 1, 1, 0}));
  EXPECT_EQ(slope([](const Tensor& x) { return pow(x, 0); }, row({0, 2})), List({0, 0}));
  EXPECT_EQ(slope([](const Tensor& x) { return pow(x, 1); }, row({0, 2})), List({1, 1}));
}

TEST(Elementwise, NaNPassesThrough) {
  for (auto f : {maximum, minimum}) {
    EXPECT_TRUE(std::isnan(f(row({nan}), row({1})).item()));
    EXPECT_TRUE(std::isnan(f(row({1}), row({nan})).item()));
  }
  EXPECT_TRUE(std::isnan(relu(row({nan})).item()));
  EXPECT_TRUE(std::isnan(clamp(row({nan}), 0, 1).item()));
  EXPECT_FALSE(values(equal(row({nan}), row({nan})))[0]);
}

TEST(Elementwise, OperandsMeetInTheirPromotedDtype) {
  const Tensor half = to(row({1.5}), DType::f16), brain = to(row({1.5}), DType::bf16), whole = ids({2});
  EXPECT_EQ((half + brain).dtype(), DType::f32);
  EXPECT_EQ((half * whole).dtype(), DType::f16);
  EXPECT_EQ((whole + whole).dtype(), DType::i64);
  EXPECT_EQ(equal(half, brain).dtype(), DType::boolean);
  EXPECT_EQ(values(2 - half), List({0.5}));
  EXPECT_EQ(values(half / 2), List({0.75}));
}

TEST(Elementwise, Refusals) {
  expect_error<ValueError>([] { add(row({1, 2}), row({1, 2, 3})); }, "add: shapes [2] and [3] do not broadcast");
  expect_error<TypeError>([] { exp(ids({1})); }, "exp: takes a floating tensor, not i64");
  expect_error<TypeError>([] { div(ids({1}), ids({1})); }, "div: takes floating tensors, not i64 and i64");
  expect_error<TypeError>([] { where(row({1}), row({1}), row({1})); }, "where: the condition has elements of type bool, not f64");
  expect_error<ValueError>([] { clamp(row({1}), 2, 1); }, "clamp: the lower limit 2 is not below the upper limit 1");
  expect_error<ValueError>([] { neg(Tensor()); }, "the tensor is undefined");
}

TEST(ShapeOps, ReshapeIsAViewWhereStridesAllow) {
  const Tensor x = reshape(placed(Tensor::arange(24)), {2, 3, 4});
  EXPECT_EQ(reshape(x, {6, 4}).storage(), x.storage());
  const Tensor turned = permute(x, std::vector<int>{2, 0, 1});  // [4, 2, 3]: the last two still lie evenly
  EXPECT_EQ(reshape(turned, {4, 6}).storage(), x.storage());
  EXPECT_EQ(reshape(turned, {2, 2, 1, 3, 2}).storage(), x.storage());
  EXPECT_NE(reshape(turned, {8, 3}).storage(), x.storage());
  EXPECT_EQ(values(reshape(turned, {24})), values(contiguous(turned)));
  const Tensor repeated = expand(placed(Tensor::arange(3)).reshape({3, 1}), {3, 4});
  EXPECT_EQ(values(reshape(repeated, {12})), List({0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2}));
  EXPECT_EQ(reshape(zeros({0, 3}), {3, 0, 2}).shape(), Shape({3, 0, 2}));
  EXPECT_EQ(reshape(zeros({1}), {}).shape(), Shape());
}

TEST(ShapeOps, ReshapeRefusals) {
  expect_error<ValueError>([] { reshape(row({1, 2, 3}), {2, 2}); }, "reshape: 3 elements of shape [3] do not fill shape [2, 2]");
  expect_error<ValueError>([] { reshape(row({1, 2, 3}), {-1, 2}); }, "do not fill shape");
  expect_error<ValueError>([] { reshape(row({1, 2}), {-1, -1}); }, "leaves more than one extent open");
  expect_error<ValueError>([] { reshape(zeros({0}), {0, -1}); }, "any extent fits");
  expect_error<ValueError>([] { reshape(row({1, 2}), {-2, 1}); }, "negative extent");
}

TEST(ShapeOps, OtherRefusals) {
  const Tensor x = zeros({2, 3});
  expect_error<ValueError>([&] { permute(x, std::vector<int>{0}); },
                           "permute: 1 dimensions are named for a tensor of shape [2, 3]");
  expect_error<ValueError>([&] { permute(x, std::vector<int>{0, -2}); }, "permute: dimension 0 is named twice");
  expect_error<ValueError>([&] { transpose(x, 0, 2); }, "transpose: dimension 2 of a tensor with 2 dimensions");
  expect_error<ValueError>([&] { squeeze(x, 0); }, "squeeze: dimension 0 of shape [2, 3] has not extent 1");
  expect_error<ValueError>([&] { expand(x, {4, 3}); }, "do not broadcast");
  expect_error<ValueError>([&] { expand(zeros({2, 1}), {1}); }, "expand: shape [2, 1] does not broadcast to [1]");
  expect_error<ValueError>([&] { slice(x, 1, 2, 4); }, "slice: 2 … 4 is outside dimension 1 of shape [2, 3]");
  expect_error<ValueError>([&] { concat({}, 0); }, "concat: there is nothing to join");
  expect_error<ValueError>(
      [&] {
        concat(std::vector<Tensor>{x, zeros({3, 2})}, 0);
      },
      "concat: shapes [2, 3] and [3, 2] differ outside dimension 0");
  expect_error<ValueError>([&] { row({1}).t(); }, "t: a tensor of shape [1] has fewer than 2 dimensions");
  expect_error<ValueError>([&] { sum_to(x, {2, 2}); }, "do not broadcast");
}

TEST(ShapeOps, EmptySlicesAndParts) {
  const Tensor x = row({1, 2, 3}).set_requires_grad();
  const Tensor none = slice(x, 0, 3, 3);
  EXPECT_EQ(none.count(), 0);
  EXPECT_EQ(values(concat(std::vector<Tensor>{none, x}, 0)), List({1, 2, 3}));
  sum(none).backward();
  EXPECT_EQ(values(x.grad()), List({0, 0, 0}));
}

TEST(ShapeOps, CastsAreRecordedAndIntegersAreNot) {
  const Tensor x = row({1.7}).set_requires_grad();
  to(to(x, DType::bf16), DType::f32).backward();
  EXPECT_EQ(x.grad().dtype(), DType::f64);
  EXPECT_EQ(x.grad().item(), 1);
  EXPECT_FALSE(to(x, DType::i32).requires_grad());
  EXPECT_EQ(to(x, DType::i32).item(), 1);
  EXPECT_TRUE(to(x, DType::f64).same(x));
}

TEST(ShapeOps, AnotherDeviceWantsItsRuntime) {
  const Tensor x = row({1});
  EXPECT_TRUE(to(x, x.device()).same(x));
  if (cuda_device_count() == 0) {
    expect_error<CudaError>([&] { to(x, Device::cuda()); }, "device cuda:0 was asked for, but ");
  }
}

TEST(Reduce, SpecialCases) {
  EXPECT_EQ(sum(zeros({0, 3})).item(), 0);
  EXPECT_TRUE(std::isnan(mean(zeros({0})).item()));
  EXPECT_EQ(sum(full({300}, 1, DType::u8)).item(), 300) << "integers are summed in i64";
  EXPECT_EQ(sum(full({300}, 1, DType::boolean)).dtype(), DType::i64);
  EXPECT_EQ(mean(full({4}, 60000, DType::f16)).item(), 60000 - 32 + 32) << "the sum does not fit in f16";
  EXPECT_EQ(norm(full({4}, 300, DType::f16)).item(), 600) << "the squares do not fit in f16";
  EXPECT_EQ(slope([](const Tensor& x) { return norm(x); }, row({0, 0})), List({0, 0}));
  EXPECT_EQ(slope([](const Tensor& x) { return amax(x, 0); }, row({3, 1, 3})), List({0.5, 0, 0.5}));
  EXPECT_EQ(logsumexp(row({-inf, -inf}), 0).item(), -inf);
  EXPECT_EQ(logsumexp(row({inf, 0}), 0).item(), inf);
  EXPECT_EQ(logsumexp(row({1000, 1000}), 0).item(), 1000 + std::log(2));
  EXPECT_EQ(argmax(tensor({1, 3, 3, 5, 2, 5}, {2, 3})).to_vector<std::int64_t>(), std::vector<std::int64_t>({1, 0}));
  EXPECT_TRUE(all_finite(row({1, 2})));
  EXPECT_FALSE(all_finite(row({1, nan})));
  EXPECT_FALSE(all_finite(to(row({1e30, -inf}), DType::bf16)));
  EXPECT_TRUE(all_finite(zeros({0})));
}

TEST(Reduce, Refusals) {
  const Tensor x = zeros({2, 3});
  const int twice[] = {0, -2}, beyond[] = {2};
  expect_error<ValueError>([&] { sum(x, twice); }, "sum: a dimension is named twice");
  expect_error<ValueError>([&] { mean(x, beyond); }, "dimension 2 of a tensor with 2 dimensions");
  expect_error<ValueError>([&] { amax(zeros({2, 0}), 1); }, "amax: dimension 1 of shape [2, 0] has no elements");
  expect_error<ValueError>([&] { argmax(zeros({2, 0})); }, "argmax: the last dimension of shape [2, 0] has no elements");
  expect_error<ValueError>([&] { argmax(ones({})); }, "argmax: a tensor of shape [] has fewer than 1 dimensions");
}

TEST(Matmul, EmptyAndRefusals) {
  EXPECT_EQ(values(matmul(ones({2, 0}), ones({0, 2}))), List(4, 0));
  EXPECT_EQ(linear(ones({3, 0, 4}), ones({5, 4})).shape(), Shape({3, 0, 5}));
  EXPECT_EQ(linear(ones({4}), ones({5, 4})).shape(), Shape({5}));
  expect_error<ValueError>([] { matmul(ones({2, 3}), ones({2, 3})); }, "matmul: shapes [2, 3] and [2, 3] do not multiply");
  expect_error<ValueError>([] { matmul(ones({3}), ones({3, 2})); }, "matmul: a tensor of shape [3] has fewer than 2");
  expect_error<ValueError>([] { matmul(ones({2, 2, 3}), ones({3, 3, 2})); }, "matmul: shapes [2] and [3] do not broadcast");
  expect_error<ValueError>(
      [] {
        linear(ones({2, 3}), ones({4, 3}), ones({3}));
      },
      "linear: a bias of shape [3] does not fit a weight of shape [4, 3]");
}

TEST(Matmul, TheSumWithABiasIsRoundedOnce) {
  // 1 + 2⁻⁸ lies between two bf16 numbers: rounded first, it would lose what decides about the sum.
  const Tensor x = to(row({1, 0.00390625}), DType::bf16), w = ones({1, 2}, DType::bf16), b = to(row({0.00390625}), DType::bf16);
  EXPECT_EQ(linear(x, w, b).item(), 1.0078125);
}

TEST(Matmul, IsLoweredUnderAutocast) {
  const Tensor a = ones({2, 3}).set_requires_grad(), b = ones({3, 2}, DType::f16), c = ones({3, 2}, DType::f64);
  const autocast::Guard guard(test::tested_device().type, DType::bf16);
  EXPECT_EQ(matmul(a, b).dtype(), DType::bf16);
  EXPECT_EQ(linear(a, b.t(), ones({2})).dtype(), DType::bf16);
  EXPECT_EQ(matmul(a, c).dtype(), DType::f64) << "f64 is never lowered";
  EXPECT_EQ(add(a, a).dtype(), DType::f32);
  EXPECT_EQ(attention(ones({1, 1, 2, 4}), ones({1, 1, 2, 4}), ones({1, 1, 2, 4})).dtype(), DType::bf16);
  sum(matmul(a, b)).backward();
  EXPECT_EQ(a.grad().dtype(), DType::f32);
  const autocast::Guard off(test::tested_device().type, std::nullopt);
  EXPECT_EQ(matmul(a, b).dtype(), DType::f32);
}

TEST(Index, Refusals) {
  const Tensor x = zeros({2, 3});
  expect_error<ValueError>([&] { index_select(x, 1, ids({0, 3})); }, "index_select: index 3 is outside 0 … 2");
  expect_error<ValueError>([&] { index_select(x, 1, ids({-1})); }, "index_select: index -1 is outside 0 … 2");
  expect_error<TypeError>([&] { index_select(x, 1, zeros({1}, DType::i32)); }, "an index has elements of type i64, not i32");
  expect_error<ValueError>(
      [&] {
        index_select(x, 1, zeros({1, 1}, DType::i64));
      },
      "an index has one dimension, not shape [1, 1]");
  expect_error<ValueError>(
      [&] {
        index_add(x, 0, ids({1}), zeros({2, 3}));
      },
      "index_add: a source of shape [2, 3] where [1, 3] is wanted");
  expect_error<ValueError>([&] { gather(x, 1, ids({1})); },
                           "gather: an index of shape [1] does not fit a tensor of shape [2, 3]");
  expect_error<ValueError>(
      [&] {
        gather(x, 1, zeros({3, 1}, DType::i64));
      },
      "does not fit a tensor of shape [2, 3] along dimension 1");
  expect_error<ValueError>(
      [&] {
        scatter_add(x, 1, zeros({2, 1}, DType::i64), zeros({2, 2}));
      },
      "scatter_add: a source of shape [2, 2] for an index of shape [2, 1]");
  expect_error<ValueError>([&] { embedding(x, ids({2})); }, "index 2 is outside 0 … 1");
  expect_error<ValueError>([&] { embedding(row({1}), ids({0})); }, "embedding: a weight has shape [vocabulary, width], not [1]");
  EXPECT_EQ(index_select(x, 0, ids({})).shape(), Shape({0, 3}));
  EXPECT_EQ(embedding(x, zeros({0, 4}, DType::i64)).shape(), Shape({0, 4, 3}));
}

TEST(Norm, SpecialCasesAndRefusals) {
  EXPECT_EQ(values(softmax(row({1000, 1000}))), List({0.5, 0.5}));
  EXPECT_EQ(values(softmax(row({-inf, 0}))), List({0, 1}));
  const Tensor half = full({1, 2}, 3, DType::bf16);
  EXPECT_EQ(rms_norm(half, ones({2}), 0).dtype(), DType::f32) << "a wider weight promotes, after the rows were rounded";
  EXPECT_EQ(layer_norm(half, ones({2}), Tensor(), 1e-5).dtype(), DType::bf16);
  expect_error<ValueError>([&] { rms_norm(half, ones({3}), 0); }, "rms_norm: a parameter of shape [3] for rows of width 2");
  expect_error<ValueError>([&] { layer_norm(half, Tensor(), ones({1}), 0); },
                           "layer_norm: a parameter of shape [1] for rows of width 2");
  for (const double eps : {-5.0, inf, nan}) {
    const std::string words = fmt::format("_norm: eps = {}, and a number from 0 is wanted", eps);
    expect_error<ValueError>([&] { rms_norm(half, ones({2}), eps); }, "rms" + words);
    expect_error<ValueError>([&] { layer_norm(half, Tensor(), Tensor(), eps); }, "layer" + words);
  }
  expect_error<ValueError>([] { softmax(ones({})); }, "softmax: a tensor of shape [] has fewer than 1 dimensions");
}

TEST(Norm, FrozenWeightsCostNoGradient) {
  Tensor x = row({1, 2, 4}).set_requires_grad();
  const Tensor w = row({1, 1, 2});
  sum(rms_norm(x, w, 0.1)).backward();
  const List alone = values(x.grad());
  x.set_grad({});
  Tensor trained = w.clone();
  trained.set_requires_grad();
  sum(rms_norm(x, trained, 0.1)).backward();
  EXPECT_EQ(values(x.grad()), alone);
  EXPECT_TRUE(trained.grad().defined());
}

TEST(Attention, Refusals) {
  const Tensor q = ones({1, 4, 3, 8}), k = ones({1, 2, 3, 8});
  expect_error<ValueError>([&] { attention(q, ones({1, 3, 3, 8}), ones({1, 3, 3, 8})); }, "heads a multiple of kv_heads");
  expect_error<ValueError>(
      [&] {
        attention(q, k, ones({1, 2, 4, 8}));
      },
      "attention: q [1, 4, 3, 8], k [1, 2, 3, 8], v [1, 2, 4, 8]");
  expect_error<TypeError>(
      [&] {
        attention(q, k, k, {.key_mask = ones({1, 3})});
      },
      "a key mask has elements of type bool, not f32");
  expect_error<ValueError>(
      [&] {
        attention(q, k, k, {.key_mask = ones({1, 4}, DType::boolean)});
      },
      "a key mask of shape [1, 4] for keys of shape [1, 2, 3, 8]");
  expect_error<ValueError>(
      [&] {
        rotary(ones({1, 1, 2, 3}), ones({1, 2, 1}), ones({1, 2, 1}));
      },
      "rotary: takes [batch, heads, length, even width], not [1, 1, 2, 3]");
  expect_error<ValueError>(
      [&] {
        rotary(ones({1, 1, 2, 4}), ones({1, 3, 2}), ones({1, 2, 2}));
      },
      "rotary: an angle table of shape [1, 3, 2] for x of shape [1, 1, 2, 4]; wanted [1 or 1, 2, 2]");
}

TEST(Loss, IgnoredLabelsAndRefusals) {
  Tensor logits = tensor({1, 2, 3, 4}, {2, 2}).set_requires_grad();
  const Tensor one = cross_entropy(logits, ids({-100, 1}));
  EXPECT_NEAR(one.item(), std::log1p(std::exp(-1)), 1e-15);
  one.backward();
  EXPECT_EQ(values(logits.grad())[0], 0);
  EXPECT_TRUE(std::isnan(cross_entropy(logits, ids({-100, -100})).item()));
  EXPECT_EQ(cross_entropy(to(logits, DType::bf16), ids({0, 1})).dtype(), DType::bf16);
  expect_error<ValueError>(
      [&] {
        cross_entropy(logits, ids({0, 2}));
      },
      "cross_entropy: label 2 is neither one of 2 classes nor the ignored label -100");
  expect_error<ValueError>([&] { cross_entropy(logits, ids({0})); },
                           "cross_entropy: labels of shape [1] for logits of shape [2, 2]");
  expect_error<TypeError>(
      [&] {
        cross_entropy(logits, row({0, 1}));
      },
      "cross_entropy: labels have elements of type i64, not f64");
  expect_error<ValueError>([&] { mse_loss(row({1}), row({1, 2})); }, "mse_loss: shapes [1] and [2] differ");
}

TEST(Dropout, DrawsOneStreamOrNone) {
  Generator generator{3, 0};
  const Tensor x = ones({1000});
  EXPECT_TRUE(dropout(x, 0, generator).same(x));
  EXPECT_EQ(generator.stream, 0u);
  const Tensor first = dropout(x, 0.25, generator), second = dropout(x, 0.25, generator);
  EXPECT_EQ(generator.stream, 2u);
  EXPECT_NE(values(first), values(second));
  EXPECT_NEAR(mean(first).item(), 1, 0.05);
  EXPECT_EQ(values(dropout(x, 1, generator)), List(1000, 0));
  Generator again{3, 0};
  EXPECT_EQ(values(dropout(x, 0.25, again)), values(first));
  expect_error<ValueError>([&] { dropout(x, 1.5, generator); }, "dropout: the probability is 1.5, not within 0 … 1");
  expect_error<ValueError>([&] { uniform({1}, 2, 1, generator); }, "uniform: the lower limit 2 is not below the upper limit 1");
  expect_error<ValueError>([&] { normal({1}, 0, -1, generator); }, "normal: the standard deviation is -1");
}

TEST(Dropout, KeepsNoMaskForBackward) {
  Generator generator{3, 0};
  const Tensor x = ones({1 << 16}).set_requires_grad();
  const std::int64_t before = memory::live_bytes();
  const Tensor y = dropout(x, 0.5, generator);
  EXPECT_EQ(memory::live_bytes() - before, 4 << 16);
  y.backward(ones(y.shape()));
  EXPECT_EQ(values(x.grad()), values(y));
}

TEST(Linalg, FactorsHaveTheirShapes) {
  const Tensor wide = tensor({1, 2, 3, 4, 5, 7}, {2, 3}), tall = contiguous(wide.t());
  for (const Tensor& a : {wide, tall}) {
    const QR f = qr(a);
    EXPECT_EQ(f.q.shape(), Shape({a.dim(0), 2}));
    EXPECT_EQ(f.r.shape(), Shape({2, a.dim(1)}));
    EXPECT_NEAR(values(matmul(f.q.t(), f.q))[1], 0, 1e-14);
    const SVD s = svd(a);
    EXPECT_EQ(s.s.shape(), Shape({2}));
    EXPECT_GT(values(s.s)[0], values(s.s)[1]);
    EXPECT_NEAR(values(matmul(s.vt, s.vt.t()))[0], 1, 1e-14);
  }
  EXPECT_EQ(values(cholesky(tensor({4, 2, 2, 2}, {2, 2}))), List({2, 0, 1, 1}));
}

TEST(Linalg, Refusals) {
  expect_error<ValueError>([] { inverse(zeros({2, 3})); }, "inverse: a matrix of shape [2, 3] is not square");
  expect_error<TypeError>([] { inverse(zeros({2, 2}, DType::f16)); }, "inverse: takes f32 or f64, not f16");
  expect_error<ValueError>([] { inverse(zeros({2, 2})); }, "singular");
  expect_error<ValueError>([] { cholesky(tensor({1, 2, 2, 1}, {2, 2})); }, "positive definite");
  expect_error<ValueError>(
      [] {
        solve_triangular(placed(Tensor::eye(2)), zeros({3, 2}), true);
      },
      "solve_triangular: shapes [2, 2] and [3, 2] do not fit");
}

}  // namespace
}  // namespace graft
