#include "graft/adapters/oft.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "graft/adapters/inject.h"
#include "graft/adapters/lora.h"
#include "graft/adapters/peft_io.h"
#include "graft/adapters/routing.h"
#include "graft/adapters/rules.h"
#include "graft/adapters/warning.h"
#include "graft/autograd/gradcheck.h"
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"

#include "../support/errors.h"
#include "../support/tested.h"
#include "layers.h"

namespace graft::oft_test {
namespace {

using oft::Casts;
using oft::OFTAdapter;
using oft::OFTRotation;
using oft::Options;
using test::distance;
using test::expect_error;
using test::make_base;

const Tensor x = test::random({3, 64}, 5);
const Options blocks_of_8{.r = 0, .oft_block_size = 8};

OFTRotation rotation(const Options& options, double deviation = 0.1, DType dtype = DType::f64) {
  Generator generator{1, 0};
  OFTRotation made(64, options, dtype, test::tested_device(), generator);
  made.weight = test::random(made.weight.shape(), 3, dtype, deviation);
  return made;
}

/// The skew-symmetric Q of block i, entry by entry.
Tensor generator_of(const OFTRotation& r, std::int64_t i) {
  const std::int64_t b = r.block_size();
  const auto packed = slice(r.weight, 0, i, i + 1).to_vector<double>();
  std::vector<double> q(static_cast<std::size_t>(b * b));
  std::size_t next = 0;
  for (std::int64_t row = 0; row < b; ++row)
    for (std::int64_t column = row + 1; column < b; ++column, ++next)
      q[row * b + column] = packed[next], q[column * b + row] = -packed[next];
  return to(Tensor::from(q, {b, b}), r.weight.device());
}

Tensor block(const Tensor& blocks, std::int64_t i) { return squeeze(slice(blocks, 0, i, i + 1), 0); }

std::shared_ptr<AdapterLayer> layer_with(const Options& options, const std::string& format = "dense") {
  auto layer = std::make_shared<AdapterLayer>(make_base(format, 64, 32), "oft");
  layer->add_adapter("default", std::make_shared<OFTAdapter>(*layer->base_layer(), options, Casts::wide));
  test::randomise(*layer, "default", 4);
  return layer;
}
OFTAdapter& adapter_of(AdapterLayer& layer) { return dynamic_cast<OFTAdapter&>(*layer.adapter("default")); }

TEST(OFT, ResolvesBlocks) {
  const auto pair = [](const oft::Blocks& b) { return std::pair(b.count, b.size); };
  const adapters::WarningScope warnings;
  EXPECT_EQ(pair(oft::resolve_blocks(64, 8, 0)), std::pair(std::int64_t{8}, std::int64_t{8}));
  EXPECT_EQ(pair(oft::resolve_blocks(64, 0, 16)), std::pair(std::int64_t{4}, std::int64_t{16}));
  EXPECT_TRUE(warnings.messages().empty());
  EXPECT_EQ(oft::resolve_blocks(64, 0, 12).size, 8) << "8 and 16 are as near; ties go down";
  EXPECT_EQ(oft::resolve_blocks(64, 0, 100).size, 64);
  EXPECT_EQ(oft::resolve_blocks(60, 7, 0).count, 6);
  ASSERT_EQ(warnings.messages().size(), 3u);
  EXPECT_EQ(warnings.messages()[0], "oft_block_size = 12 does not divide the 64 input features; 8 is used");
  for (const auto& [r, size] : {std::pair{8, 8}, {0, 0}, {-1, 0}, {0, -8}})
    expect_error<ValueError>([&] { oft::resolve_blocks(64, r, size); }, fmt::format("they are {} and {}", r, size));
}

TEST(OFT, ExactCayleyIsOrthogonalAndAsDefined) {
  const OFTRotation r = rotation(blocks_of_8);
  const Tensor R = r.matrix(r.weight), I = Tensor::eye(8, DType::f64, r.weight.device());
  EXPECT_EQ(R.shape(), (Shape{8, 8, 8}));
  for (std::int64_t i = 0; i < 8; ++i) {
    const Tensor Q = generator_of(r, i), B = block(R, i);
    EXPECT_LT(distance(matmul(B, B.t()), I), 1e-14);
    EXPECT_LT(distance(matmul(B, I + Q), I - Q), 1e-14);
  }
}

TEST(OFT, SeriesHasPeftsTermsAndConvergesToTheInverse) {
  const auto series = [](std::int64_t terms) {
    const OFTRotation r = rotation({.r = 0, .oft_block_size = 8, .use_cayley_neumann = true, .num_cayley_neumann_terms = terms});
    return r.matrix(r.weight);
  };
  const OFTRotation r = rotation(blocks_of_8);
  const Tensor I = Tensor::eye(8, DType::f64, r.weight.device()), exact = r.matrix(r.weight), many = series(60);
  for (std::int64_t i = 0; i < 8; ++i) {
    const Tensor Q = generator_of(r, i), Q2 = matmul(Q, Q), Q3 = matmul(Q2, Q), Q4 = matmul(Q3, Q);
    EXPECT_EQ(distance(block(series(1), i), I), 0);
    EXPECT_LT(distance(block(series(2), i), I + Q * 2), 1e-15);
    EXPECT_LT(distance(block(series(4), i), I + Q * 2 + Q2 * 2 + Q3), 1e-15);
    EXPECT_LT(distance(block(series(5), i), I + Q * 2 + Q2 * 2 + Q3 * 2 + Q4), 1e-15);
    EXPECT_LT(distance(matmul(block(many, i), block(exact, i)), I), 1e-12);
  }
  EXPECT_EQ(distance(series(3), series(4)), 0);
  EXPECT_GT(distance(many, exact), 0.1);
}

TEST(OFT, TurnsBlockByBlock) {
  const OFTRotation r = rotation(blocks_of_8);
  const Tensor wide = to(x, DType::f64), y = r.forward(wide), R = r.matrix(r.weight);
  for (std::int64_t i = 0; i < 8; ++i)
    EXPECT_LT(distance(slice(y, 1, 8 * i, 8 * i + 8), matmul(slice(wide, 1, 8 * i, 8 * i + 8), block(R, i))), 1e-14);
  EXPECT_EQ(r.forward(x).dtype(), DType::f32) << "the result has the input's dtype";
}

TEST(OFT, ASharedBlockIsUsedEverywhere) {
  const OFTRotation shared = rotation({.r = 0, .oft_block_size = 8, .block_share = true});
  OFTRotation separate = rotation(blocks_of_8);
  EXPECT_EQ(shared.weight.shape(), (Shape{1, 28}));
  EXPECT_EQ(shared.blocks(), 8);
  separate.weight = contiguous(expand(shared.weight, {8, 28}));
  const Tensor wide = to(x, DType::f64);
  EXPECT_LT(distance(shared.forward(wide), separate.forward(wide)), 1e-14);
}

TEST(OFT, EveryFormHasTheGradientsOfFiniteDifferences) {
  for (const bool share : {false, true}) {
    for (const std::int64_t terms : {0, 2, 4, 6}) {  // 0: exact
      SCOPED_TRACE(fmt::format("{} terms, {}", terms, share ? "shared" : "separate"));
      OFTRotation r = rotation({.r = 0,
                                .oft_block_size = 4,
                                .block_share = share,
                                .use_cayley_neumann = terms > 0,
                                .num_cayley_neumann_terms = terms});
      Tensor weight = r.weight, wide = test::random({2, 64}, 6, DType::f64);
      weight.set_requires_grad();
      wide.set_requires_grad();
      const Tensor inputs[] = {wide, weight};
      const auto f = [&](std::span<const Tensor> in) { return r.weight = in[1], r.forward(in[0]); };
      const auto result = gradcheck(f, inputs);
      EXPECT_TRUE(result) << result.message;
    }
  }
}

TEST(OFT, AsManyBlocksAsModuleDropoutSaysAreLeftOut) {
  const auto layer = layer_with({.r = 0, .oft_block_size = 8, .module_dropout = 0.3});
  const OFTAdapter& adapter = adapter_of(*layer);
  const auto turned_blocks = [&](bool training) {
    const Tensor y = adapter.input(x, {*layer->base_layer(), training});
    int turned = 0;
    for (std::int64_t i = 0; i < 8; ++i) turned += distance(slice(y, 1, 8 * i, 8 * i + 8), slice(x, 1, 8 * i, 8 * i + 8)) > 0;
    return turned;
  };
  EXPECT_EQ(turned_blocks(false), 8);
  for (int call = 0; call < 5; ++call) EXPECT_EQ(turned_blocks(true), 6);  // 8 - floor(2.4)
  layer->set_training(true);
  EXPECT_GT(distance(layer->forward(x), layer->forward(x)), 0) << "each call chooses anew";
  const auto shared = layer_with({.r = 0, .oft_block_size = 8, .module_dropout = 0.9, .block_share = true});
  const Tensor y = shared->forward(x);
  shared->set_training(true);
  EXPECT_EQ(distance(shared->forward(x), y), 0) << "a single block is never left out";
  expect_error<ValueError>([] { layer_with({.module_dropout = 1}); }, "module_dropout is 1, not a probability in [0, 1)");
}

// ---- COFT ----

double generator_norm(const OFTRotation& r, std::int64_t i) { return norm(generator_of(r, i)).item(); }

TEST(COFT, ProjectsOntoTheBallAndLeavesWhatIsInside) {
  OFTRotation r = rotation({.r = 0, .oft_block_size = 8, .coft = true, .eps = 1});
  const double radius = 1 / std::sqrt(8.0);
  r.weight = contiguous(r.weight * to(Tensor::from(std::vector<double>{1, 0.1, 1, 2, 1e-3, 1, 0, 5}, {8, 1}), r.weight.device()));
  OFTRotation inside = r;
  inside.weight = r.projected();
  for (std::int64_t i = 0; i < 8; ++i) {
    const double before = generator_norm(r, i);
    if (before <= radius) {
      EXPECT_EQ(distance(generator_of(inside, i), generator_of(r, i)), 0);
    } else {
      EXPECT_NEAR(generator_norm(inside, i), radius, 1e-12);
      EXPECT_LT(distance(generator_of(inside, i) * (before / radius), generator_of(r, i)), 1e-12) << "the direction stays";
    }
  }
  EXPECT_EQ(inside.projected().to_vector<double>(), inside.weight.to_vector<double>()) << "what is inside is not moved again";
}

TEST(COFT, OnlyTrainingWritesTheProjection) {
  const Options options{.r = 0, .oft_block_size = 8, .coft = true, .eps = 0.5};
  const auto layer = layer_with(options);
  OFTRotation& r = adapter_of(*layer).rotation();
  const auto before = r.weight.to_vector<float>(), inside = r.projected().to_vector<float>();
  const std::uint64_t version = r.weight.version();
  ASSERT_NE(before, inside);
  const Tensor y = layer->forward(x);
  EXPECT_EQ(r.weight.to_vector<float>(), before);
  EXPECT_EQ(r.weight.version(), version);

  layer->set_training(true);
  const Tensor trained = layer->forward(x);
  EXPECT_EQ(trained.to_vector<float>(), y.to_vector<float>());
  EXPECT_EQ(r.weight.to_vector<float>(), inside);
  const std::uint64_t written = r.weight.version();
  layer->forward(x);
  EXPECT_EQ(r.weight.version(), written)
      << "a parameter that is inside is not written, so that a backward that waits still works";
}

TEST(COFT, GradientsAreThoseAtTheProjectedPoint) {
  const Options free{.r = 0, .oft_block_size = 8};
  Options bound = free;
  bound.coft = true;
  bound.eps = 0.5;
  const auto constrained = layer_with(bound), plain = layer_with(free);
  adapter_of(*plain).rotation().weight.copy_(adapter_of(*constrained).rotation().projected());
  for (AdapterLayer* layer : {constrained.get(), plain.get()}) sum(tanh(layer->forward(x))).backward();
  EXPECT_EQ(adapter_of(*constrained).rotation().weight.grad().to_vector<float>(),
            adapter_of(*plain).rotation().weight.grad().to_vector<float>());
}

TEST(COFT, LoadingPutsTheParameterIntoItsBall) {
  const test::TemporaryFolder folder;
  OFTConfig config{.oft_block_size = 16, .target_modules = {"q_proj"}, .eps = 0.5};
  const auto first = [](test::Model& model) -> Tensor& {
    auto& layer = dynamic_cast<AdapterLayer&>(*model.layers[0]->q_proj);
    return adapter_of(layer).rotation().weight;
  };
  test::Model free;  // its generators lie outside, as after a step of an optimizer
  adapters::inject(free, config);
  first(free).copy_(test::random(first(free).shape(), 3, DType::f32, 1));
  for (const bool coft : {false, true}) {
    config.coft = coft;
    adapters::save_pretrained(free, folder.path());
    std::ofstream(folder.path() + "/adapter_config.json") << to_json(config);
    test::Model model;
    adapters::load_pretrained(model, folder.path(), {.is_trainable = true});
    const Tensor loaded = first(model).clone();
    const double expected = coft ? 0.5 / 2 : norm(slice(first(free), 0, 0, 1)).item() * std::sqrt(2.0);  // four blocks
    EXPECT_NEAR(norm(slice(loaded, 0, 0, 1)).item() * std::sqrt(2.0), expected, 1e-6 * expected);
    // Already inside, it comes through the next folder bit for bit.
    adapters::save_pretrained(model, folder.path());
    test::Model again;
    adapters::load_pretrained(again, folder.path());
    EXPECT_EQ(first(again).to_vector<float>(), loaded.to_vector<float>());
  }
}

// ---- merging, casts, refusals ----

TEST(OFT, MergesAndComesOutAgain) {
  for (const bool series : {false, true}) {
    for (const bool share : {false, true}) {
      const auto layer = layer_with({.r = 0, .oft_block_size = 8, .block_share = share, .use_cayley_neumann = series});
      const Tensor y = layer->forward(x), before = layer->weight().clone();
      layer->merge();
      EXPECT_GT(distance(layer->weight(), before), 0.01);
      EXPECT_LT(distance(layer->forward(x), y), 1e-5);
      layer->unmerge();
      EXPECT_LT(distance(layer->weight(), before), 1e-6);
    }
  }
}

TEST(OFT, TwoRotationsMergeInTheOrderInWhichTheyApply) {
  const auto layer = layer_with(blocks_of_8);
  layer->add_adapter("second", std::make_shared<OFTAdapter>(*layer->base_layer(), Options{.r = 4}, Casts::wide));
  test::randomise(*layer, "second", 9);
  layer->set_adapter({"second", "default"});
  const Tensor y = layer->forward(x);
  layer->set_adapter({"default", "second"});
  EXPECT_GT(distance(layer->forward(x), y), 1e-3) << "rotations do not commute";
  layer->set_adapter({"second", "default"});
  layer->merge();
  EXPECT_LT(distance(layer->forward(x), y), 1e-5);
}

TEST(OFT, ARotationIsNotMergedOntoOthers) {
  const auto layer = layer_with(blocks_of_8);
  layer->add_adapter("second", std::make_shared<OFTAdapter>(*layer->base_layer(), Options{.r = 4}, Casts::wide));
  layer->add_adapter("lora", std::make_shared<lora::LoraAdapter>(*layer->base_layer(), lora::Options{.r = 2}, Rounding::once));
  for (const char* name : {"second", "lora"}) test::randomise(*layer, name, 9);
  const auto merge = [&](const char* name) { layer->merge(false, std::vector<std::string>{name}); };
  for (const char* first : {"default", "lora"}) {
    merge(first);
    const Tensor before = layer->weight().clone();
    expect_error<ValueError>(
        [&] { merge("second"); },
        fmt::format("adapter 'second' turns the layer's input, and cannot be merged after others ({})", first));
    EXPECT_EQ(distance(layer->weight(), before), 0);
    EXPECT_EQ(layer->merged_adapters(), std::vector<std::string>{first});
    layer->unmerge();
  }
  // What adds to the weight may follow a rotation.
  layer->set_adapter({"default", "lora"});
  const Tensor y = layer->forward(x);
  merge("default");
  merge("lora");
  EXPECT_LT(distance(layer->forward(x), y), 1e-5);
}

TEST(OFT, ADenseLayerGivesBackTheInputsDtypeUnderAutocast) {
  const auto layer = layer_with(blocks_of_8);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Tensor input = to(x, dtype);
    for (const DType lowered : {DType::bf16, DType::f16}) {
      const autocast::Guard guard(test::tested_device().type, lowered);
      EXPECT_EQ(layer->forward(input).dtype(), dtype);
    }
  }
}

TEST(OFT, WhatServingKeepsIsTheSameInEveryBit) {
  for (const bool coft : {false, true}) {
    SCOPED_TRACE(coft);
    Options options = blocks_of_8;
    options.coft = coft;
    options.eps = 0.05;
    const auto layer = layer_with(options, "gptq");
    const auto turned = [&] {
      return to(adapter_of(*layer).input(x, {*layer->base_layer(), layer->training()}).detach(), DType::f32).to_vector<float>();
    };
    const auto computed = [&] {  // where somebody differentiates, nothing is kept
      const GradMode on(true);
      return turned();
    };
    const NoGrad no_grad;
    const auto first = computed();
    EXPECT_EQ(turned(), first);
    EXPECT_EQ(turned(), first);
    test::randomise(*layer, "default", 17);
    EXPECT_EQ(turned(), computed());
    EXPECT_NE(turned(), first);
    const autocast::Guard guard(test::tested_device().type, DType::bf16);
    EXPECT_EQ(turned(), computed());
  }
}

// The product makes the last rotation itself where nobody differentiates, with sums in the composed operation's order on the CPU.
TEST(OFT, ServingHasTheBitsOfTrainingOfTheCpu) {
  const auto expect_same = [](const AdapterLayer& layer, const std::string& what) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (const std::int64_t m : {1, 5, 40})
        for (const std::optional<DType> low : {std::optional<DType>(), std::optional(DType::bf16)}) {
          const autocast::Guard guard(Device::Type::cpu, low);
          const Tensor input = test::random({m, 64}, 6, dtype), trained = layer.forward(input);
          const NoGrad no_grad;
          const Tensor served = layer.forward(input);
          EXPECT_EQ(served.dtype(), trained.dtype()) << what;
          EXPECT_EQ(served.to_vector<float>(), trained.detach().to_vector<float>()) << fmt::format("{} {} {}", what, m, dtype);
        }
  };
  for (const std::string format : {"gptq", "awq", "eetq"})
    for (const Casts casts : {Casts::wide, Casts::per_rotation})
      for (const Options& options : {blocks_of_8, Options{.r = 0, .oft_block_size = 32, .block_share = true},
                                     Options{.r = 0, .oft_block_size = 16, .coft = true, .eps = 0.05}}) {
        AdapterLayer layer(make_base(format, 64, 32, true), "oft");
        for (const char* name : {"a", "b"}) {
          layer.add_adapter(name, std::make_shared<OFTAdapter>(*layer.base_layer(), options, casts));
          test::randomise(layer, name, 4);
        }
        layer.add_adapter("lora",
                          std::make_shared<lora::LoraAdapter>(*layer.base_layer(), lora::Options{.r = 4}, Rounding::per_adapter));
        test::randomise(layer, "lora", 5);
        for (const std::vector<std::string>& active :
             {std::vector<std::string>{"a"}, {"a", "b"}, {"lora", "b"}, {"a", "lora", "b"}}) {
          layer.set_adapter(active);
          expect_same(layer,
                      fmt::format("{} {} {}", format, casts == Casts::wide ? "wide" : "per rotation", fmt::join(active, " ")));
        }
      }
}

