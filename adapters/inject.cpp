#include "graft/adapters/inject.h"

#include <algorithm>
#include <map>
#include <set>
#include <type_traits>

#include "graft/adapters/match.h"
#include "graft/adapters/model.h"
#include "graft/adapters/oft.h"
#include "graft/adapters/verify.h"
#include "graft/adapters/warning.h"
#include "graft/adapters/wrappers.h"

namespace graft::adapters {

class TakenWeights {
 public:
  TakenWeights() = default;
  TakenWeights(const TakenWeights&) = delete;
  TakenWeights& operator=(const TakenWeights&) = delete;
  ~TakenWeights() {
    for (const auto& [weight, original] : kept_) weight.copy_(original);
  }
  void keep(const Tensor& weight) { kept_.emplace_back(weight, weight.clone()); }
  void release() { kept_.clear(); }

 private:
  std::vector<std::pair<Tensor, Tensor>> kept_;
};

namespace {

std::string last_component(const std::string& path) { return path.substr(path.rfind('.') + 1); }

/// A seed of its own for the layer at `path`: FNV-1a of the path names a stream of the user's seed.
std::uint64_t layer_seed(std::uint64_t seed, const std::string& path) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : path) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  const auto words = random_block(seed, hash, 0);
  return (std::uint64_t{words[1]} << 32) | words[0];
}

/// Candidates: every place in the model but those inside of an adapted or a linear layer.
std::vector<std::pair<std::string, SlotBase*>> candidates(Module& model) {
  std::vector<std::pair<std::string, SlotBase*>> found;
  std::string inside;
  for_each_slot(model, [&](const std::string& path, SlotBase& slot) {
    if (!inside.empty() && path.starts_with(inside)) return;
    if (std::dynamic_pointer_cast<AdapterLayer>(slot.module())) inside = path + ".";
    found.emplace_back(path, &slot);
  });
  return found;
}

