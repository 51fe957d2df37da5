#include "graft/core/tensor.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

#include "../support/errors.h"
#include "../support/tensors.h"

namespace graft {
namespace {

using test::expect_error;
using test::full;
using test::ones;
using test::placed;
using test::zeros;

template <class E, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST(Tensor, DescribesWhatItHolds) {
  const Tensor x = placed(Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3}));
  EXPECT_EQ(x.shape(), (Shape{2, 3}));
  EXPECT_EQ(x.strides(), (Shape{3, 1}));
  EXPECT_EQ(x.dim(-1), 3);
  EXPECT_EQ(x.count(), 6);
  EXPECT_TRUE(x.is_contiguous());
  EXPECT_EQ(to_string(x), "f32[2, 3] {1, 2, 3, 4, 5, 6}");
}

TEST(Tensor, ViewsShareStorageAndVersions) {
  const Tensor x = zeros({2, 3});
  const Tensor t = x.alias({3, 2}, {1, 3}, 0);
  const auto before = t.version();
  x.fill_(4);
  EXPECT_GT(t.version(), before);
  EXPECT_EQ(t.to_vector<float>(), std::vector<float>(6, 4));
  EXPECT_FALSE(t.is_contiguous());
}

TEST(Tensor, RefusesViewsOutsideTheStorage) {
  const Tensor x = zeros({4});
  EXPECT_EQ(message_of<ValueError>([&] {
              x.alias({2, 3}, {3, 1}, 0);
            }),
            "a view of shape [2, 3], strides [3, 1] and offset 0 reaches outside 4 elements");
  expect_error<ValueError>([&] { x.alias({2}, {-1}, 0); }, "strides [-1] and offset 0 reaches outside 4 elements");
  EXPECT_NO_THROW(x.alias({2}, {-1}, 1));
}

TEST(Tensor, RefusesViewsThatReachFurtherThanCanBeCounted) {
  constexpr std::int64_t far = std::int64_t{1} << 62, largest = std::numeric_limits<std::int64_t>::max();
  const Tensor x = ones({2, 3});
  const auto refuse = [&](const Shape& shape, const Strides& strides, std::int64_t offset) {
    expect_error<ValueError>(
        [&] { x.alias(shape, strides, offset); },
        fmt::format("a view of shape {}, strides {} and offset {} reaches outside 6 elements", shape, strides, offset));
  };
  refuse({2, 2}, {far, far}, 0);    // the sum of two reaches
  refuse({5}, {far}, 0);            // the reach itself
  refuse({2}, {1}, largest);        // the reach from an offset
  refuse({3, 2}, {-far, -far}, 5);  // and downwards
  refuse({2, 2}, {far, -far}, 0);   // two that cancel out reach as far
  refuse({2, 2, 2}, {far, far, far}, far);
}

TEST(Tensor, RefusesWhatDoesNotFit) {
  EXPECT_EQ(message_of<ValueError>([] { Tensor::from<float>({1, 2, 3}, {2, 2}); }), "3 values do not fill shape [2, 2]");
  EXPECT_EQ(message_of<TypeError>([] { Tensor::zeros({1}).data<double>(); }), "data: the tensor holds f32, not f64");
  EXPECT_EQ(message_of<ValueError>([] { zeros({2}).item(); }), "item: the tensor has shape [2], not one element");
  EXPECT_EQ(message_of<ValueError>([] { Tensor().shape(); }), "shape: the tensor is undefined");
  EXPECT_EQ(message_of<ValueError>([] {
              zeros({1 << 30, 1 << 30, 1 << 30});
            }),
            "shape [1073741824, 1073741824, 1073741824] has more elements than can be counted");
  EXPECT_EQ(message_of<TypeError>([] { zeros({1}, DType::i32).set_requires_grad(); }),
            "set_requires_grad: elements of type i32 cannot be differentiated");
}

TEST(Tensor, HugeAllocationsAreTypedErrors) {
  expect_error<OutOfMemoryError>([] { Tensor::empty({std::int64_t{1} << 61}, DType::f32, test::tested_device()); },
                                 "shape [2305843009213693952] of f32 is too large");
  expect_error<OutOfMemoryError>([] { Tensor::empty({std::int64_t{1} << 50}, DType::u8, test::tested_device()); },
                                 "1125899906842624 bytes");
}

TEST(Tensor, ConvertsElements) {
  const Tensor x = placed(Tensor::from<double>({-1.5, 0, 2.25}, {3}));
  const Tensor half = Tensor::empty({3}, DType::bf16, x.device());
  half.copy_(x);
  EXPECT_EQ(half.to_vector<float>(), (std::vector<float>{-1.5f, 0, 2.25f}));
  EXPECT_EQ(Tensor::arange(3, DType::f16, x.device()).to_vector<double>(), (std::vector<double>{0, 1, 2}));
  EXPECT_EQ(Tensor::eye(2, DType::f32, x.device()).to_vector<float>(), (std::vector<float>{1, 0, 0, 1}));
}

TEST(Tensor, WritesOnlyWhereItMayAndWhatFits) {
  static const float readable[2] = {1, 2};
  const auto storage = Storage::wrap(const_cast<float*>(readable), sizeof readable, std::make_shared<int>(), true);
  const Tensor x = Tensor::of(storage, DType::f32, {2}, {1});
  expect_error<ValueError>([&] { x.fill_(3); }, "fill_: the tensor views memory that is only readable");
  expect_error<ValueError>([&] { x.copy_(zeros({2})); }, "copy_: the tensor views memory that is only readable");
  expect_error<ValueError>([&] { zeros({2, 1}).copy_(x); }, "copy_: shape [2, 1] cannot take the values of shape [2]");
  EXPECT_EQ(x.version(), 0u);
  EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{1, 2}));
}