TEST(OFT, HalfPrecisionRowsOfAMixedBatchAreRoundedAsAlone) {
  const Tensor half = to(test::random({64, 64}, 6), DType::bf16);
  const NoGrad no_grad;
  for (const char* format : {"gptq", "awq", "eetq", "dense"}) {
    SCOPED_TRACE(format);
    const Casts casts = format == std::string_view("awq") ? Casts::per_rotation : Casts::wide;
    AdapterLayer layer(make_base(format, 64, 32, true, DType::bf16), "oft");
    layer.add_adapter("a", std::make_shared<OFTAdapter>(*layer.base_layer(), blocks_of_8, casts));
    test::randomise(layer, "a", 4);
    const Tensor alone = layer.forward(half);
    std::vector<std::string> names(64, "a");
    names[63] = adapters::base_name;
    const adapters::RoutingGuard rows({names, true});
    const Tensor mixed = layer.forward(half);
    EXPECT_EQ(mixed.dtype(), DType::bf16);
    const auto a = slice(alone, 0, 0, 63).to_vector<float>(), b = slice(mixed, 0, 0, 63).to_vector<float>();
    // Sums over other shapes may round to the neighbour once in a while; rounding the turned input first moves a third of them.
    std::size_t moved = 0;
    for (std::size_t i = 0; i < a.size(); ++i) moved += a[i] != b[i];
    EXPECT_LT(moved, a.size() / 100);
    EXPECT_EQ(distance(to(slice(mixed, 0, 63, 64), DType::f32),
                       to(layer.base_layer()->forward(slice(half, 0, 63, 64)), DType::f32)) < 0.05,
              true);
  }
}