/// "all-linear" as names: last components where these mean the same modules, else whole paths.
Targets resolve_all_linear(Module& model, const Selection& selection, const std::string& task_type,
                           std::vector<std::string>& left_out) {
  const std::vector<std::string> paths = all_linear(model, task_type, &left_out);
  check(!paths.empty(), "target_modules is 'all-linear', but the model has no linear layer beside its output");
  std::vector<std::string> names;
  for (const auto& path : paths)
    if (auto name = last_component(path); std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  Selection short_names = selection;
  short_names.exclude_modules = {};
  short_names.modules_to_save = {};
  short_names.layers_to_transform = {};
  short_names.target_modules = names;
  for (const auto& [path, slot] : candidates(model)) {
    const bool meant = std::find(paths.begin(), paths.end(), path) != paths.end();
    if ((match(short_names, path) == Match::yes) != meant) return paths;
  }
  return names;
}

bool is_all_linear(const Targets& targets) { return targets.is_pattern() && lower_case(targets.pattern()) == "all-linear"; }

/// The configuration with the rank and the scaling of one layer.
LoraConfig for_layer(LoraConfig config, const std::string& path) {
  config.r = look_up(config.rank_pattern, path).value_or(config.r);
  config.lora_alpha = look_up(config.alpha_pattern, path).value_or(config.lora_alpha);
  return config;
}
/// AdaLoRA's pattern says which directions the allocator kept in this layer; keys end in ".lora_E".
AdaLoraConfig for_layer(AdaLoraConfig config, const std::string& path) {
  std::erase_if(config.rank_pattern, [&](const auto& entry) { return !entry.first.starts_with(path + ".lora_E"); });
  return config;
}
OFTConfig for_layer(OFTConfig config, const std::string&) { return config; }

template <class Config>
void place(const std::string& path, SlotBase& slot, const Config& config, const InjectOptions& options, Injection& injection) {
  InjectionReport::Target target{path, {}, {}, {}};
  const auto module = slot.module();
  const auto layer = std::dynamic_pointer_cast<LinearBase>(module);
  check(layer != nullptr, "{}: a module of type {} cannot be adapted, only linear layers can", path,
        module ? module->type_name() : "null");
  const auto existing = std::dynamic_pointer_cast<AdapterLayer>(layer);
  check(!existing || !existing->has_adapter(options.adapter_name), "{}: there is an adapter '{}' already", path,
        options.adapter_name);
  std::shared_ptr<LinearBase> base = layer;
  while (const auto wrapper = std::dynamic_pointer_cast<AdapterLayer>(base)) base = wrapper->base_layer();

  if (const auto* awq = quantized(*base, "awq")) check_awq_packer(*awq, options.auto_awq_version);  // whichever rule takes it
  if constexpr (std::is_same_v<Config, LoraConfig>)
    if (const Tensor weight = dense_weight(*base); weight.defined() && lora::takes_from_weight(config.init_lora_weights))
      injection.taken->keep(weight);
  std::shared_ptr<AdapterLayer> fresh;
  for (const auto& rule : options.registry.rules<Config>()) {
    if (const Verdict verdict = rule.accepts(*base, config); !verdict) {
      target.declined.push_back({rule.name, verdict.reason()});
      continue;
    }
    fresh = rule.make(base, options.adapter_name, for_layer(config, path), layer_seed(options.seed, path));
    check(fresh != nullptr, "{}: rule {} accepted the layer and made nothing of it", path, rule.name);
    target.rule = rule.name;
    break;
  }
  if (!fresh) {
    std::string reasons;
    for (const auto& declined : target.declined) reasons += fmt::format("\n  {}: {}", declined.rule, declined.reason);
    fail("{}: no rule takes a layer of type {}:{}", path, base->type_name(), reasons.empty() ? " there are no rules" : reasons);
  }
  target.layer = existing ? existing->type_name() : fresh->type_name();
  injection.placed.push_back({path, &slot, std::move(fresh), existing});
  injection.report.targets.push_back(std::move(target));
}

[[noreturn]] void nothing_matched(const Selection& selection, const InjectionReport& report) {
  const std::string wanted = selection.target_modules.is_pattern()
                                 ? selection.target_modules.pattern()
                                 : fmt::format("{}", fmt::join(selection.target_modules.names(), ", "));
  if (!report.excluded.empty())
    fail("all modules that target_modules ({}) means are excluded by exclude_modules or modules_to_save: {}", wanted,
         fmt::join(report.excluded, ", "));
  fail("no module of the model is meant by target_modules ({}){}", wanted,
       selection.layers_to_transform.empty() ? "" : "; note that layers_to_transform is set");
}

/// A copy to be trained of a parameter that is at `path` in the model, unless there is one.
void copy_parameter(const std::string& path, const Tensor& tensor, const std::map<std::string, Tensor>& originals,
                    AdapterRecord& record) {
  const auto same_path = [plain = plain_path(path)](const auto& saved) { return saved.path == plain; };
  if (std::any_of(record.saved.begin(), record.saved.end(), same_path)) return;
  // Another adapter may have put its copy in place; the original is what all of them start from.
  const auto found = originals.find(plain_path(path));
  const Tensor original = found == originals.end() ? tensor : found->second;
  record.saved.push_back({plain_path(path), original, original.clone()});
}

/// Copies of all parameters below the modules that modules_to_save names.
void copy_saved_modules(Module& model, const Selection& selection, Injection& injection) {
  if (selection.modules_to_save.empty()) return;
  std::vector<std::string> prefixes;
  for (const auto& [path, slot] : candidates(model))
    if (is_saved_module(selection, path)) prefixes.push_back(path);
  check(!prefixes.empty(), "no module of the model is meant by modules_to_save ({})", fmt::join(selection.modules_to_save, ", "));
  const auto known = originals(model);
  for (const auto& prefix : prefixes) {
    bool found = false;
    for_each_base_parameter(model, [&](const std::string& path, Tensor& tensor) {
      if (!path.starts_with(prefix + ".") || !is_floating(tensor.dtype())) return;
      found = true;
      copy_parameter(path, tensor, known, *injection.record);
    });
    check(found, "{}: modules_to_save needs floating parameters to train, and it has none", prefix);
    injection.report.modules_saved.push_back(prefix);
  }
}

std::string bias_of(const AdapterConfig& config) {
  return std::visit([](const auto& c) { return c.bias; }, config);
}
bool inference_mode_of(const AdapterConfig& config) {
  return std::visit([](const auto& c) { return c.inference_mode; }, config);
}

void check_beside_others(Module& model, const AdapterConfig& config, const std::string& name) {
  for_each_layer(model, [&](const std::string& path, AdapterLayer& layer) {
    check(!layer.has_adapter(name), "{}: there is an adapter '{}' already", path, name);
    for (const auto& other : layer.adapters()) {
      const auto& record = other.record;
      if (!record) continue;
      check(bias_of(config) == "none" || bias_of(record->config) == "none",
            "adapters '{}' and '{}' both have bias other than 'none'; only one can train the model's biases", other.name, name);
      check(!(std::holds_alternative<AdaLoraConfig>(config) && std::holds_alternative<AdaLoraConfig>(record->config)) ||
                inference_mode_of(config) || inference_mode_of(record->config),
            "adapters '{}' and '{}' are both trainable AdaLoRA adapters; only one can be, set inference_mode for the others",
            other.name, name);
    }
  });
}

/// Copies of the biases that the configuration trains: all of the model, or those of the layers that get an adapter. Whether there are
/// any.
bool copy_biases(Module& model, Injection& injection) {
  const std::string bias = bias_of(injection.record->config);
  if (bias == "none") return true;
  std::set<std::string> own;
  for (const auto& placed : injection.placed) own.insert(placed.path + ".bias");
  const auto known = originals(model);
  bool found = false;
  for_each_base_parameter(model, [&](const std::string& path, Tensor& tensor) {
    const std::string plain = plain_path(path);
    if (bias == "all" ? last_component(plain) != "bias" : !own.count(plain)) return;
    found = true;
    copy_parameter(path, tensor, known, *injection.record);
  });
  return found;
}

/// Layers whose blocks are so few that OFT's module_dropout switches off none of them.
std::vector<std::string> never_dropped(const Injection& injection) {
  std::vector<std::string> paths;
  for (const auto& placed : injection.placed) {
    const auto adapter = placed.fresh->adapter(injection.report.adapter_name);
    const auto* rotation = dynamic_cast<const oft::OFTAdapter*>(adapter.get());
    if (rotation && rotation->dropped_blocks() == 0) paths.push_back(placed.path);
  }
  return paths;
}

/// What cannot be followed is an error where somebody asks, and a warning where a file is read.
template <class... Args>
void object(bool strict, fmt::format_string<Args...> format, Args&&... args) {
  const std::string words = fmt::format(format, std::forward<Args>(args)...);
  check(!strict, "{}", words);
  warn("{}", words);
}

/// What layers that get QA-LoRA warn about, so that files of PEFT load.
void check_qalora_applies(const LoraConfig& config) {
  if (!config.use_qalora) return;
  check(!config.lora_bias, "lora_bias has no effect with use_qalora");
  if (const auto* scheme = std::get_if<std::string>(&config.init_lora_weights))
    fail("init_lora_weights = '{}' has no effect with use_qalora, whose lora_A is uniform at first", *scheme);
}

}  // namespace

