// Serving from many threads while adapters come, go and take turns: every result must be one that some moment allows, to the bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/oft.h"
#include "graft/adapters/routing.h"
#include "graft/adapters/verify.h"
#include "graft/adapters/warning.h"
#include "graft/adapters/wrappers.h"
#include "graft/autograd/tape.h"

#include "../support/errors.h"
#include "layers.h"

namespace graft::swap_test {
namespace {

using Bits = std::vector<float>;
using Names = std::vector<std::string>;

Bits bits(const Tensor& t) { return t.to_vector<float>(); }

/// Runs every job `times` times, each in a thread of its own, and reports the first thing that any of them threw.
void run_together(const std::vector<std::function<void(int)>>& jobs, int times) {
  std::mutex mutex;
  std::string failure;
  std::atomic<int> waiting{static_cast<int>(jobs.size())};
  std::vector<std::thread> threads;
  for (const auto& job : jobs) {
    threads.emplace_back([&] {
      for (--waiting; waiting > 0;) std::this_thread::yield();  // all begin at once
      try {
        for (int i = 0; i < times; ++i) job(i);
      } catch (const std::exception& error) {
        const std::lock_guard lock(mutex);
        if (failure.empty()) failure = error.what();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(failure, "");
}

struct Box final : Module {
  Slot<LinearBase> linear;
  explicit Box(std::shared_ptr<LinearBase> layer) : linear(std::move(layer)) {}
  std::string type_name() const override { return "Box"; }
  void visit(Visitor& visitor) override { visitor.child("linear", linear); }
};

const Tensor x = test::random({4, 64}, 5);

/// One layer with two adapters that stay, "a" (LoRA) and "b" (OFT), and "guest" (DoRA or LoRA), which comes and goes.
struct Served {
  std::shared_ptr<AdapterLayer> layer;
  std::shared_ptr<Adapter> guest;
  Box model;

  explicit Served(const std::string& format)
      : layer(std::make_shared<AdapterLayer>(test::make_base(format, 64, 32, true), "Served")), model(layer) {
    LinearBase& base = *layer->base_layer();
    layer->add_adapter("a", std::make_shared<lora::LoraAdapter>(base, lora::Options{.r = 4, .seed = 1}, Rounding::once));
    layer->add_adapter("b", std::make_shared<oft::OFTAdapter>(
                                base, oft::Options{.r = 0, .oft_block_size = 16, .coft = true, .eps = 0.5}, oft::Casts::wide));
    layer->add_adapter("guest",
                       std::make_shared<lora::DoraLinearVariant>(base, lora::Options{.r = 2, .seed = 3}, Rounding::once));
    for (const char* name : {"a", "b", "guest"}) test::randomise(*layer, name, 50 + name[0]);
    guest = layer->adapter("guest");
  }
  Bits with(const Names& names) const {
    const adapters::RoutingGuard guard({names, false});
    return bits(layer->forward(x));
  }
  Bits mixed(const Names& names) const {
    const NoGrad no_grad;  // as it is served: with gradients, sums have another order
    const adapters::RoutingGuard guard({names, true});
    return bits(layer->forward(x));
  }
};

class SwapThreads : public testing::TestWithParam<std::string> {};

TEST_P(SwapThreads, EveryResultIsALegalOne) {
  Served served(GetParam());
  AdapterLayer& layer = *served.layer;
  const Names a = {"a"}, b = {"b"}, both = {"a", "b"}, none = {}, guest = {"guest"};
  const Names rows = {"b", adapters::base_name, "a", "b"}, rows_with_guest = {"guest", "a", "guest", adapters::base_name};
  const std::map<Names, Bits> chosen = {
      {a, served.with(a)}, {b, served.with(b)}, {both, served.with(both)}, {none, served.with(none)}};
  const Bits y_guest = served.with(guest), y_rows = served.mixed(rows), y_rows_with = served.mixed(rows_with_guest);
  layer.delete_adapter("guest");
  const Bits y_rows_without = served.mixed(rows_with_guest);
  std::vector<Bits> all = {y_guest, y_rows, y_rows_with, y_rows_without};
  for (const auto& [names, y] : chosen) all.push_back(y);
  for (std::size_t i = 0; i < all.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) ASSERT_NE(all[i], all[j]) << "results " << i << " and " << j << " must be told apart";

  std::atomic<std::int64_t> wrong{0};
  const auto expect = [&](bool legal) { wrong += !legal; };
  // Switched off at this moment, the layer is its base whatever a call chooses.
  const Bits& off = chosen.at(none);
  const auto expect_or_off = [&](const Bits& y, const Bits& legal) { expect(y == legal || y == off); };
  const auto choose = [&](int i) {
    const auto& [names, y] = *std::next(chosen.begin(), i % 4);
    const adapters::UseAdapters use(served.model, names);
    expect_or_off(bits(layer.forward(x)), y);
  };
  const auto choose_recording = [&](int i) { choose(i); };  // trainable or not at this moment: the values are the same
  const auto choose_rows = [&](int) {
    const NoGrad no_grad;
    const adapters::MixedBatch mixed(served.model, rows);
    expect_or_off(bits(layer.forward(x)), y_rows);
  };
  // The guest may be gone when its name is checked, or between that and the forward call, which then leaves its rows as they are.
  const auto choose_guest = [&](int i) {
    const NoGrad no_grad;
    try {
      if (i % 2) {
        const adapters::MixedBatch mixed(served.model, rows_with_guest);
        const Bits y = bits(layer.forward(x));
        expect(y == y_rows_with || y == y_rows_without || y == off);
      } else {
        const adapters::UseAdapters use(served.model, guest);
        const Bits y = bits(layer.forward(x));
        expect(y == y_guest || y == chosen.at(none));
      }
    } catch (const ValueError& error) {
      expect(std::string(error.what()) == "no layer of the model has an adapter 'guest'");
    }
  };
  const auto follow = [&](int) {
    const Bits y = bits(layer.forward(x));
    expect(y == y_guest || std::any_of(chosen.begin(), chosen.end(), [&](const auto& legal) { return y == legal.second; }));
  };
  // Those who change things also look at what they did: so they last as long as the others.
  const auto switch_around = [&](int i) {
    follow(i);
    switch (i % 6) {
      case 0: return layer.set_adapter(a);
      case 1: return layer.set_adapter(guest);
      case 2: return layer.set_adapter(both);
      case 3: return layer.enable_adapters(false);
      case 4: return layer.set_adapter(b);
      default: return layer.enable_adapters(true);
    }
  };
  const auto come_and_go = [&](int i) {
    follow(i);
    if (i % 2) layer.delete_adapter("guest");
    else layer.add_adapter("guest", served.guest);
  };
  constexpr int operations = 100'032 / 4, threads = 8;  // for each of the four formats; an even number for each thread
  run_together({[&](int i) {
                  const NoGrad no_grad;
                  choose(i);
                },
                choose_recording, choose_recording, choose_rows, choose_guest, follow, switch_around, come_and_go},
               operations / threads);
  EXPECT_EQ(wrong, 0);
  EXPECT_FALSE(layer.has_adapter("guest"));

  // And it is still in order.
  layer.enable_adapters(true);
  layer.set_adapter(both);
  EXPECT_EQ(bits(layer.forward(x)), chosen.at(both));
  EXPECT_TRUE(layer.trainable("a"));
}

TEST_P(SwapThreads, WholeModelsServeWhileAdaptersAreInjectedAndDeleted) {
  test::Model model(GetParam());
  const LoraConfig config{.r = 2, .target_modules = {"q_proj", "v_proj"}, .init_lora_weights = false};
  adapters::inject(model, config, {.adapter_name = "a", .seed = 1});
  adapters::inject(model, config, {.adapter_name = "b", .seed = 2});
  std::map<std::string, Bits> chosen;
  for (const char* name : {"a", "b"}) {
    const adapters::UseAdapters use(model, {name});
    chosen[name] = bits(model.forward(x));
  }
  ASSERT_NE(chosen["a"], chosen["b"]);
  const double change = adapters::verify(model, "a").front().relative;
  std::atomic<std::int64_t> wrong{0};
  const auto serve = [&](int i) {
    const std::string name = i % 2 ? "a" : "b";
    const adapters::UseAdapters use(model, {name});
    wrong += bits(model.forward(x)) != chosen.at(name);
  };
  const auto inspect = [&](int) { wrong += adapters::verify(model, "a").front().relative != change; };
  const auto inject = [&](int i) {
    adapters::inject(model, config, {.adapter_name = "guest", .seed = static_cast<std::uint64_t>(i)});
    adapters::delete_adapter(model, "guest");
  };
  const auto turn = [&](int i) { adapters::set_adapter(model, {i % 2 ? "a" : "b"}); };
  run_together({serve, serve, serve, serve, serve, inspect, inject, turn}, 60);
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(adapters::adapter_names(model), (Names{"a", "b"}));
}

INSTANTIATE_TEST_SUITE_P(Formats, SwapThreads, testing::ValuesIn(test::formats), [](const auto& info) { return info.param; });

/// As many layers as a model of seven billion parameters has, all around one small base.
struct Tower final : Module {
  std::vector<Slot<LinearBase>> layers;
  explicit Tower(const std::shared_ptr<LinearBase>& base) : layers(224, base) {}
  std::string type_name() const override { return "Tower"; }
  void visit(Visitor& visitor) override {
    for (std::size_t i = 0; i < layers.size(); ++i) visitor.child(fmt::format("layers.{}.linear", i), layers[i]);
  }
};

TEST(Swap, ReachesEveryLayerOfALargeModel) {
  Tower model(test::make_base("gptq", 32, 32));
  const LoraConfig config{.r = 2, .target_modules = {"linear"}, .init_lora_weights = false};
  adapters::inject(model, config, {.adapter_name = "a", .seed = 1});
  adapters::inject(model, config, {.adapter_name = "b", .seed = 2});
  const auto active = [&](const Names& names) {
    for (auto& slot : model.layers) EXPECT_EQ(dynamic_cast<AdapterLayer&>(*slot).active_adapters(), names);
  };
  adapters::set_adapter(model, {"b"});
  active({"b"});
  const Tensor input = test::random({1, 32}, 5);
  const Bits with_b = bits(model.layers.back()->forward(input));
  {
    const adapters::UseAdapters use(model, {"a"});
    active({"b"});
    EXPECT_NE(bits(model.layers.back()->forward(input)), with_b);
  }
  adapters::delete_adapter(model, "b");
  active({"a"});
  EXPECT_EQ(adapters::adapter_names(model), Names{"a"});
}

TEST(Swap, AWarningHandlerMayAskTheLayerThatWarns) {
  Served served("dense");
  Names heard;
  adapters::set_warning_handler([&](const std::string&) { heard = served.layer->active_adapters(); });
  served.layer->delete_adapter("a");
  adapters::set_warning_handler({});
  EXPECT_EQ(heard, Names{"b"});
}

TEST(Swap, ALeafMayBeFrozenWhileAnOperationThatReadItWaitsForBackward) {
  Tensor leaf = Tensor::ones({3});
  leaf.set_requires_grad();
  const auto recorded = [&] { return record("same", leaf.clone()).wrt(leaf, [](const Tensor& dy) { return dy; }); };
  const Tensor before = recorded();
  leaf.set_requires_grad(false);
  const Tensor frozen = recorded();
  EXPECT_FALSE(frozen.requires_grad());
  EXPECT_FALSE(leaf.requires_grad());
  before.backward(Tensor::ones({3}));
  EXPECT_FALSE(leaf.grad().defined());
  leaf.set_requires_grad();
  const Tensor after = recorded();
  after.backward(Tensor::ones({3}));
  EXPECT_EQ(leaf.grad().to_vector<double>(), std::vector<double>(3, 1));
}

}  // namespace
}  // namespace graft::swap_test
