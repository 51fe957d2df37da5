// Rules of a program's own. Which layer is built for a target is decided by a list of rules, asked in order; a program puts its
// rules in front of the built-in ones, and the injection's report says which rule took each layer and why others declined.
#include <algorithm>

#include "graft/adapters/inject.h"
#include "graft/adapters/lora.h"
#include "graft/adapters/peft_io.h"
#include "graft/adapters/routing.h"
#include "graft/adapters/rules.h"
#include "graft/adapters/wrappers.h"
#include "graft/autograd/ops.h"
#include "graft/autograd/optim.h"
#include "graft/examples/llama/model.h"

using namespace graft;

std::int64_t widest_rank(const LinearBase& layer) { return std::min(layer.in_features(), layer.out_features()) / 16; }

/// LoRA that says in the saved configuration which rank its layer has, so that PEFT and the built-in rules open the folder too.
struct NarrowLora final : lora::LoraAdapter {
  using LoraAdapter::LoraAdapter;
  void describe(AdapterConfig& config, const std::string& path, const std::string&) const override {
    auto& ranks = std::get<LoraConfig>(config).rank_pattern;
    ranks.insert(ranks.begin(), {path, r()});
  }
};

/// LoRA with a rank of at most a sixteenth of the layer's narrower side, on GPTQ layers.
Registry::Rule<LoraConfig> narrow_rule() {
  return {.name = "lora/narrow",
          .accepts =
              [](const LinearBase& layer, const LoraConfig& config) {
                if (config.use_dora || config.use_qalora) return Verdict::decline("the configuration asks for a variant");
                if (!adapters::quantized(layer, "gptq"))
                  return Verdict::decline("a layer of type {}, not gptq", layer.type_name());
                if (config.r <= widest_rank(layer))
                  return Verdict::decline("{} × {} is wide enough for r = {}", layer.out_features(), layer.in_features(),
                                          config.r);
                return Verdict::accept();
              },
          .make =
              [](std::shared_ptr<LinearBase> base, const std::string& name, const LoraConfig& config, std::uint64_t seed) {
                lora::Options options = lora::options(config, seed);
                options.r = std::min(options.r, widest_rank(*base));
                auto layer = std::make_shared<AdapterLayer>(base, "lora.Narrow");
                layer->add_adapter(name, std::make_shared<NarrowLora>(*base, options, lora::gptq.rounding));
                return layer;
              }};
}

double largest_difference(const Tensor& a, const Tensor& b) { return amax(reshape(abs(a - b), {-1}), 0).item(); }

int main(int argc, char** argv) try {
  const std::string usage = "usage: custom_rule <model folder> <output folder>";
  if (argc == 2 && argv[1] == std::string("--help")) return fmt::print("{}\n", usage), 0;
  if (argc != 3) throw ValueError(usage);
  Registry registry = Registry::builtin();
  registry.prepend(narrow_rule());
  registry.prepend(rules::quantized_dora());

  llama::CausalLM model = llama::load(argv[1]), bare = llama::load(argv[1]), opened = llama::load(argv[1]);
  LoraConfig config{.r = 12, .target_modules = R"(.*\.0\.self_attn\.[qk]_proj|lm_head)"};
  const auto plain = adapters::inject(model, config, {.registry = registry});
  config.use_dora = true;
  const auto dora = adapters::inject(model, config, {.adapter_name = "dora", .registry = registry});
  fmt::print("{}\n{}\n", plain, dora);

  // Every layer is its own: who takes it follows from what it is and what the configuration asks for.
  const auto rules_of = [](const adapters::InjectionReport& report) {
    std::string rules;
    for (const auto& target : report.targets) rules += target.rule + ' ';
    return rules;
  };
  bool good = rules_of(plain) == "lora/gptq lora/narrow lora/dense " &&
              rules_of(dora) == "lora/quantized-dora lora/quantized-dora lora/dense ";

  const Tensor ids = Tensor::from(std::vector<std::int64_t>{17, 4, 9, 23, 42, 8, 15, 16, 33, 7, 64, 2}, {1, 12});
  {
    const adapters::UseAdapters use(model, {"dora"});
    const double difference = largest_difference(model.forward(ids), bare.forward(ids));
    fmt::print("untrained DoRA changes the logits by {:.1e}\n", difference);
    good = good && difference < 1e-3;
  }

  AdamW optimizer(trainable(model), {.lr = 1e-2});
  for (int step = 0; step < 3; ++step) {
    Tensor loss = cross_entropy(model.forward(slice(ids, 1, 0, 11)), slice(ids, 1, 1, 12));
    fmt::print("step {}: loss {:.3f}\n", step, loss.item());
    loss.backward();
    optimizer.step();
    optimizer.zero_grad();
  }
  adapters::save_pretrained(model, argv[2], {.adapter_names = {"default"}});
  adapters::load_pretrained(opened, argv[2]);  // with the built-in rules
  const double moved = largest_difference(model.forward(ids), bare.forward(ids));
  const double difference = largest_difference(model.forward(ids), opened.forward(ids));
  fmt::print("trained LoRA changes the logits by {:.1e}; read back from {}, they differ by {}\n", moved, argv[2], difference);
  return good && moved > 0 && difference == 0 ? 0 : 1;
} catch (const Error& error) {
  fmt::print(stderr, "custom_rule: {}\n", error.what());
  return 1;
}
