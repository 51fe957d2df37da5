#include "graft/examples/llama/methods.h"

#include <algorithm>
#include <cctype>

#include "graft/adapters/rank_allocator.h"
#include "graft/adapters/rules.h"

namespace graft::llama {
namespace {

Targets targets(const AdapterOptions& options) {
  // A single entry may be "all-linear" or a regular expression, which no plain name looks like; several are names.
  const auto in_names = [](unsigned char c) { return std::isalnum(c) || c == '_'; };
  const std::vector<std::string>& given = options.target_modules;
  const bool pattern = given.size() == 1 && !std::all_of(given[0].begin(), given[0].end(), in_names);
  return pattern ? Targets(given[0]) : Targets(given);
}

LoraConfig lora(const AdapterOptions& options) {
  const std::int64_t r = options.r.value_or(16);
  return {.r = r,
          .lora_alpha = options.lora_alpha.value_or(2.0 * static_cast<double>(r)),
          .target_modules = targets(options),
          .lora_dropout = options.dropout,
          .task_type = "CAUSAL_LM",
          .base_model_name_or_path = options.base_model};
}

AdapterConfig lora_config(const AdapterOptions& options) { return lora(options); }

AdapterConfig dora_config(const AdapterOptions& options) {
  LoraConfig config = lora(options);
  config.use_dora = true;
  return config;
}

AdapterConfig qalora_config(const AdapterOptions& options) {
  LoraConfig config = lora(options);
  config.use_qalora = true;
  config.qalora_group_size = options.block_size.value_or(config.qalora_group_size);
  return config;
}

AdapterConfig adalora_config(const AdapterOptions& options) {
  // It begins with half as many directions again as it may keep, and has the last quarter of the run for training those alone.
  const std::int64_t r = options.r.value_or(8);
  return AdaLoraConfig{.target_r = r,
                       .init_r = r + (r + 1) / 2,
                       .tinit = options.steps / 10,
                       .tfinal = options.steps / 4,
                       .deltaT = std::max<std::int64_t>(options.steps / 50, 1),
                       .total_step = options.steps,
                       .lora_alpha = options.lora_alpha.value_or(2.0 * static_cast<double>(r)),
                       .target_modules = targets(options),
                       .lora_dropout = options.dropout,
                       .task_type = "CAUSAL_LM",
                       .base_model_name_or_path = options.base_model};
}

AdapterConfig oft_config(const AdapterOptions& options) {
  check(!options.r || !options.block_size, "for oft either r, the number of blocks, or the block size is wanted, not both");
  return OFTConfig{.r = options.r.value_or(0),
                   .oft_block_size = options.r ? 0 : options.block_size.value_or(32),
                   .module_dropout = options.dropout,
                   .target_modules = targets(options),
                   .task_type = "CAUSAL_LM",
                   .base_model_name_or_path = options.base_model};
}

Registry dora_registry() {
  Registry registry = Registry::builtin();
  registry.prepend<LoraConfig>(rules::quantized_dora());
  return registry;
}

Registry qalora_registry() {
  Registry registry = Registry::builtin();
  registry.prepend<LoraConfig>(rules::quantized_qalora());
  return registry;
}

std::unique_ptr<MethodSteps> no_steps(CausalLM&) { return std::make_unique<MethodSteps>(); }

class AdaLoraSteps final : public MethodSteps {
 public:
  explicit AdaLoraSteps(CausalLM& model) : model_(model), allocator_(model) {}
  Tensor loss() const override { return adalora::orthogonal_regulariser(model_); }
  void after_step(std::int64_t step) override { allocator_.update_and_allocate(step); }
  std::vector<NamedTensor> state() const override { return allocator_.state(); }
  void load_state(const std::vector<NamedTensor>& state) override { allocator_.load_state(state); }

 private:
  CausalLM& model_;
  adalora::RankAllocator allocator_;
};

std::unique_ptr<MethodSteps> adalora_steps(CausalLM& model) { return std::make_unique<AdaLoraSteps>(model); }

constexpr Method all_methods[] = {
    {"lora", "low-rank terms", lora_config, Registry::builtin, no_steps},
    {"dora", "low-rank terms with learned column norms", dora_config, dora_registry, no_steps},
    {"qalora", "low-rank terms on the pooled input", qalora_config, qalora_registry, no_steps},
    {"adalora", "low-rank terms with ranks moved to where they help", adalora_config, Registry::builtin, adalora_steps},
    {"oft", "orthogonal rotations of the input", oft_config, Registry::builtin, no_steps},
};

}  // namespace

std::span<const Method> methods() { return all_methods; }

const Method& find_method(std::string_view name) {
  std::string names;
  for (const Method& method : all_methods) {
    if (method.name == name) return method;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", method.name);
  }
  fail("method = \"{}\" is not one of {}", name, names);
}

}  // namespace graft::llama
