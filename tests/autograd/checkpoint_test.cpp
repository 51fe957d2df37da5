#include "graft/autograd/checkpoint.h"

#include <gtest/gtest.h>

#include "graft/autograd/linear.h"
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"

#include "../support/errors.h"
#include "../support/tensors.h"

namespace graft {
namespace {

using test::expect_error;

Tensor drawn(const Shape& shape, Generator& generator) {
  return uniform(shape, -1, 1, generator, DType::f32, test::tested_device());
}

// Two layers with dropout between them.
struct Block : Module {
  Slot<Linear> up, down;
  Generator generator{42, 0};
  explicit Block(Generator& init)
      : up(std::make_shared<Linear>(drawn({32, 8}, init).set_requires_grad())),
        down(std::make_shared<Linear>(drawn({8, 32}, init).set_requires_grad())) {}
  std::string type_name() const override { return "Block"; }
  void visit(Visitor& visitor) override {
    visitor.child("up", up);
    visitor.generator("generator", generator);
    visitor.child("down", down);
  }
  Tensor forward(const Tensor& x) { return down->forward(dropout(silu(up->forward(x)), 0.5, generator)); }
};

struct Checkpoint : testing::Test {
  Generator init{1, 0};
  Block block{init};
  Tensor x = drawn({16, 8}, init).set_requires_grad();

  Tensor checkpointed(const Tensor& input) {
    return checkpoint([this](std::span<const Tensor> in) { return block.forward(in[0]); }, {&input, 1}, generators(block));
  }
  // y, and the gradients of x and both weights.
  std::vector<std::vector<float>> everything(bool with) {
    block.generator = {42, 0};
    for (const Tensor& t : {x, block.up->weight(), block.down->weight()}) t.set_grad({});
    Tensor y = with ? checkpointed(x * 1.5) : block.forward(x * 1.5);
    y = to(with ? checkpointed(y) : block.forward(y), DType::f32);
    block.generator.next();  // others draw between forward and backward
    sum(y * y).backward();
    EXPECT_EQ(block.generator.stream, 3u);
    return {y.to_vector<float>(), x.grad().to_vector<float>(), block.up->weight().grad().to_vector<float>(),
            block.down->weight().grad().to_vector<float>()};
  }
};

TEST_F(Checkpoint, GivesTheSameBits) { EXPECT_EQ(everything(true), everything(false)); }

TEST_F(Checkpoint, RestoresAutocast) {
  const autocast::Guard guard(test::tested_device().type, DType::bf16);
  EXPECT_EQ(everything(true), everything(false));
}

TEST_F(Checkpoint, KeepsOnlyInputsAndResult) {
  const std::int64_t before = memory::live_bytes();
  const Tensor y = checkpointed(x);
  EXPECT_EQ(memory::live_bytes() - before, y.count() * 4);
  const Tensor z = block.forward(x);
  EXPECT_GT(memory::live_bytes() - before, 2 * y.count() * 4);
}

TEST_F(Checkpoint, RecordsNothingWhenNothingIsDifferentiated) {
  const Tensor constant = x.detach();
  set_requires_grad(block, false);
  EXPECT_FALSE(checkpointed(constant).requires_grad());
  const NoGrad off;
  EXPECT_FALSE(checkpointed(x).requires_grad());
}

TEST_F(Checkpoint, ReadsResultsOfOperationsOutside) {
  const Tensor scale = x * 2.0;
  auto f = [&](std::span<const Tensor> in) { return in[0] * scale; };
  const Tensor one = test::ones(x.shape());
  sum(checkpoint(f, {&one, 1}) + scale).backward();
  EXPECT_EQ(x.grad().to_vector<double>(), std::vector<double>(static_cast<std::size_t>(x.count()), 4));
}

TEST_F(Checkpoint, RefusesParametersThatChangedSince) {
  const Tensor y = checkpointed(x);
  block.up->weight().fill_(1);
  expect_error<ValueError>([&] { sum(y).backward(); }, "saved for backward has been changed in place");
}

TEST_F(Checkpoint, RefusesSecondDerivatives) {
  const Tensor y = sum(checkpointed(x));
  expect_error<NotImplementedError>([&] { y.backward({}, {.create_graph = true}); }, "checkpoint: derivatives of derivatives");
}

}  // namespace
}  // namespace graft
