// The Llama example on a GPU: it trains and writes there as on the CPU.
#include <gtest/gtest.h>

#include <filesystem>

#include "graft/adapters/inject.h"
#include "graft/adapters/peft_io.h"
#include "graft/autograd/ops.h"
#include "graft/examples/llama/methods.h"
#include "graft/examples/llama/sampling.h"
#include "graft/examples/llama/trainer.h"
#include "graft/tests/adapters/layers.h"

namespace graft::llama {
namespace {

constexpr Device gpu{Device::Type::cuda, 0};
const std::filesystem::path folder = GRAFT_SOURCE_DIR "/examples/models/tiny-llama-gptq";

CausalLM model_on(Device device) {
  CausalLM model = load(folder);
  to(model, device);
  adapters::inject(model, LoraConfig{.r = 4, .lora_alpha = 8, .target_modules = {"q_proj", "down_proj"}},
                   {.seed = 3, .architecture = "llama"});
  return model;
}

std::vector<std::int64_t> text() {
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < 40; ++i) ids.push_back(i * i * 7 % 500);
  return ids;
}

TEST(GpuLlama, TrainsResumesAndWrites) {
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not here";
  const TextData data(text(), 6);
  const TrainingOptions options{.steps = 2, .batch = 2, .lr = 1e-2, .warmup = 0};
  const test::TemporaryFolder out;
  const std::filesystem::path state = std::filesystem::path(out.path()) / "state.safetensors";
  const auto method = [](CausalLM& model) { return find_method("lora").steps(model); };

  CausalLM here = model_on(Device::cpu()), there = model_on(gpu), later = model_on(gpu);
  EXPECT_EQ(there.device(), gpu);
  Trainer trainer(here, data, options, method(here)), far_trainer(there, data, options, method(there));
  EXPECT_NEAR(far_trainer.step().loss, trainer.step().loss, 1e-3);
  far_trainer.save(state, {});
  Trainer resumed(later, data, options, method(later));
  resumed.resume(state, {});
  const double loss = trainer.step().loss;
  EXPECT_NEAR(far_trainer.step().loss, loss, 1e-3);
  EXPECT_NEAR(resumed.step().loss, loss, 1e-3);
  EXPECT_NEAR(evaluate(there, data, 4), evaluate(here, data, 4), 1e-3);

  const std::vector<std::int64_t> prompt{5, 17, 130};
  EXPECT_EQ(generate(there, prompt, {.max_tokens = 3}), generate(here, prompt, {.max_tokens = 3}));
}

}  // namespace
}  // namespace graft::llama
