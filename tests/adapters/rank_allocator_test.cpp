#include "graft/adapters/rank_allocator.h"

#include <gtest/gtest.h>

#include <cmath>

#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/peft_io.h"
#include "graft/autograd/checkpoint.h"
#include "graft/autograd/ops.h"
#include "graft/autograd/optim.h"

#include "../support/errors.h"
#include "layers.h"

namespace graft::adalora::rank_allocator_test {
namespace {

using test::expect_error;

const Tensor x = test::random({8, 64}, 5), target = test::random({8, 32}, 6);

/// Two layers of rank 4 of which 2 each are wanted, in twelve steps: two without masking at the start, three after the last one.
AdaLoraConfig twelve_steps() {
  return {.target_r = 2,
          .init_r = 4,
          .tinit = 2,
          .tfinal = 3,
          .deltaT = 2,
          .total_step = 12,
          .target_modules = {"q_proj"},
          .lora_dropout = 0.1};
}

/// A model in training with its optimizer and allocator.
struct Training {
  test::Model model;
  AdamW optimizer;
  RankAllocator allocator;
  int step = 0;

  explicit Training(const AdaLoraConfig& config, const std::string& format = "gptq", std::uint64_t seed = 1)
      : model(format), optimizer(prepared(model, config, seed), {.lr = 1e-2}), allocator(model) {}
  static std::vector<NamedTensor> prepared(test::Model& model, const AdaLoraConfig& config, std::uint64_t seed) {
    adapters::inject(model, config, {.seed = seed});
    set_training(model, true);
    return trainable(model);
  }
  double run(int steps) {
    double threshold = NAN;
    for (int i = 0; i < steps; ++i) {
      (mse_loss(model.forward(x), target) + orthogonal_regulariser(model)).backward();
      optimizer.step();
      threshold = allocator.update_and_allocate(step++);
      optimizer.zero_grad();
    }
    return threshold;
  }
  std::int64_t ranks() const {
    std::int64_t sum = 0;
    for (const auto& [path, rank] : allocator.ranks()) sum += rank;
    return sum;
  }
  std::vector<std::vector<float>> values() {
    std::vector<std::vector<float>> found;
    for (const auto& [name, tensor] : trainable(model)) found.push_back(tensor.to_vector<float>());
    return found;
  }
};

TEST(RankAllocator, ScheduleFallsWithTheCubeOfTheTimeLeft) {
  test::Model model;
  AdaLoraConfig config = twelve_steps();
  config.tinit = 10, config.tfinal = 20, config.total_step = 130;
  adapters::inject(model, config);
  const RankAllocator allocator(model);
  const auto at = [&](std::int64_t step) { return std::pair(allocator.schedule(step).ranks, allocator.schedule(step).mask); };
  EXPECT_EQ(at(0), std::pair(std::int64_t{8}, false));
  EXPECT_EQ(at(10), std::pair(std::int64_t{8}, false));
  EXPECT_EQ(at(60), std::pair(std::int64_t{4}, true));   // 4 · (1 − 1/2)³ + 4 = 4.5
  EXPECT_EQ(at(61), std::pair(std::int64_t{4}, false));  // not a multiple of deltaT
  EXPECT_EQ(at(30), std::pair(std::int64_t{6}, true));   // 4 · 0.8³ + 4 = 6.05
  EXPECT_EQ(at(111), std::pair(std::int64_t{4}, true));
}

TEST(RankAllocator, SpendsTheBudgetByTheEndAndKeepsItThere) {
  Training run(twelve_steps());
  run.run(3);
  EXPECT_EQ(run.ranks(), 8) << "nothing is masked at the start";
  run.run(6);
  EXPECT_LT(run.ranks(), 8);
  EXPECT_FALSE(run.allocator.importance().empty());
  EXPECT_FALSE(std::isnan(run.run(1))) << "step 9 is the final allocation";
  EXPECT_EQ(run.ranks(), 4);
  EXPECT_TRUE(run.allocator.importance().empty());
  const auto ranks = run.allocator.ranks();
  EXPECT_TRUE(std::isnan(run.run(2)));
  EXPECT_EQ(run.allocator.ranks(), ranks);

  // What is left is what a saved folder holds.
  const test::TemporaryFolder folder;
  adapters::save_pretrained(run.model, folder.path());
  test::Model other("gptq");
  adapters::load_pretrained(other, folder.path());
  adapters::for_each_layer(other, [&](const std::string& path, AdapterLayer& layer) {
    EXPECT_EQ(std::dynamic_pointer_cast<AdaLoraAdapter>(layer.adapter("default"))->A.dim(0), ranks.at(path));
  });
  set_training(run.model, false);
  EXPECT_LT(test::distance(other.forward(x), run.model.forward(x)), 1e-6);
}

TEST(RankAllocator, ACompactedFolderIsTrainedOnAndSavedAgain) {
  const test::TemporaryFolder first_folder, second_folder;
  AdaLoraConfig config = twelve_steps();
  config.target_r = 3;
  Training first(config);
  first.run(12);
  ASSERT_EQ(first.ranks(), 6);
  adapters::save_pretrained(first.model, first_folder.path());

  test::Model second("gptq");
  auto loaded = std::get<AdaLoraConfig>(adapters::read_config(first_folder.path()));
  adapters::load_pretrained(second, first_folder.path(), {.is_trainable = true});
  set_training(second, true);
  AdamW optimizer(trainable(second), {.lr = 1e-2});
  adapters::for_each_layer(second, [](const std::string&, AdapterLayer& layer) {
    auto& record = *layer.record("default");
    std::get<AdaLoraConfig>(record.config).target_r = 1;
  });
  RankAllocator allocator(second);
  for (int step = 0; step < 12; ++step) {
    mse_loss(second.forward(x), target).backward();
    optimizer.step();
    allocator.update_and_allocate(step);
    optimizer.zero_grad();
  }
  const auto ranks = allocator.ranks();
  std::int64_t sum = 0;
  for (const auto& [path, rank] : ranks) sum += rank;
  EXPECT_EQ(sum, 2);
  // What one allocator notes, another of the same model takes.
  RankAllocator again(second);
  again.load_state(allocator.state());

  adapters::save_pretrained(second, second_folder.path());
  test::Model third("gptq");
  adapters::load_pretrained(third, second_folder.path());
  const auto before = loaded.rank_pattern,
             after = std::get<AdaLoraConfig>(adapters::read_config(second_folder.path())).rank_pattern;
  ASSERT_EQ(after.size(), before.size());
  for (std::size_t layer = 0; layer < after.size(); ++layer) {
    ASSERT_EQ(after[layer].second.size(), 4u) << "as long as the initial rank";
    for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(before[layer].second[i] || !after[layer].second[i]);
  }
  adapters::for_each_layer(third, [&](const std::string& path, AdapterLayer& layer) {
    EXPECT_EQ(std::dynamic_pointer_cast<AdaLoraAdapter>(layer.adapter("default"))->A.dim(0), ranks.at(path));
  });
  set_training(second, false);
  EXPECT_LT(test::distance(third.forward(x), second.forward(x)), 1e-6);
}

TEST(RankAllocator, AveragesAreThoseOfTheDefinition) {
  Training run(twelve_steps(), "dense");
  const auto E = trainable(run.model)[1];
  ASSERT_NE(E.name.find("lora_E"), std::string::npos);
  std::vector<double> ipt(4, 0), average(4, 0), uncertainty(4, 0);
  for (int step = 0; step < 2; ++step) {
    mse_loss(run.model.forward(x), target).backward();
    run.optimizer.step();
    const auto value = E.tensor.to_vector<double>(), gradient = E.tensor.grad().to_vector<double>();
    for (int i = 0; i < 4; ++i) {
      ipt[i] = std::abs(value[i] * gradient[i]);
      average[i] = 0.85 * average[i] + 0.15 * ipt[i];
      uncertainty[i] = 0.85 * uncertainty[i] + 0.15 * std::abs(ipt[i] - average[i]);
    }
    run.allocator.update_and_allocate(step);
    run.optimizer.zero_grad();
  }
  const auto& found = run.allocator.importance().at("model.layers.0.q_proj.lora_E.default");
  const double size = 1e-6 * *std::max_element(average.begin(), average.end());
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(found.ipt.to_vector<double>()[i], ipt[i], size);
    EXPECT_NEAR(found.exp_avg_ipt.to_vector<double>()[i], average[i], size);
    EXPECT_NEAR(found.exp_avg_unc.to_vector<double>()[i], uncertainty[i], size);
  }
}

TEST(RankAllocator, ATargetThatIsTheInitialRankMasksNothing) {
  AdaLoraConfig config = twelve_steps();
  config.target_r = 4;
  Training run(config);
  for (int step = 0; step < 12; ++step) {
    EXPECT_TRUE(std::isnan(run.run(1))) << step;
    EXPECT_EQ(run.ranks(), 8) << step;
  }
  const test::TemporaryFolder folder;
  adapters::save_pretrained(run.model, folder.path());
  test::Model other("gptq");
  adapters::load_pretrained(other, folder.path());
  set_training(run.model, false);
  EXPECT_EQ(test::distance(other.forward(x), run.model.forward(x)), 0);
}

TEST(RankAllocator, WithoutAFinalPhaseTheLastStepAllocates) {
  AdaLoraConfig config = twelve_steps();
  config.tfinal = 0;
  Training run(config);
  run.run(11);
  EXPECT_GE(run.ranks(), 4);
  EXPECT_FALSE(std::isnan(run.run(1)));
  EXPECT_EQ(run.ranks(), 4);
  EXPECT_TRUE(run.allocator.importance().empty());
}

TEST(RankAllocator, AResumedRunGivesTheSameBits) {
  Training whole(twelve_steps());
  whole.run(12);
  for (const int stop : {1, 5, 9, 11}) {
    SCOPED_TRACE(stop);
    Training first(twelve_steps()), second(twelve_steps(), "gptq", 2);
    first.run(stop);
    // Everything that training changes: parameters, moments, random streams, the allocator.
    const auto from = trainable(first.model), into = trainable(second.model);
    for (std::size_t i = 0; i < from.size(); ++i) into[i].tensor.copy_(from[i].tensor);
    second.optimizer.load_state(first.optimizer.state());
    const auto streams = generators(first.model), resumed = generators(second.model);
    for (std::size_t i = 0; i < streams.size(); ++i) *resumed[i] = *streams[i];
    second.allocator.load_state(first.allocator.state());
    second.step = first.step;
    second.run(12 - stop);
    EXPECT_EQ(second.values(), whole.values());
    EXPECT_EQ(second.allocator.ranks(), whole.allocator.ranks());
  }
}

TEST(RankAllocator, RefusesAStateThatIsNotItsOwn) {
  Training run(twelve_steps());
  run.run(5);
  const auto state = run.allocator.state();
  Training other(twelve_steps());
  const auto refused = [&](std::vector<NamedTensor> wrong, const std::string& words) {
    expect_error<ValueError>([&] { other.allocator.load_state(wrong); }, words);
    EXPECT_TRUE(other.allocator.importance().empty());
    EXPECT_TRUE(other.allocator.state().empty());
  };
  auto wrong = state;
  wrong.push_back(state.front());
  refused(wrong, "is there twice");
  wrong = state;
  wrong.erase(wrong.begin());
  refused(wrong, "has 2 of its three averages");
  wrong = state;
  wrong.front().tensor = Tensor::zeros({3, 3});
  refused(wrong, "is f32[3, 3], not f32");
  wrong = state;
  wrong.push_back({"elsewhere.ipt", Tensor::zeros({1})});
  refused(wrong, "elsewhere.ipt belongs to nothing here");
  wrong = state;
  wrong.back().tensor = Tensor::zeros({3}, DType::u8);
  refused(wrong, "not one byte per initial direction");
  other.allocator.load_state(state);
  EXPECT_EQ(other.allocator.state().size(), state.size());
}

TEST(RankAllocator, RefusesStepsOutOfOrder) {
  Training run(twelve_steps());
  expect_error<TypeError>([&] { run.allocator.update_and_allocate(0); }, "has no gradient to tell its importance from");
  expect_error<ValueError>([&] { run.allocator.update_and_allocate(10); },
                           "step 10 is beyond the final allocation at step 9, which never took place");
  expect_error<ValueError>([&] { run.allocator.update_and_allocate(9); },
                           "model.layers.0.q_proj.lora_E.default: no importance is known to allocate ranks by");
  test::Model plain;
  expect_error<ValueError>([&] { RankAllocator{plain}; }, "the model has no AdaLoRA adapter 'default'");
  adapters::inject(plain, LoraConfig{.target_modules = {"q_proj"}});
  expect_error<ValueError>([&] { RankAllocator{plain}; }, "the model has no AdaLoRA adapter 'default'");
}

}  // namespace
}  // namespace graft::adalora::rank_allocator_test