Injection prepare_injection(Module& model, const AdapterConfig& config, const InjectOptions& options) {
  const WarningScope warnings;
  validate(config);
  if (const auto* lora = std::get_if<LoraConfig>(&config); lora && options.strict) check_qalora_applies(*lora);
  check_beside_others(model, config, options.adapter_name);
  Injection injection;
  injection.report.adapter_name = options.adapter_name;
  injection.taken = std::make_shared<TakenWeights>();
  injection.record = std::make_shared<AdapterRecord>(AdapterRecord{config, fingerprint(model)});

  Selection chosen = selection(config);
  std::visit(
      [&](auto& c) {
        if (is_all_linear(chosen.target_modules))
          c.target_modules = resolve_all_linear(model, chosen, c.task_type, injection.report.outputs);
        if (!chosen.target_modules.given()) c.target_modules = default_targets(options.architecture);
      },
      injection.record->config);
  chosen = selection(injection.record->config);

  std::vector<std::pair<std::string, SlotBase*>> targets;
  std::vector<std::string> paths, target_paths;
  for (const auto& [path, slot] : candidates(model)) {
    paths.push_back(path);
    const Match answer = match(chosen, path);
    if (answer == Match::excluded) {
      Selection open = chosen;
      open.exclude_modules = {};
      open.modules_to_save = {};
      if (match(open, path) == Match::yes) injection.report.excluded.push_back(path);
    }
    if (answer != Match::yes) continue;
    targets.emplace_back(path, slot);
    target_paths.push_back(path);
  }
  if (targets.empty()) nothing_matched(chosen, injection.report);
  for (const auto& what : unmatched(config, paths, target_paths))
    object(options.strict, "nothing in the model is meant by {}", what);
  if (const auto whole = unfiltered(chosen, target_paths); !whole.empty())
    object(options.strict,
           "layers_to_transform leaves out {}, but target_modules has the whole path, which is not filtered by layer",
           fmt::join(whole, ", "));
  for (const auto& [path, slot] : targets)
    std::visit([&, &path = path, &slot = slot](const auto& c) { place(path, *slot, c, options, injection); },
               injection.record->config);
  copy_saved_modules(model, chosen, injection);
  if (const std::string bias = bias_of(config); !copy_biases(model, injection))
    object(options.strict, "bias is '{}', but {} to train", bias,
           bias == "all" ? "the model has no bias" : "no layer that gets an adapter has one");
  if (const auto* turned = std::get_if<OFTConfig>(&config); turned && turned->module_dropout > 0) {
    const auto paths_of_few = never_dropped(injection);
    if (!paths_of_few.empty())
      object(options.strict && paths_of_few.size() == injection.placed.size(),
             "module_dropout = {} is less than one block of those that these layers have, and drops nothing there: {}",
             turned->module_dropout, fmt::join(paths_of_few, ", "));
  }
  if (chosen.exclude_modules.given() && injection.report.excluded.empty()) warn("exclude_modules is given, but excludes nothing");
  injection.report.warnings = warnings.messages();
  return injection;
}