TEST(OFT, QuantizedBasesComputeInTheAdaptersDtypeOrInTheInputs) {
  const Tensor half = to(x, DType::bf16);
  for (const Casts casts : {Casts::wide, Casts::per_rotation}) {
    oft::GPTQOFTLinear layer(make_base("gptq", 64, 32), "default", {.r = 8}, casts);
    test::randomise(layer, "default", 4);
    const OFTAdapter& adapter = dynamic_cast<OFTAdapter&>(*layer.adapter("default"));
    const Tensor turned = adapter.input(half, {*layer.base_layer(), false});
    EXPECT_EQ(turned.dtype(), casts == Casts::wide ? DType::f32 : DType::bf16);
    EXPECT_EQ(layer.forward(half).dtype(), DType::bf16);
    EXPECT_EQ(distance(to(layer.forward(half), DType::f32), to(to(layer.base_layer()->forward(turned), DType::bf16), DType::f32)),
              0);
  }
}

/// A packed layer that counts the products it is asked for.
struct Counted final : LinearBase {
  std::shared_ptr<LinearBase> layer;
  mutable int products = 0;
  explicit Counted(std::shared_ptr<LinearBase> layer) : layer(std::move(layer)) {}
  std::string type_name() const override { return layer->type_name(); }
  void visit(Visitor& visitor) override { layer->visit(visitor); }
  std::int64_t in_features() const override { return layer->in_features(); }
  std::int64_t out_features() const override { return layer->out_features(); }
  Tensor bias() const override { return layer->bias(); }
  using LinearBase::forward;
  Tensor forward(const Tensor& x) const override { return ++products, layer->forward(x); }
};

