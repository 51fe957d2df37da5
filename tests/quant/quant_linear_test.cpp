#include "graft/quant/quant_linear.h"

#include <gtest/gtest.h>

#include <random>

#include "graft/autograd/gradcheck.h"
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"
#include "graft/core/parallel.h"
#include "graft/quant/kernels.h"
#include "graft/tests/support/errors.h"
#include "graft/tests/support/tensors.h"

#include "reference.h"

namespace graft::quant {
namespace {

using test::ones;
using test::placed;

Tensor random(const Shape& shape, DType dtype, unsigned seed = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<double> values;
  for (std::int64_t i = 0; i < shape.count(); ++i) values.push_back(normal(generator));
  return test::from(values, shape).to(dtype);
}

std::string name_of(const Stored& stored) {
  return fmt::format("{} {} {} bits", stored.description.method, stored.description.layout, stored.description.bits);
}

double largest_difference(const Tensor& a, const Tensor& b) {
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  EXPECT_EQ(x.size(), y.size());
  double worst = 0, largest = 1e-300;
  for (std::size_t i = 0; i < x.size(); ++i) {
    worst = std::max(worst, std::abs(x[i] - y[i]));
    largest = std::max(largest, std::abs(y[i]));
  }
  return worst / largest;
}

Stored with_bias(Stored stored) {
  stored.tensors["bias"] = random({stored.out}, DType::f16, 3).to(Device::cpu());
  return stored;
}

TEST(QuantLinear, MultipliesByTheDecodedWeightInEveryFormatAndDtype) {
  for (const Stored& plain : reference::one_of_each(256, 128)) {
    SCOPED_TRACE(name_of(plain));
    const Stored stored = plain.tensors.count("B") ? plain : with_bias(plain);
    const auto layer = placed(make_layer(stored));
    const Tensor weight = placed(dequantize(decode(stored), 0, stored.out)).to(DType::f64);
    const Tensor bias = layer->bias().defined() ? layer->bias().to(DType::f64) : Tensor();
    const struct {
      DType dtype;
      double tolerance;
    } cases[] = {{DType::f64, 1e-14}, {DType::f32, 2e-6}, {DType::f16, 1e-3}, {DType::bf16, 8e-3}};
    for (const auto& [dtype, tolerance] : cases)
      for (std::int64_t rows : {1, 3, 17}) {
        Tensor x = random({rows, stored.in}, dtype);
        x.set_requires_grad();
        const Tensor y = layer->forward(x);
        EXPECT_EQ(y.dtype(), dtype);
        const Tensor want = linear(x.detach().to(DType::f64), weight, bias);
        EXPECT_LE(largest_difference(y, want), tolerance) << name(dtype) << " " << rows;
        const Tensor dy = random(y.shape(), dtype, 2);
        y.backward(dy);
        EXPECT_LE(largest_difference(x.grad(), matmul(dy.to(DType::f64), weight)), tolerance) << name(dtype) << " " << rows;
      }
  }
}

TEST(QuantLinear, DerivativesOfFirstAndSecondOrder) {
  for (const Stored& stored : reference::one_of_each(64, 64)) {
    SCOPED_TRACE(name_of(stored));
    const auto layer = placed(make_layer(stored));
    Tensor x = random({1, stored.in}, DType::f64);
    x.set_requires_grad();
    // Squared, so that the second derivative is not zero.
    const auto f = [&](std::span<const Tensor> xs) {
      const Tensor y = layer->forward(xs[0]);
      return sum(y * y) * 1e-3;
    };
    const auto result = gradcheck(f, std::span(&x, 1), {.second_order = true});
    EXPECT_TRUE(result) << result.message;
    EXPECT_LE(result.worst, 1e-7);
  }
}

// Two terms of x itself, which the layer sums with its product, and one of another input, which it cannot.
std::vector<LowRankTerm> terms_of(std::span<const Tensor> t) {
  return {{.A = t[1], .B = t[2], .scale = 0.5}, {.A = t[3], .B = t[4]}, {.x = t[5], .A = t[3], .B = t[4], .scale = 2}};
}
std::vector<Tensor> operands(std::int64_t in, std::int64_t out, DType dtype) {
  return {random({1, 2, in}, dtype, 1), random({4, in}, dtype, 2),  random({out, 4}, dtype, 3),
          random({1, in}, dtype, 4),    random({out, 1}, dtype, 5), random({1, 2, in}, dtype, 6)};
}

TEST(QuantLinear, TermsAreSummedWithTheProductAndDifferentiated) {
  for (const bool act_order : {false, true}) {
    const auto layer =
        placed(make_layer(reference::gptq(reference::draw(64, 32, 4, 32, act_order, false, 1), reference::ZeroWriter::per_word)));
    std::vector<Tensor> t = operands(64, 32, DType::f32);
    const std::vector<LowRankTerm> terms = terms_of(t);
    EXPECT_LE(largest_difference(layer->forward(t[0], terms), low_rank_sum(layer->forward(t[0]), t[0], terms)), 1e-6);

    t = operands(64, 32, DType::f64);
    for (Tensor& tensor : t) tensor.set_requires_grad();
    const auto f = [&](std::span<const Tensor> xs) {
      const Tensor y = layer->forward(xs[0], terms_of(xs));
      return sum(y * y) * 1e-3;
    };
    const auto result = gradcheck(f, t, {.second_order = true});
    EXPECT_TRUE(result) << result.message;
    EXPECT_LE(result.worst, 1e-7);
  }
}

TEST(QuantLinear, AdaptersGradientsAreTheSameForFewRowsAndForMany) {
  const auto layer =
      placed(make_layer(reference::gptq(reference::draw(512, 96, 4, 128, false, false, 1), reference::ZeroWriter::per_word)));
  for (const std::int64_t m : {1, 3, 16, 17, 33}) {
    Tensor x = random({m, 512}, DType::f32, 1), A = random({4, 512}, DType::f32, 2), B = random({96, 4}, DType::f32, 3);
    const Tensor dy = random({m, 96}, DType::f32, 4);
    for (Tensor* t : {&x, &A, &B}) t->set_requires_grad();
    const LowRankTerm term{.A = A, .B = B, .scale = 0.5};
    const auto gradients = [&](int threads) {
      set_thread_pool(make_thread_pool(threads));
      const Tensor y = layer->forward(x, {&term, 1});
      const std::vector<Tensor> wanted{x, A, B};
      auto all = grad({&y, 1}, wanted, {&dy, 1});
      set_thread_pool(nullptr);
      return all;
    };
    const std::vector<Tensor> all = gradients(1), on_three = gradients(3);
    for (std::size_t i = 0; i < all.size(); ++i)
      EXPECT_EQ(all[i].to_vector<float>(), on_three[i].to_vector<float>()) << i << " of " << m << " rows";

    const NoGrad unrecorded;
    const auto wide = [](const Tensor& t) { return to(t, DType::f64); };
    const Tensor dA = matmul(matmul(wide(dy), wide(B)).t(), wide(x)) * 0.5,
                 dB = matmul(wide(dy).t(), matmul(wide(x), wide(A).t())) * 0.5;
    EXPECT_LE(largest_difference(all[1], dA), 1e-5) << m << " rows";
    EXPECT_LE(largest_difference(all[2], dB), 1e-5) << m << " rows";
  }
}

TEST(QuantLinear, TermsWhoseFactorsAreFrozenKeepNoActivation) {
  const auto layer =
      placed(make_layer(reference::gptq(reference::draw(512, 512, 4, 128, true, false, 1), reference::ZeroWriter::per_word)));
  Tensor x = random({40, 512}, DType::f32);
  x.set_requires_grad();
  Tensor A = random({4, 512}, DType::f32), B = random({512, 4}, DType::f32);
  const LowRankTerm term{.A = A, .B = B};
  const auto kept = [&] {
    Tensor activation = x * 2;
    const auto before = memory::live_bytes();
    const Tensor y = layer->forward(activation, {&term, 1});
    activation = Tensor();
    return memory::live_bytes() - before;
  };
  EXPECT_EQ(kept(), 0) << "y in place of the activation";
  B.set_requires_grad();
  EXPECT_GE(kept(), 40 * 512 * 4) << "for the gradient of B when it is differentiated again";
}

TEST(QuantLinear, ABiasThatIsTrainedGetsItsGradient) {
  const Stored stored = with_bias(reference::awq_gemm(reference::draw(64, 32, 4, 32, false, false, 1)));
  const auto made = placed(make_layer(stored));
  Tensor bias = made->bias().clone();
  bias.set_requires_grad();
  const QuantLinear layer(made->format(), std::shared_ptr<const Packed>(made, &made->packed()), bias);
  layer.forward(random({5, 2, 64}, DType::f32)).backward(ones({5, 2, 32}));
  EXPECT_EQ(bias.grad().to_vector<float>(), std::vector<float>(32, 10));
}

TEST(QuantLinear, TakesAnyLeadingDimensionsAndStrides) {
  const auto layer =
      placed(make_layer(reference::gptq(reference::draw(64, 32, 4, 32, false, true, 1), reference::ZeroWriter::as_is)));
  const Tensor x = random({2, 3, 64}, DType::f32);
  const Tensor y = layer->forward(x);
  EXPECT_EQ(y.shape(), (Shape{2, 3, 32}));
  EXPECT_EQ(layer->forward(x.reshape({6, 64})).to_vector<float>(), y.to_vector<float>());
  const Tensor sideways = x.alias({3, 2, 64}, {64, 192, 1}, 0);
  EXPECT_EQ(layer->forward(sideways).to_vector<float>(), layer->forward(sideways.clone()).to_vector<float>());
  const Tensor columns = random({64, 5}, DType::f32).t();
  EXPECT_EQ(layer->forward(columns).to_vector<float>(), layer->forward(columns.clone()).to_vector<float>());
  EXPECT_EQ(layer->forward(x.alias({64}, {1}, 0)).shape(), (Shape{32}));
  EXPECT_EQ(layer->forward(test::zeros({0, 64})).shape(), (Shape{0, 32}));
}

TEST(QuantLinear, KeepsNoActivationAndNoDenseCopy) {
  const auto layer =
      placed(make_layer(reference::gptq(reference::draw(512, 512, 4, 128, true, false, 1), reference::ZeroWriter::per_word)));
  Tensor x = random({4, 512}, DType::f32);
  x.set_requires_grad();
  const auto before = memory::live_bytes();
  memory::reset_peak();
  const Tensor y = layer->forward(x);
  EXPECT_EQ(memory::live_bytes(), before + 4 * 512 * 4) << "only the result stays";
  y.backward(ones({4, 512}));
  EXPECT_LT(memory::peak_bytes(), before + 512 * 512 * 4 / 2) << "less than a dense weight was made on the way";
}

TEST(QuantLinear, AutocastLowersTheProduct) {
  const auto layer = placed(make_layer(with_bias(reference::awq_gemm(reference::draw(64, 32, 4, 32, false, false, 1)))));
  const Tensor x = random({3, 64}, DType::f32);
  const Tensor low = layer->forward(x.to(DType::bf16));
  const autocast::Guard guard(test::tested_device().type, DType::bf16);
  const Tensor y = layer->forward(x);
  EXPECT_EQ(y.dtype(), DType::bf16);
  EXPECT_EQ(y.to_vector<float>(), low.to_vector<float>());
}

TEST(QuantLinear, Int8ActivationsAreAskedForAndTheirErrorIsKnown) {
  for (const Stored& stored : reference::one_of_each(256, 128)) {
    SCOPED_TRACE(name_of(stored));
    const auto layer = placed(make_layer(stored));
    const Tensor x = random({2, 9, 256}, DType::f32), exact = layer->forward(x), dy = random(exact.shape(), DType::f32, 2);
    const auto gradient = [&] {
      Tensor input = x.clone();
      input.set_requires_grad(true);
      layer->forward(input).backward(dy);
      return input.grad().to_vector<float>();
    };
    const auto wanted = gradient();
    EXPECT_EQ(compute_error(*layer, Compute::exact, x), 0);
    const double error = compute_error(*layer, Compute::int8_activations, x);
    EXPECT_GT(error, 2e-3);
    EXPECT_LT(error, 1e-2);

    EXPECT_EQ(layer->compute(), Compute::exact);
    layer->set_compute(Compute::int8_activations);
    EXPECT_EQ(layer->compute(), Compute::int8_activations);
    const auto y = layer->forward(x).to_vector<double>(), all = exact.to_vector<double>();
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < y.size(); ++i) difference += (y[i] - all[i]) * (y[i] - all[i]), size += all[i] * all[i];
    if (!layer->bias().defined()) {
      EXPECT_NEAR(std::sqrt(difference / size), error, 1e-6);
    }
    EXPECT_EQ(gradient(), wanted);
    EXPECT_NE(print(*layer).find(", compute=int8_activations)"), std::string::npos);
    for (DType dtype : {DType::f16, DType::bf16}) EXPECT_LT(compute_error(*layer, Compute::int8_activations, x.to(dtype)), 1e-2);
    test::expect_error<TypeError>([&] { layer->forward(x.to(DType::f64)); },
                                  "quantized product: int8 activations are made of f32, f16 or bf16, not of f64");
    test::expect_error<TypeError>([&] { compute_error(*layer, Compute::int8_activations, x.to(DType::f64)); },
                                  "compute_error: the input holds f64");
    test::expect_error<ValueError>(
        [&] {
          compute_error(*layer, Compute::int8_activations, ones({3, 63}));
        },
        "its last dimension must be 256");
  }
}

TEST(QuantLinear, GivesBackTheTensorsThatItWasMadeFrom) {
  for (const Stored& stored : reference::one_of_each(256, 128)) {
    const auto layer = placed(make_layer(stored));
    ASSERT_EQ(layer->original().size(), stored.tensors.size());
    for (const auto& [name, tensor] : layer->original()) EXPECT_EQ(tensor.storage(), stored.tensors.at(name).storage()) << name;
    EXPECT_TRUE(layer->qweight().defined());
  }
  const auto made = make_layer(reference::awq_gemm(reference::draw(64, 32, 4, 32, false, false, 1)));
  const QuantLinear bare(made->format(), std::shared_ptr<const Packed>(made, &made->packed()));
  test::expect_error<AttributeError>([&] { bare.original(); }, "was not made from stored tensors");
  test::expect_error<AttributeError>([&] { bare.qweight(); }, "was not made from stored tensors");
}

TEST(QuantLinear, DequantizesSomeRows) {
  const reference::Integers integers = reference::draw(64, 32, 4, 32, false, true, 1);
  const auto layer = placed(make_layer(reference::gptq(integers, reference::ZeroWriter::as_is)));
  const auto rows = layer->dequantize(5, 9).to_vector<float>();
  for (std::int64_t n = 5; n < 9; ++n)
    for (std::int64_t k = 0; k < 64; ++k) ASSERT_EQ(rows[static_cast<std::size_t>((n - 5) * 64 + k)], integers.weight(k, n));
  EXPECT_EQ(layer->dequantize(3, 3).shape(), (Shape{0, 64}));
  test::expect_error<ValueError>([&] { layer->dequantize(0, 33); }, "dequantize: rows 0 to 33 of 32");
}

TEST(QuantLinear, DescribesItself) {
  const auto layer = placed(
      make_layer(with_bias(reference::gptq(reference::draw(64, 32, 4, 32, true, false, 1), reference::ZeroWriter::as_is))));
  EXPECT_EQ(print(*layer), "QuantLinear(in_features=64, out_features=32, bias=True, gptq gptq_v2, bits=4, group_size=32)");
  EXPECT_FALSE(layer->weight().defined());
  ASSERT_EQ(named_parameters(*layer).size(), 1u);
  EXPECT_EQ(named_parameters(*layer)[0].name, "bias");
  EXPECT_TRUE(named_buffers(*layer).empty());
}

TEST(QuantLinear, RefusesWhatDoesNotFit) {
  const Stored stored = reference::awq_gemm(reference::draw(64, 32, 4, 32, false, false, 1));
  const auto layer = placed(make_layer(stored));
  test::expect_error<ValueError>(
      [&] {
        layer->forward(ones({3, 63}));
      },
      "quantized linear: the input has shape [3, 63]; its last dimension must be 64");
  test::expect_error<ValueError>([&] { layer->forward(ones({})); }, "its last dimension must be 64");
  test::expect_error<TypeError>([&] { layer->forward(ones({3, 64}, DType::i32)); }, "the input holds i32, not a floating type");
  test::expect_error<ValueError>([&] { QuantLinear(layer->format(), nullptr); }, "there is no packed weight");
  test::expect_error<ValueError>(
      [&] { QuantLinear(layer->format(), std::shared_ptr<const Packed>(layer, &layer->packed()), ones({31})); },
      "a bias of shape [31] for 32 out features");
  test::expect_error<TypeError>([&] { make_layer(stored, DType::i8); }, "bias cannot be kept in i8");
}

}  // namespace
}  // namespace graft::quant
