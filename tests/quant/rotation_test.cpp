// A rotation of a product's operand: made by the product, it has the bits of the composed operations.
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"
#include "graft/quant/kernels.h"
#include "graft/quant/pack.h"
#include "graft/tests/quant/random_layer.h"
#include "graft/tests/support/errors.h"
#include "graft/tests/support/tensors.h"

#include "reference.h"

namespace graft::quant {
namespace {

using namespace test;

struct Turn {
  std::int64_t b;
  bool shared = false;
};
constexpr Turn turns[] = {{1}, {2}, {4}, {4, true}, {8}, {8, true}, {16}, {32}, {32, true}, {64}, {64, true}, {256}};

std::string to_string(const Turn& t) { return fmt::format("blocks of {}{}", t.b, t.shared ? ", shared" : ""); }

/// Blocks of small whole numbers: every sum is exact, whatever its order.
Tensor blocks_of(const Turn& t, std::int64_t in, DType dtype = DType::f32) {
  return placed(whole_numbers({t.shared ? 1 : in / t.b, t.b, t.b}, dtype, 5));
}

void expect_composed(const QuantLinear& layer, const Tensor& x, const Rotation& rotation, const std::string& what) {
  const NoGrad no_grad;
  const Tensor want = layer.forward(rotate(x, rotation)), got = layer.forward_rotated(x, rotation);
  EXPECT_EQ(got.dtype(), want.dtype()) << what;
  EXPECT_EQ(got.shape(), want.shape()) << what;
  EXPECT_EQ(got.to_vector<double>(), want.to_vector<double>()) << what;
}

std::shared_ptr<QuantLinear> act_order_layer(std::int64_t in, std::int64_t out) {
  return std::make_shared<QuantLinear>(Description{}, pack(test::layer({in, out, 4, 32, Grouping::shuffled})),
                                       whole_numbers({out}, DType::f32, 7));
}

TEST(RotatedProducts, HaveTheBitsOfComposedOperations) {
  const auto layer = placed(act_order_layer(256, 24));
  for (const Turn& turn : turns)
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (const Shape& leading : {Shape{1}, Shape{2, 3}, Shape{40}}) {
        Shape shape = leading;
        shape.push_back(256);
        const Tensor x = placed(whole_numbers(shape, dtype, 1)), R = blocks_of(turn, 256);
        const auto what = fmt::format("{} of {} {}", to_string(turn), dtype, leading);
        for (const DType to : {DType::f32, dtype}) expect_composed(*layer, x, {R, to}, fmt::format("{} to {}", what, to));
        if (!is_half(dtype)) continue;
        expect_composed(*layer, x, {graft::to(R, dtype), dtype}, what + ", blocks too");
      }
}

TEST(RotatedProducts, HaveThemUnderAutocast) {
  const auto layer = placed(act_order_layer(256, 24));
  for (const DType low : {DType::bf16, DType::f16})
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (const std::int64_t m : {3, 40}) {
        const autocast::Guard guard(layer->device().type, low);
        // Thirds, which autocast rounds.
        const Tensor x = to(placed(whole_numbers({m, 256}, DType::f32, 1)) * (1.0 / 3), dtype);
        for (const DType to : {DType::f32, dtype})
          expect_composed(*layer, x, {blocks_of({8}, 256), to}, fmt::format("{} to {} as {}", dtype, to, low));
      }
}

TEST(RotatedProducts, OfEveryFormat) {
  for (const Stored& stored : reference::one_of_each(256, 128))
    for (const DType dtype : {DType::f32, DType::bf16})
      expect_composed(*placed(make_layer(stored)), placed(whole_numbers({5, 256}, dtype, 1)), {blocks_of({32}, 256), dtype},
                      fmt::format("{} {}", stored.description.method, stored.description.layout));
}

TEST(RotatedProducts, WhatIsNotFusedIsComposed) {
  const auto layer = placed(act_order_layer(64, 24));
  const Tensor x = placed(whole_numbers({5, 64}, DType::f32, 1)), R = blocks_of({8}, 64);
  expect_composed(*layer, to(x, DType::f64), {to(R, DType::f64), DType::f64}, "f64");
  expect_composed(*layer, x, {to(R, DType::f64), DType::f32}, "f32 by f64");
  expect_composed(*layer, to(x, DType::f64), {R, DType::f64}, "f64 by f32");
  expect_composed(*layer, x, {to(R, DType::bf16), DType::f32}, "f32 by bf16");
  expect_composed(*layer, to(x, DType::bf16), {R, DType::f16}, "bf16 by f32 to f16");
  expect_composed(*layer, transpose(placed(whole_numbers({64, 5}, DType::bf16, 1)), 0, 1), {R, DType::bf16}, "columns");
  expect_composed(*layer, placed(whole_numbers({0, 64}, DType::bf16, 1)), {R, DType::bf16}, "no rows");
  expect_composed(*placed(act_order_layer(72, 24)), placed(whole_numbers({5, 72}, DType::bf16, 1)),
                  {blocks_of({12}, 72), DType::bf16}, "blocks of 12");
}

TEST(RotatedProducts, AreRecordedWhereGradientsAre) {
  const auto layer = placed(act_order_layer(64, 24));
  Tensor x = placed(whole_numbers({5, 64}, DType::f32, 1)), R = blocks_of({8}, 64);
  for (Tensor* wanted : {&x, &R}) wanted->set_requires_grad();
  const Tensor dy = placed(whole_numbers({5, 24}, DType::f32, 2));
  const auto gradients = [&](const Tensor& y) {
    const std::vector<Tensor> of{x, R}, all = grad({&y, 1}, of, {&dy, 1});
    return std::pair(all[0].to_vector<float>(), all[1].to_vector<float>());
  };
  const Rotation rotation{R, DType::f32};
  EXPECT_EQ(gradients(layer->forward_rotated(x, rotation)), gradients(layer->forward(rotate(x, rotation))));
}

// With random numbers the order of a sum shows, which on the CPU is the composed product's.
TEST(RotatedProducts, HaveTheOrderOfSumsOfTheCpu) {
  const auto layer = act_order_layer(256, 24);
  for (const Turn& turn : turns)
    for (const DType dtype : {DType::f32, DType::bf16, DType::f64})
      for (const std::int64_t m : {1, 3, 17, 70}) {
        Generator random{.seed = 3};
        const Tensor x = normal({m, 256}, 0, 1, random, dtype);
        const Tensor R =
            normal({turn.shared ? 1 : 256 / turn.b, turn.b, turn.b}, 0, 1, random, dtype == DType::f64 ? DType::f64 : DType::f32);
        for (const DType to : {R.dtype(), dtype})
          expect_composed(*layer, x, {R, to}, fmt::format("{} of {} by {} to {}", to_string(turn), m, dtype, to));
        const autocast::Guard guard(Device::Type::cpu, DType::bf16);
        expect_composed(*layer, x, {R, dtype}, fmt::format("{} of {} by {} under autocast", to_string(turn), m, dtype));
      }
}

TEST(RotatedProducts, TermsMeetWhatIsRotated) {
  const auto weight = move_to(pack(test::layer({64, 24, 4, 32})), tested_device());
  const Tensor from = placed(whole_numbers({5, 64}, DType::bf16, 1)), R = blocks_of({8}, 64),
               turned = rotate(from, {R, DType::bf16});
  const Tensor A = placed(whole_numbers({3, 64}, DType::f32, 2)), v = placed(whole_numbers({3, 24}, DType::f32, 3));
  const auto product = [&](const Rotated* rotated) {
    const Tensor x = rotated ? full({5, 64}, 0, DType::bf16) : turned, y = full({5, 24}, 0, DType::bf16), u = full({5, 3}, 0);
    const LowRank term{.u = u.view(), .v = v.view(), .join = Join::added, .A = A.view()};
    forward(*weight, x.view(), nullptr, y.view(), {&term, 1}, Compute::exact, rotated);
    return y.to_vector<float>();
  };
  const Rotated rotated{from.view(), R.view()};
  EXPECT_EQ(product(&rotated), product(nullptr));
}

TEST(RotatedProducts, RefuseWhatDoesNotFit) {
  const auto layer = placed(act_order_layer(64, 24));
  const NoGrad no_grad;
  const Tensor x = full({5, 64}, 1);
  const auto expect_refused = [&](const Tensor& input, const Rotation& rotation, const char* message) {
    expect_error<ValueError>([&] { layer->forward_rotated(input, rotation); }, message);
  };
  expect_refused(x, {full({8, 16, 16}, 1), DType::f32}, "blocks of [8, 16, 16] do not turn [5, 64] to [5, 64]");
  expect_refused(x, {full({1, 24, 24}, 1), DType::f32}, "blocks of [1, 24, 24] do not turn");
  expect_refused(full({5, 32}, 1), {full({4, 8, 8}, 1), DType::f32},
                 "the input has shape [5, 32]; its last dimension must be 64");
  expect_error<ValueError>(
      [&] {
        rotate(x, {full({8, 16, 16}, 1), DType::f32});
      },
      "rotate: blocks of [8, 16, 16] do not fit an input of shape [5, 64]");
  const Tensor R = full({8, 8, 8}, 1), half = full({5, 64}, 1, DType::bf16), y = full({5, 24}, 1);
  const Rotated rotated{half.view(), R.view()};
  expect_error<TypeError>(
      [&] {
        forward(layer->packed(), full({5, 64}, 1, DType::f16).view(), nullptr, y.view(), {}, Compute::exact, &rotated);
      },
      "bf16 turned by f32 does not make f16");
}

}  // namespace
}  // namespace graft::quant