TEST(Tensor, TakesOtherDataInEveryHandle) {
  Tensor x = ones({2, 3});
  x.set_requires_grad();
  x.set_grad(full({2, 3}, 4));
  const Tensor handle = x, view = x.alias({3, 2}, {1, 3}, 0);
  const auto before = x.version();
  const Tensor other = Tensor::arange(6, DType::f32, x.device()).alias({2, 3}, {1, 2}, 0);
  x.set_data(other);
  EXPECT_TRUE(handle.same(x));
  EXPECT_EQ(handle.to_vector<float>(), (std::vector<float>{0, 2, 4, 1, 3, 5}));
  EXPECT_TRUE(handle.requires_grad());
  EXPECT_EQ(handle.grad().to_vector<float>(), std::vector<float>(6, 4));
  EXPECT_GT(handle.version(), before);
  EXPECT_EQ(view.to_vector<float>(), std::vector<float>(6, 1));  // of what was there before
  EXPECT_EQ(message_of<ValueError>([&] { x.set_data(ones({3, 2})); }), "set_data: shape [2, 3] cannot become [3, 2]");
  EXPECT_EQ(message_of<TypeError>([&] {
              x.set_data(ones({2, 3}, DType::f64));
            }),
            "set_data: elements of type f32 cannot become f64");
}

TEST(Storage, IsAlignedAndItsOwnAtEverySize) {
  std::vector<std::shared_ptr<Storage>> blocks;
  const std::int64_t before = memory::live_bytes();
  std::int64_t total = 0;
  DeviceRuntime& device = runtime(test::tested_device());
  for (std::int64_t bytes : {0, 1, 63, 64, 4096, 65535, 65536, 65537, 131072, 1 << 20, (64 << 20) + 1}) {
    blocks.push_back(Storage::allocate(bytes, test::tested_device()));
    const Storage& block = *blocks.back();
    EXPECT_EQ(block.bytes(), bytes);
    EXPECT_EQ(block.device(), test::tested_device());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.data()) % 64, 0u) << bytes;
    const std::vector<unsigned char> values(static_cast<std::size_t>(bytes), static_cast<unsigned char>(blocks.size()));
    device.copy(block.data(), block.device(), values.data(), Device::cpu(), values.size());
    total += bytes;
  }
  EXPECT_EQ(memory::live_bytes(), before + total);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    std::vector<unsigned char> values(static_cast<std::size_t>(blocks[i]->bytes()));
    device.copy(values.data(), Device::cpu(), blocks[i]->data(), blocks[i]->device(), values.size());
    EXPECT_EQ(values, std::vector<unsigned char>(values.size(), static_cast<unsigned char>(i + 1)));
  }
  blocks.clear();
  EXPECT_EQ(memory::live_bytes(), before);
}

TEST(Storage, CountsLiveBytes) {
  const auto before = memory::live_bytes();
  {
    const Tensor x = Tensor::empty({1000}, DType::f64, test::tested_device());
    EXPECT_EQ(memory::live_bytes(), before + 8000);
  }
  EXPECT_EQ(memory::live_bytes(), before);
}

// ---- modules ----

struct Leaf final : Module {
  Tensor weight = zeros({2}), table = ones({1});
  Generator generator;
  std::string type_name() const override { return "Leaf"; }
  std::string description() const override { return "width=2"; }
  void visit(Visitor& v) override {
    v.parameter("weight", weight);
    v.buffer("table", table);
    v.generator("generator", generator);
  }
};

struct Tree final : Module {
  Slot<Leaf> left = std::make_shared<Leaf>(), right = std::make_shared<Leaf>();
  std::string type_name() const override { return "Tree"; }
  void visit(Visitor& v) override {
    v.child("layers.0", left);
    v.child("layers.1", right);
  }
};

TEST(Module, NamesParametersOnceWhenTied) {
  Tree tree;
  std::vector<std::string> names;
  for (auto& p : named_parameters(tree)) names.push_back(p.name);
  EXPECT_EQ(names, (std::vector<std::string>{"layers.0.weight", "layers.1.weight"}));
  tree.right->weight = tree.left->weight;
  EXPECT_EQ(named_parameters(tree).size(), 1u);
  EXPECT_EQ(named_buffers(tree).size(), 2u);
}

TEST(Module, SlotsTakeOnlyTheirOwnType) {
  Tree tree;
  auto replacement = std::make_shared<Leaf>();
  for_each_slot(tree, [&](const std::string& name, SlotBase& slot) {
    if (name == "layers.1") slot.replace(replacement);
  });
  EXPECT_EQ(tree.right.pointer(), replacement);
  EXPECT_EQ(message_of<TypeError>([&] { static_cast<SlotBase&>(tree.left).replace(std::make_shared<Tree>()); }),
            "a module of type Tree does not fit into this slot");
  EXPECT_TRUE(tree.left);
}

TEST(Module, PrintsAsPyTorchDoes) {
  Tree tree;
  EXPECT_EQ(print(tree), "Tree() (\n  (layers.0): Leaf(width=2)\n  (layers.1): Leaf(width=2)\n)");
}

TEST(Module, SeedsEveryGeneratorApart) {
  Tree tree;
  seed(tree, 7);
  const auto first = tree.left->generator.seed;
  EXPECT_NE(first, tree.right->generator.seed);
  seed(tree, 7);
  EXPECT_EQ(tree.left->generator.seed, first);
}

TEST(Module, SetsModesBelow) {
  Tree tree;
  set_training(tree, true);
  EXPECT_TRUE(tree.left->training());
  set_requires_grad(tree, true);
  EXPECT_EQ(trainable(tree).size(), 2u);
}

}  // namespace
}  // namespace graft
