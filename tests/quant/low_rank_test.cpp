#include "graft/core/parallel.h"
#include "graft/tests/quant/fused_terms.h"
#include "graft/tests/support/tensors.h"

#include "reference.h"

namespace graft::quant {
namespace {

using namespace test;

struct LowRankTermsOfEach : testing::TestWithParam<std::size_t> {};  // layer of reference::one_of_each

TEST_P(LowRankTermsOfEach, FusedInHalfPrecisionTheyHaveTheBitsOfComposedOperations) {
  const Stored stored = reference::one_of_each(256, 128)[GetParam()];
  const auto layer = placed(make_layer(stored));
  for (const DType dtype : {DType::bf16, DType::f16})
    for (const Shape& leading : {Shape{1}, Shape{3}, Shape{2, 9}, Shape{40}})
      for (int order = 0; order < 3; ++order) {
        const Adapters adapters(*layer, leading, dtype, 3, order);
        const auto what =
            fmt::format("{} {} {} {} order {}", stored.description.method, stored.description.layout, dtype, leading, order);
        const auto composed = adapters.run(low_rank_sum(layer->forward(adapters.x), adapters.x, adapters.terms));
        for (const int threads : {1, 3}) {
          set_thread_pool(make_thread_pool(threads));
          expect_same_bits(adapters.run(layer->forward(adapters.x, adapters.terms)), composed, what);
          set_thread_pool(nullptr);
        }
      }
}
INSTANTIATE_TEST_SUITE_P(, LowRankTermsOfEach, testing::Range(std::size_t{0}, reference::count_of_each));

TEST(LowRankTerms, InHalfPrecisionTheyAreDifferentiatedTwice) {
  const auto layer =
      placed(make_layer(reference::gptq(reference::draw(64, 32, 4, 32, true, false, 1), reference::ZeroWriter::per_word)));
  for (int order = 0; order < 3; ++order) {
    const Adapters adapters(*layer, {2}, DType::bf16, 2, order);
    const auto twice = [&](const Tensor& y) {
      std::vector<Tensor> first = adapters.run(y, {.create_graph = true});
      const Tensor dA = first[2];
      std::vector<Tensor> wanted{adapters.x, adapters.factors[1]};
      const auto second = grad({&dA, 1}, wanted, std::vector{placed(whole_numbers(dA.shape(), DType::f32, 5))});
      first.insert(first.end(), second.begin(), second.end());
      return first;
    };
    expect_same_bits(twice(layer->forward(adapters.x, adapters.terms)),
                     twice(low_rank_sum(layer->forward(adapters.x), adapters.x, adapters.terms)), fmt::format("order {}", order));
  }
}

// The gradient of the input is a product of the same kind, with the terms' factors the other way round.
TEST(LowRankTerms, TheInputsGradientIsDifferentiated) {
  const auto layer =
      placed(make_layer(reference::gptq(reference::draw(64, 32, 4, 32, true, false, 1), reference::ZeroWriter::per_word)));
  for (const std::int64_t m : {0, 2, 40}) {
    const Adapters adapters(*layer, {m}, DType::f32, 2, 1);
    const auto twice = [&](const Tensor& y) {
      const Tensor dx = adapters.run(y, {.create_graph = true})[1];
      return grad({&dx, 1}, adapters.factors, std::vector{placed(whole_numbers(dx.shape(), DType::f32, 5))});
    };
    expect_same_bits(twice(layer->forward(adapters.x, adapters.terms)),
                     twice(low_rank_sum(layer->forward(adapters.x), adapters.x, adapters.terms)), fmt::format("{} rows", m));
  }
}

TEST(LowRankTerms, OfNoRowsTheFactorsHaveGradientsOfZeros) {
  const auto layer =
      placed(make_layer(reference::gptq(reference::draw(64, 32, 4, 32, true, false, 1), reference::ZeroWriter::per_word)));
  const Adapters adapters(*layer, {0}, DType::f32, 1, 1);
  const auto all = adapters.run(layer->forward(adapters.x, adapters.terms));
  for (std::size_t i = 0; i < 2; ++i)
    EXPECT_EQ(all[2 + i].to_vector<float>(), Tensor::zeros(adapters.factors[i].shape()).to_vector<float>());
}

TEST(LowRankTerms, WhatIsNotFusedFollowsComposed) {
  const auto layer =
      placed(make_layer(reference::gptq(reference::draw(64, 32, 4, 32, false, false, 1), reference::ZeroWriter::per_word)));
  Adapters adapters(*layer, {5}, DType::f16, 2, 0);
  adapters.terms[1].bias = placed(whole_numbers({32}, DType::f32, 6));
  for (const bool once : {false, true}) {
    if (once) adapters.terms[0].rounding = Rounding::once;
    expect_same_bits(adapters.run(layer->forward(adapters.x, adapters.terms)),
                     adapters.run(low_rank_sum(layer->forward(adapters.x), adapters.x, adapters.terms)), once ? "once" : "bias");
  }
}

TEST(LowRankTerms, OfSomeRowsTheyAreOneProduct) {
  for (const Stored& stored : reference::one_of_each(256, 128)) expect_rows_fused(*placed(make_layer(stored)));
}

TEST(LowRankTerms, OfPooledInputsTheyAreOneProduct) {
  for (const Stored& stored : reference::one_of_each(256, 128)) expect_pools_fused(*make_layer(stored));
}

TEST(LowRankTerms, GroupsMustDivideTheInput) {
  const auto layer =
      make_layer(reference::gptq(reference::draw(64, 32, 4, 32, false, false, 1), reference::ZeroWriter::per_word));
  Adapters adapters(*layer, {2}, DType::f32, 1, 0);
  LowRankTerm& term = adapters.terms[0];
  term.group = 24, term.A = slice(term.A, 1, 0, 2);
  expect_error<ValueError>([&] { layer->forward(adapters.x, adapters.terms); },
                           "groups of 24 do not divide an input of shape [2, 64]");
  const NoGrad no_grad;
  expect_error<ValueError>([&] { layer->forward(adapters.x, adapters.terms); }, "for groups of 24");
}

TEST(LowRankTerms, FactorsInHalfPrecisionHaveTheBitsOfComposedOperations) {
  for (const Stored& stored : reference::one_of_each(256, 128)) expect_halves_fused(*make_layer(stored));
}

TEST(LowRankTerms, OneAccumulatorIsAskedForAndRoundsOnce) {
  const auto layer =
      placed(make_layer(reference::gptq(reference::draw(256, 96, 4, 64, false, false, 1), reference::ZeroWriter::per_word)));
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Adapters adapters(*layer, {3}, dtype, 2, 0);
    layer->set_compute(Compute::exact);
    const auto separate = layer->forward(adapters.x, adapters.terms).to_vector<double>();
    layer->set_compute(Compute::one_accumulator);
    EXPECT_NE(print(*layer).find(", compute=one_accumulator)"), std::string::npos);
    const auto got = adapters.run(layer->forward(adapters.x, adapters.terms));
    // In f64 there is nothing to round.
    const Tensor wide = to(adapters.x, DType::f64);
    std::vector<LowRankTerm> terms = adapters.terms;
    for (LowRankTerm& term : terms) term.A = to(term.A, DType::f64), term.B = to(term.B, DType::f64);
    const Tensor y = layer->forward(wide, terms);
    const auto want = to(y, dtype).to_vector<double>(), have = got[0].to_vector<double>();
    double largest = 0, worst = 0;
    for (std::size_t i = 0; i < want.size(); ++i)
      largest = std::max(largest, std::abs(want[i])), worst = std::max(worst, std::abs(have[i] - want[i]));
    EXPECT_LE(worst, largest * (dtype == DType::bf16 ? 0x1p-7 : 0x1p-10));
    EXPECT_NE(have, separate) << "which is another order of rounding";
    EXPECT_EQ(got[1].dtype(), dtype);
  }
}

}  // namespace
}  // namespace graft::quant
