// Moving a model with what others hold of it: adapters' records, optimizers, gradients.
#include <gtest/gtest.h>

#include <cmath>

#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/peft_io.h"
#include "graft/adapters/rules.h"
#include "graft/autograd/ops.h"
#include "graft/autograd/optim.h"
#include "graft/tests/adapters/layers.h"
#include "graft/tests/cuda/device_tensors.h"

namespace graft::test {
namespace {

/// Made on the tested device, and brought home.
template <class... Arguments>
Model model_here(Arguments... arguments) {
  Model model(arguments...);
  to(model, Device::cpu());
  return model;
}

Tensor input(Device device) { return to(random({3, 64}, 1), device); }

std::map<std::string, std::vector<double>> values(Module& model) {
  std::map<std::string, std::vector<double>> all;
  for (const auto& [name, tensor] : named_parameters(model)) all[name] = tensor.to_vector<double>();
  return all;
}

void expect_all_on(Module& model, Device device) {
  for (const auto& [name, tensor] : named_parameters(model)) EXPECT_EQ(tensor.device(), device) << name;
}

// What is trained beside the adapter is what is saved, and the originals come back where the model is.
TEST(GpuMove, TrainedCopiesAndOriginals) {
  Model model = model_here("dense", true), again = model_here("dense", true);
  const LoraConfig config{.r = 2, .target_modules = {"q_proj"}, .bias = "all", .modules_to_save = {"norm"}};
  adapters::inject(model, config);
  to(model, gpu);
  AdamW optimizer(trainable(model), {.lr = 0.1});
  const Tensor x = input(gpu);
  to(sum(model.forward(x) * model.forward(x)), DType::f32).backward();
  optimizer.step();
  expect_all_on(model, gpu);
  const Tensor trained = model.forward(x);

  const TemporaryFolder folder;
  adapters::save_pretrained(model, folder.path());
  adapters::load_pretrained(again, folder.path());
  to(again, gpu);
  EXPECT_EQ(distance(to(again.forward(x), Device::cpu()), to(trained, Device::cpu())), 0);

  adapters::enable_adapters(model, false);
  expect_all_on(model, gpu);
  const Model bare("dense", true);
  EXPECT_EQ(distance(to(model.forward(x), Device::cpu()), to(bare.forward(x), Device::cpu())), 0);
  to(model, Device::cpu());
  adapters::enable_adapters(model, true);
  expect_all_on(model, Device::cpu());
  EXPECT_LE(distance(model.forward(to(x, Device::cpu())), to(trained, Device::cpu())), 1e-4);
}

// An optimizer that was made before the model moved steps the tensors that the model has.
TEST(GpuMove, OptimizersSeeIt) {
  Model model = model_here();
  adapters::inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}});
  SGD optimizer(trainable(model), {.lr = 0.1});
  to(model, gpu);
  const auto before = values(model);
  sum(model.forward(input(gpu))).backward();
  optimizer.step();
  expect_all_on(model, gpu);
  EXPECT_NE(values(model), before);
}

TEST(GpuMove, GradientsComeAlong) {
  Model model = model_here();
  adapters::inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}});
  sum(model.forward(input(Device::cpu()))).backward();
  std::vector<std::vector<double>> before;
  for (const auto& [name, tensor] : trainable(model)) before.push_back(tensor.grad().to_vector<double>());
  to(model, gpu);
  ASSERT_FALSE(before.empty());
  std::size_t i = 0;
  for (const auto& [name, tensor] : trainable(model)) {
    EXPECT_EQ(tensor.grad().device(), gpu);
    EXPECT_EQ(tensor.grad().to_vector<double>(), before[i++]);
  }
}

// Backward does not read what was saved on another device.
TEST(GpuMove, BackwardRefusesWhatMovedAway) {
  Model model = model_here();
  adapters::inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}});
  const Tensor y = sum(model.forward(input(Device::cpu())));
  to(model, gpu);
  EXPECT_THROW(y.backward(), ValueError);
}

}  // namespace
}  // namespace graft::test