// PEFT 0.18 calls it twice, and three times where adapters are switched off.
TEST(OFT, APackedBaseIsCalledOnce) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Casts casts : {Casts::wide, Casts::per_rotation}) {
      const auto base = std::make_shared<Counted>(make_base("gptq", 64, 32));
      AdapterLayer layer(base, "oft");
      for (const char* name : {"a", "b"}) layer.add_adapter(name, std::make_shared<OFTAdapter>(*base->layer, blocks_of_8, casts));
      const auto products = [&] {
        base->products = 0;
        layer.forward(to(x, dtype));
        return base->products;
      };
      for (const std::vector<std::string>& active : {std::vector<std::string>{}, {"a"}, {"a", "b"}, {"nobody"}}) {
        layer.set_adapter(active);
        EXPECT_EQ(products(), 1) << fmt::format("{}", fmt::join(active, " "));
      }
      layer.enable_adapters(false);
      EXPECT_EQ(products(), 1);
    }
  }
}

TEST(OFT, TodaysOrderOfCastsIsARuleOfInjectionAndLoading) {
  const Tensor half = to(x, DType::bf16);
  const test::TemporaryFolder folder;
  auto today = Registry::builtin();
  today.prepend(rules::oft_per_rotation());
  for (const std::string format : {"gptq", "eetq"}) {
    const auto turned = [&](test::Model& model) {
      auto& layer = dynamic_cast<AdapterLayer&>(*model.layers[0]->q_proj);
      EXPECT_EQ(layer.type_name(), format == "gptq" ? "oft.GPTQOFTLinear" : "oft.EetqOFTLinear");
      return adapter_of(layer).input(half, {*layer.base_layer(), false}).dtype();
    };
    const OFTConfig config{.oft_block_size = 16, .target_modules = {"q_proj"}};
    test::Model builtin(format), asked(format), loaded(format);
    adapters::inject(builtin, config);
    EXPECT_EQ(turned(builtin), DType::f32);
    EXPECT_EQ(adapters::inject(asked, config, {.registry = today}).targets[0].rule, "oft/per-rotation");
    EXPECT_EQ(turned(asked), DType::bf16);
    adapters::save_pretrained(builtin, folder.path());
    adapters::load_pretrained(loaded, folder.path(), {.registry = today});
    EXPECT_EQ(turned(loaded), DType::bf16);
  }
  for (const std::string format : {"dense", "awq"}) {
    test::Model model(format);
    const auto report =
        adapters::inject(model, OFTConfig{.oft_block_size = 16, .target_modules = {"q_proj"}}, {.registry = today});
    EXPECT_EQ(report.targets[0].rule, "oft/" + format);
  }
}

