// Every method on every kind of layer: on a GPU as on the CPU, and from one to the other.
#include <gtest/gtest.h>

#include <cmath>

#include "graft/adapters/adalora.h"
#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/peft_io.h"
#include "graft/adapters/rules.h"
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"
#include "graft/tests/adapters/layers.h"
#include "graft/tests/cuda/device_tensors.h"

namespace graft::test {
namespace {

struct Method {
  const char* name;
  AdapterConfig config;
};
const std::vector<Method>& methods() {
  static const std::vector<std::string> targets{"q_proj", "v_proj"};
  static const std::vector<Method> all = {
      {"lora", LoraConfig{.r = 4, .lora_alpha = 8, .target_modules = targets}},
      {"lora_bias", LoraConfig{.r = 4, .lora_alpha = 8, .target_modules = targets, .lora_bias = true}},
      {"pissa", LoraConfig{.r = 4, .lora_alpha = 8, .target_modules = targets, .init_lora_weights = "pissa"}},
      {"dora", LoraConfig{.r = 4, .lora_alpha = 8, .target_modules = targets, .use_dora = true}},
      {"qalora", LoraConfig{.r = 4, .lora_alpha = 8, .target_modules = targets, .use_qalora = true}},
      {"adalora", AdaLoraConfig{.target_r = 2, .init_r = 4, .total_step = 10, .lora_alpha = 8, .target_modules = targets}},
      {"oft", OFTConfig{.oft_block_size = 8, .target_modules = targets}},
  };
  return all;
}

bool exists(const Method& method, const std::string& format) {
  const std::string_view name = method.name;
  return !(name == "qalora" && format == "dense") && !(name == "pissa" && format != "dense");
}

void add(Module& model, const AdapterConfig& config) {
  Registry registry = Registry::builtin();
  registry.prepend(rules::quantized_dora());
  registry.prepend(rules::quantized_qalora());
  adapters::inject(model, config, {.registry = registry});
  std::uint64_t seed = 100;
  adapters::for_each_layer(model, [&](const std::string&, AdapterLayer& layer) { randomise(layer, "default", seed += 10); });
}

Tensor input() { return random({6, 64}, 5); }

/// Largest |a − b| over the largest |b|.
double far(const Tensor& a, const Tensor& b) {
  const Tensor here = to(b, Device::cpu());
  return distance(to(a, Device::cpu()), here) / std::max(distance(here, Tensor::zeros(here.shape(), here.dtype())), 1e-30);
}

struct Outcome {
  Tensor y, dx;
  std::vector<NamedTensor> gradients;
};

Outcome run(const Method& method, const std::string& format, Device device, std::optional<DType> lowered = {}) {
  Model model(format);
  to(model, device);
  add(model, method.config);
  for (const auto& [name, tensor] : named_parameters(model)) EXPECT_EQ(tensor.device(), device) << name;
  Tensor x = to(input(), device);
  x.set_requires_grad();
  const autocast::Guard guard(device.type, lowered);
  const Tensor y = model.forward(x);
  to(sum(y * y), DType::f32).backward();
  Outcome outcome{y, x.grad(), {}};
  for (const auto& [name, tensor] : trainable(model)) outcome.gradients.push_back({name, tensor.grad()});
  return outcome;
}

void compare(const Outcome& there, const Outcome& here, double tolerance) {
  EXPECT_EQ(there.y.device(), gpu);
  EXPECT_EQ(there.y.dtype(), here.y.dtype());
  EXPECT_LE(far(there.y, here.y), tolerance);
  EXPECT_LE(far(there.dx, here.dx), tolerance);
  ASSERT_EQ(there.gradients.size(), here.gradients.size());
  for (std::size_t i = 0; i < here.gradients.size(); ++i) {
    ASSERT_EQ(there.gradients[i].name, here.gradients[i].name);
    ASSERT_EQ(there.gradients[i].tensor.defined(), here.gradients[i].tensor.defined()) << here.gradients[i].name;
    if (!here.gradients[i].tensor.defined()) continue;
    EXPECT_LE(far(there.gradients[i].tensor, here.gradients[i].tensor), tolerance) << here.gradients[i].name;
  }
}

TEST(GpuAdapters, EveryMethodOnEveryFormat) {
  for (const Method& method : methods())
    for (const std::string& format : formats) {
      if (!exists(method, format)) continue;
      SCOPED_TRACE(fmt::format("{} on {}", method.name, format));
      compare(run(method, format, gpu), run(method, format, Device::cpu()), 1e-4);
    }
}

// Products in bf16 differ by their roundings, of which three layers follow each other.
TEST(GpuAdapters, UnderAutocast) {
  for (const Method& method : methods())
    for (const std::string format : {"dense", "gptq"}) {
      if (!exists(method, format)) continue;
      SCOPED_TRACE(fmt::format("{} on {}", method.name, format));
      const Outcome there = run(method, format, gpu, DType::bf16);
      EXPECT_EQ(there.y.dtype(), DType::bf16);
      compare(there, run(method, format, Device::cpu(), DType::bf16), 6e-2);
    }
}

TEST(GpuAdapters, AutocastIsOfOneKindOfDevice) {
  const Tensor there = random({2, 64}, 1), here = to(there, Device::cpu()), w = to(random({8, 64}, 2), Device::cpu());
  {
    const autocast::Guard guard(Device::Type::cuda, DType::f16);
    EXPECT_EQ(linear(here, w).dtype(), DType::f32);
    EXPECT_EQ(linear(there, to(w, gpu)).dtype(), DType::f16);
  }
  const autocast::Guard guard(Device::Type::cpu, DType::f16);
  EXPECT_EQ(linear(here, w).dtype(), DType::f16);
  EXPECT_EQ(linear(there, to(w, gpu)).dtype(), DType::f32);
}

// Saved here, loaded there; and back.
TEST(GpuAdapters, FilesKnowNoDevice) {
  for (const Method& method : methods()) {
    if (!exists(method, "gptq") || method.name == std::string_view("dora") || method.name == std::string_view("qalora")) continue;
    SCOPED_TRACE(method.name);
    Model here("gptq"), there("gptq"), back("gptq");
    to(here, Device::cpu());
    to(back, Device::cpu());
    add(here, method.config);
    const TemporaryFolder first, second;
    adapters::save_pretrained(here, first.path());
    adapters::load_pretrained(there, first.path());
    const NoGrad no_grad;
    const Tensor x = to(input(), Device::cpu()), y = here.forward(x);
    EXPECT_LE(far(there.forward(input()), y), 1e-4);
    adapters::save_pretrained(there, second.path());
    adapters::load_pretrained(back, second.path());
    EXPECT_EQ(distance(back.forward(x), y), 0);
  }
}

// A loss may be added to it wherever the model lies.
TEST(GpuAdapters, NoRegulariserIsZeroOnTheModelsDevice) {
  Model model("dense");
  add(model, methods()[0].config);
  const Tensor zero = adalora::orthogonal_regulariser(model);
  EXPECT_EQ(zero.device(), gpu);
  EXPECT_EQ(zero.item(), 0);
}

}  // namespace
}  // namespace graft::test