InjectionReport commit_injection(Module& model, Injection injection) {
  const std::string& name = injection.report.adapter_name;
  std::vector<std::string> active = {name};
  for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
    if (!layer.adapter_names().empty()) active = layer.active_adapters();
  });
  for_each_base_parameter(model, [](const std::string&, Tensor& tensor) {
    if (tensor.requires_grad()) tensor.set_requires_grad(false);
  });
  for (auto& placed : injection.placed) {
    AdapterLayer& layer = placed.existing ? *placed.existing : *placed.fresh;
    const bool beside_others = placed.existing && !layer.adapter_names().empty();
    if (placed.existing) layer.add_adapter(name, placed.fresh->adapter(name));
    layer.adopt(name, injection.record, inference_mode_of(injection.record->config));
    if (!beside_others) layer.set_adapter(active);  // else what is active there stays so, and another thread may be changing it
    if (placed.existing) continue;
    layer.set_training(model.training());
    placed.slot->replace(placed.fresh);
  }
  place_saved_parameters(model);
  for (const NamedTensor& p : named_parameters(model)) {
    injection.report.all_parameters += p.tensor.count();
    if (p.tensor.requires_grad()) injection.report.trainable_parameters += p.tensor.count();
  }
  injection.taken->release();
  return std::move(injection.report);
}

InjectionReport inject(Module& model, const AdapterConfig& config, const InjectOptions& options) {
  return commit_injection(model, prepare_injection(model, config, options));
}

std::string to_string(const InjectionReport& report) {
  std::string text = fmt::format("adapter '{}': {} layers\n", report.adapter_name, report.targets.size());
  for (const auto& target : report.targets) {
    text += fmt::format("  {}: {} by {}", target.path, target.layer, target.rule);
    for (const auto& declined : target.declined) text += fmt::format("; not {} ({})", declined.rule, declined.reason);
    text += '\n';
  }
  if (!report.excluded.empty()) text += fmt::format("  excluded: {}\n", fmt::join(report.excluded, ", "));
  if (!report.outputs.empty()) text += fmt::format("  left out of all-linear: {}\n", fmt::join(report.outputs, ", "));
  if (!report.modules_saved.empty()) text += fmt::format("  trained whole: {}\n", fmt::join(report.modules_saved, ", "));
  for (const auto& warning : report.warnings) text += fmt::format("  warning: {}\n", warning);
  text += fmt::format("  trainable parameters: {} of {}\n", report.trainable_parameters, report.all_parameters);
  return text;
}

}  // namespace graft::adapters

fmt::format_context::iterator fmt::formatter<graft::adapters::InjectionReport>::format(
    const graft::adapters::InjectionReport& report, fmt::format_context& context) const {
  return fmt::formatter<std::string>::format(graft::adapters::to_string(report), context);
}
