// A new method in a user's own file: VeRA (Kopiczko et al., 2024), y += b ⊙ (B (d ⊙ (A x))). A and B are random and stay as they are;
// trained are the vectors d and b alone. The program checks its derivatives over every format, lets a layer of a GPTQ checkpoint
// learn the change that another one was given, saves what it learned, and reads it back.
#include <cmath>

#include "graft/adapters/inject.h"
#include "graft/adapters/lora.h"
#include "graft/adapters/peft_io.h"
#include "graft/autograd/gradcheck.h"
#include "graft/autograd/ops.h"
#include "graft/autograd/optim.h"
#include "graft/quant/checkpoint.h"
#include "graft/quant/pack_checkpoint.h"
#include "graft/quant/round_to_nearest.h"

using namespace graft;

struct Vera : Adapter {
  Vera(LinearBase& base, std::int64_t r, std::uint64_t seed) {
    const auto [device, dtype] = lora::placement(base, true);
    Generator random{seed};
    A = normal({r, base.in_features()}, 0, 1 / std::sqrt(static_cast<double>(base.in_features())), random, dtype, device);
    B = normal({base.out_features(), r}, 0, 1 / std::sqrt(static_cast<double>(r)), random, dtype, device);
    d = Tensor::full({r}, 0.1, dtype, device);
    b = Tensor::zeros({base.out_features()}, dtype, device);  // zero: the layer starts as its base
  }
  std::string_view method() const override { return "vera"; }
  std::string description() const override { return fmt::format("r={}", d.dim(0)); }
  // Buffers move between devices with the model, but are neither trained nor saved: the seed makes them again.
  void visit(Visitor& visitor, const std::string& name) override {
    visitor.parameter(fmt::format("vera_lambda_d.{}", name), d);
    visitor.parameter(fmt::format("vera_lambda_b.{}", name), b);
    visitor.buffer(fmt::format("vera_A.{}", name), A);
    visitor.buffer(fmt::format("vera_B.{}", name), B);
  }
  // With d and b put into the factors it is a low-rank term like any other, which kernels may fuse with the base product.
  std::optional<LowRankTerm> term(const Tensor&, const AdapterCall&) const override {
    return LowRankTerm{.A = unsqueeze(d, 1) * A, .B = unsqueeze(b, 1) * B};
  }

  Tensor A, B, d, b;  // [r, in], [out, r], [r], [out]
};

Registry::Rule<LoraConfig> vera_rule() {
  return {.name = "vera",
          .accepts =
              [](const LinearBase&, const LoraConfig& config) {
                return config.use_dora || config.use_qalora ? Verdict::decline("the configuration asks for a variant of LoRA")
                                                            : Verdict::accept();
              },
          .make =
              [](std::shared_ptr<LinearBase> base, const std::string& name, const LoraConfig& config, std::uint64_t seed) {
                auto layer = std::make_shared<AdapterLayer>(base, "vera.Linear");
                layer->add_adapter(name, std::make_shared<Vera>(*base, config.r, seed));
                return layer;
              }};
}

/// Derivatives for the input and both vectors, over one base layer, against finite differences.
bool check_gradients(const std::string& format, std::shared_ptr<LinearBase> base) {
  const auto vera = std::make_shared<Vera>(*base, 4, 1);
  AdapterLayer layer(base, "vera.Linear");
  layer.add_adapter("default", vera);
  Generator random{.seed = 2};
  std::vector<Tensor> inputs;
  for (const Shape& shape : {Shape{3, 64}, vera->d.shape(), vera->b.shape()})
    inputs.push_back(normal(shape, 0, 1, random, DType::f64).set_requires_grad(true));
  const auto result = gradcheck([&](auto at) { return vera->d = at[1], vera->b = at[2], layer.forward(at[0]); }, inputs);
  fmt::print("gradients over {:<8} off by {:.1e} {}\n", format, result.worst, result.message);
  return result.message.empty();
}

bool check_gradients_on_every_format() {
  Generator random{.seed = 3};
  const Tensor weight = normal({32, 64}, 0, 0.1, random);
  bool good = check_gradients("dense", std::make_shared<Linear>(to(weight, DType::f64)));
  const quant::Grid gptq{.group_size = 32}, awq{.group_size = 32, .sym = false, .rule = quant::GridRule::awq},
      eetq = quant::eetq_grid();
  const std::pair<const char*, quant::Grid> formats[] = {{"gptq", gptq},  {"gptq_v2", gptq}, {"gptq_p", gptq}, {"gemm", awq},
                                                         {"plain", eetq}, {"sm70", eetq},    {"sm80", eetq}};
  for (const auto& [layout, grid] : formats)
    good = check_gradients(layout, quant::make_layer(quant::to_stored(quant::round_to_nearest(weight, grid), layout))) && good;
  return good;
}

struct OneLayer : Module {
  explicit OneLayer(const quant::Checkpoint& file)
      : q_proj(file.linear("model.layers.0.self_attn.q_proj", 256, 256, DType::f32)) {}
  std::string type_name() const override { return "OneLayer"; }
  void visit(Visitor& visitor) override { visitor.child("model.layers.0.self_attn.q_proj", q_proj); }
  Slot<LinearBase> q_proj;
};

int main(int argc, char** argv) try {
  const std::string usage = "usage: custom_adapter <model folder> <output folder>";
  if (argc == 2 && argv[1] == std::string("--help")) return fmt::print("{}\n", usage), 0;
  if (argc != 3) throw ValueError(usage);
  const bool gradients = check_gradients_on_every_format();
  Registry registry = Registry::builtin();
  registry.prepend(vera_rule());
  const LoraConfig config{.r = 32, .target_modules = {"q_proj"}};
  const auto file = quant::Checkpoint::open(argv[1]);
  OneLayer teacher(file), student(file), reader(file);
  adapters::inject(teacher, config, {.registry = registry});
  fmt::print("{}", adapters::inject(student, config, {.registry = registry}));
  Generator random{.seed = 4};
  for (auto& [name, tensor] : trainable(teacher)) tensor.copy_(normal(tensor.shape(), 0, 1, random));
  const Tensor x = normal({64, 256}, 0, 1, random), wanted = teacher.q_proj->forward(x).detach();
  AdamW optimizer(trainable(student), {.lr = 0.1, .weight_decay = 0});
  const auto loss = [&] { return mse_loss(student.q_proj->forward(x), wanted); };
  const double first = loss().item();
  for (int step = 0; step < 200; ++step) {
    loss().backward();
    optimizer.step();
    optimizer.zero_grad();
  }
  const double last = loss().item();
  fmt::print("loss {:.2f}, after 200 steps {:.1e}\n", first, last);
  adapters::save_pretrained(student, argv[2]);
  adapters::load_pretrained(reader, argv[2], {.registry = registry});
  const double difference = amax(reshape(abs(reader.q_proj->forward(x) - student.q_proj->forward(x)), {-1}), 0).item();
  fmt::print("read back from {}: outputs differ by {}\n", argv[2], difference);
  return gradients && last < 0.1 * first && difference == 0 ? 0 : 1;
} catch (const Error& error) {
  fmt::print(stderr, "custom_adapter: {}\n", error.what());
  return 1;
}