TEST(OFT, RefusesWhatMakesNoSense) {
  expect_error<ValueError>([] { layer_with({.r = 0, .oft_block_size = 8, .coft = true, .eps = 0}); },
                           "eps, the radius of COFT, is 0");
  expect_error<ValueError>([] { layer_with({.r = 0, .oft_block_size = 8, .coft = true, .eps = std::nan("")}); },
                           "eps, the radius of COFT, is nan, not a positive number");
  expect_error<ValueError>([] { layer_with({.fan_in_fan_out = true}); }, "fan_in_fan_out is true");
  expect_error<ValueError>([] { layer_with({.init_weights = std::string("gaussian")}); },
                           "OFT's init_weights is true or false, not 'gaussian'");
  const auto layer = layer_with(blocks_of_8);
  expect_error<AttributeError>([&] { layer->set_scale("default", 2); }, "oft: this method has no scaling");
  const adapters::WarningScope warnings;
  const Tensor y = layer->forward(x);
  layer->scale_layer(2);
  layer->unscale_layer();
  EXPECT_EQ(warnings.messages().size(), 2u);
  EXPECT_EQ(distance(layer->forward(x), y), 0);
  oft::EetqOFTLinear eetq(make_base("eetq", 64, 32), "default", {.r = 8});
  expect_error<AttributeError>([&] { eetq.merge(); }, "Merging LoRA layers is not supported for Eetq layers.");
  expect_error<AttributeError>([&] { eetq.unmerge(); }, "Unmerging LoRA layers is not supported for Eetq layers.");
}

TEST(OFT, RandomInitialValuesFollowFromTheSeed) {
  const auto first = [](std::uint64_t seed) {
    const auto base = make_base("dense", 64, 32);
    return OFTAdapter(*base, {.init_weights = false, .seed = seed}, Casts::wide).rotation().weight.to_vector<float>();
  };
  EXPECT_EQ(first(1), first(1));
  EXPECT_NE(first(1), first(2));
  double square = 0;
  for (const float v : first(1)) square += v * v;
  EXPECT_NEAR(std::sqrt(square / 224), 0.1, 0.02);
}

}  // namespace
}  // namespace graft::oft_test
