#include "graft/adapters/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "graft/adapters/warning.h"
#include "graft/core/formats/json.h"

namespace graft {
namespace {

using Json = nlohmann::ordered_json;  // files keep the order of rank_pattern's keys, which decides

// ---- the lists of fields, once per class ----

template <class C, class F>
void common_fields(C& c, F&& f) {
  f("target_modules", c.target_modules);
  f("exclude_modules", c.exclude_modules);
  f("modules_to_save", c.modules_to_save);
  f("layers_to_transform", c.layers_to_transform);
  f("layers_pattern", c.layers_pattern);
  f("bias", c.bias);
  f("fan_in_fan_out", c.fan_in_fan_out);
  f("inference_mode", c.inference_mode);
  f("task_type", c.task_type);
  f("base_model_name_or_path", c.base_model_name_or_path);
  f("revision", c.revision);
  f("peft_version", c.peft_version);
}

template <class F>
void fields(LoraConfig& c, F&& f) {
  common_fields(c, f);
  f("r", c.r);
  f("lora_alpha", c.lora_alpha);
  f("lora_dropout", c.lora_dropout);
  f("use_rslora", c.use_rslora);
  f("init_lora_weights", c.init_lora_weights);
  f("lora_bias", c.lora_bias);
  f("use_dora", c.use_dora);
  f("use_qalora", c.use_qalora);
  f("qalora_group_size", c.qalora_group_size);
  f("rank_pattern", c.rank_pattern);
  f("alpha_pattern", c.alpha_pattern);
}

template <class F>
void fields(AdaLoraConfig& c, F&& f) {
  common_fields(c, f);
  f("target_r", c.target_r);
  f("init_r", c.init_r);
  f("tinit", c.tinit);
  f("tfinal", c.tfinal);
  f("deltaT", c.deltaT);
  f("beta1", c.beta1);
  f("beta2", c.beta2);
  f("orth_reg_weight", c.orth_reg_weight);
  f("total_step", c.total_step);
  f("lora_alpha", c.lora_alpha);
  f("lora_dropout", c.lora_dropout);
  f("init_lora_weights", c.init_lora_weights);
  f("rank_pattern", c.rank_pattern);
}

template <class F>
void fields(OFTConfig& c, F&& f) {
  common_fields(c, f);
  f("r", c.r);
  f("oft_block_size", c.oft_block_size);
  f("module_dropout", c.module_dropout);
  f("init_weights", c.init_weights);
  f("coft", c.coft);
  f("eps", c.eps);
  f("block_share", c.block_share);
  f("use_cayley_neumann", c.use_cayley_neumann);
  f("num_cayley_neumann_terms", c.num_cayley_neumann_terms);
}

// ---- keys that PEFT writes and this library has no field for ----

enum class Other {
  refused,  // a feature that changes the numbers: using it is an error
  spent,    // matters only while an adapter is made, so a trained one may carry it; worth a warning
  ignored,  // PEFT itself ignores it for this method; worth a warning
  inert,    // means nothing by itself
};
struct FixedKey {
  const char* name;
  const char* json;  // PEFT's default, which is what we write
  Other other;
};

constexpr std::array lora_keys = {
    FixedKey{"alora_invocation_tokens", "null", Other::refused},
    FixedKey{"arrow_config", "null", Other::refused},
    FixedKey{"corda_config", "null", Other::spent},
    FixedKey{"ensure_weight_tying", "false", Other::refused},
    FixedKey{"eva_config", "null", Other::spent},
    FixedKey{"kasa_config", "null", Other::refused},
    FixedKey{"layer_replication", "null", Other::refused},
    FixedKey{"loftq_config", "{}", Other::spent},
    FixedKey{"lora_ga_config", "null", Other::spent},
    FixedKey{"megatron_config", "null", Other::refused},
    FixedKey{"megatron_core", "\"megatron.core\"", Other::inert},
    FixedKey{"monteclora_config", "null", Other::refused},
    FixedKey{"target_parameters", "null", Other::refused},
    FixedKey{"trainable_token_indices", "null", Other::refused},
    FixedKey{"use_bdlora", "null", Other::refused},
    FixedKey{"velora_config", "null", Other::refused},
};
constexpr std::array adalora_keys = {
    FixedKey{"r", "8", Other::ignored},
    FixedKey{"alpha_pattern", "{}", Other::ignored},
    FixedKey{"lora_bias", "false", Other::ignored},
    FixedKey{"use_dora", "false", Other::inert},
    FixedKey{"use_qalora", "false", Other::ignored},
    FixedKey{"qalora_group_size", "16", Other::inert},
    FixedKey{"use_rslora", "false", Other::ignored},
};

std::vector<FixedKey> fixed_keys(const LoraConfig&) { return {lora_keys.begin(), lora_keys.end()}; }
std::vector<FixedKey> fixed_keys(const AdaLoraConfig&) {
  std::vector<FixedKey> keys(lora_keys.begin(), lora_keys.end());
  keys.insert(keys.end(), adalora_keys.begin(), adalora_keys.end());
  return keys;
}
std::vector<FixedKey> fixed_keys(const OFTConfig&) { return {}; }

constexpr const char* qalora_scales[] = {"peft", "paper", "authors"};

// ---- C++ values from JSON; every mismatch is an error that names the key ----

/// Whether a double stands for an integer, and one that it can tell from its neighbours.
bool is_whole(double x) { return std::abs(x) < 0x1p53 && x == std::floor(x); }

struct Reader {
  const Json& object;
  mutable std::vector<std::string> seen = {};

  template <class T>
  void operator()(const char* key, T& value) const {
    seen.push_back(key);
    const auto found = object.find(key);
    if (found == object.end()) return;
    if (!read(*found, value)) fail("adapter_config.json: {} has an unexpected value: {}", key, dump_json(*found));
  }

  static bool read(const Json& json, bool& value) { return json.is_boolean() && (value = json.get<bool>(), true); }
  static bool read(const Json& json, std::int64_t& value) {
    if (json.is_null()) return value = 0, true;
    if (json.is_number_float() && is_whole(json.get<double>()))
      return value = static_cast<std::int64_t>(json.get<double>()), true;
    if (json.is_number_unsigned() && json.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()})
      return false;
    return json.is_number_integer() && (value = json.get<std::int64_t>(), true);
  }
  static bool read(const Json& json, double& value) { return json.is_number() && (value = json.get<double>(), true); }
  static bool read(const Json& json, std::string& value) {
    if (json.is_null()) return value.clear(), true;
    return json.is_string() && (value = json.get<std::string>(), true);
  }
  static bool read(const Json& json, InitWeights& value) {
    if (json.is_boolean()) return value = json.get<bool>(), true;
    return json.is_string() && (value = json.get<std::string>(), true);
  }
  static bool read(const Json& json, Targets& value) {
    if (json.is_null()) return value = Targets(), true;
    if (json.is_string()) return value = Targets(json.get<std::string>()), true;
    std::vector<std::string> names;
    return read(json, names) && (value = Targets(std::move(names)), true);
  }
  /// A list; null is an empty one, and a single value a list of one.
  template <class T>
  static bool read(const Json& json, std::vector<T>& value) {
    value.clear();
    if (json.is_null()) return true;
    const auto append = [&](const Json& item) {
      T element{};
      const bool ok = !item.is_null() && read(item, element);
      value.push_back(element);
      return ok;
    };
    return json.is_array() ? std::all_of(json.begin(), json.end(), append) : append(json);
  }
  template <class T>
  static bool read(const Json& json, Pattern<T>& value) {
    value.clear();
    if (json.is_null()) return true;
    if (!json.is_object()) return false;
    for (const auto& [key, item] : json.items()) {
      T element{};
      if (item.is_null() || !read(item, element)) return false;
      value.emplace_back(key, std::move(element));
    }
    return true;
  }
};

// ---- and back ----

struct Writer {
  nlohmann::json& object;  // sorts its keys

  template <class T>
  void operator()(const char* key, const T& value) const {
    object[key] = write(value);
  }
  static nlohmann::json write(bool value) { return value; }
  static nlohmann::json write(std::int64_t value) { return value; }
  static nlohmann::json write(double value) { return value; }
  static nlohmann::json write(const std::string& value) { return value.empty() ? nlohmann::json() : nlohmann::json(value); }
  static nlohmann::json write(const InitWeights& value) {
    return std::visit([](const auto& v) { return nlohmann::json(v); }, value);
  }
  static nlohmann::json write(const Targets& value) {
    if (!value.given()) return nullptr;
    return value.is_pattern() ? nlohmann::json(value.pattern()) : nlohmann::json(value.names());
  }
  template <class T>
  static nlohmann::json write(const std::vector<T>& value) {
    return value.empty() ? nlohmann::json() : nlohmann::json(value);
  }
  template <class T>
  static nlohmann::json write(const Pattern<T>& value) {
    auto json = nlohmann::json::object();
    for (const auto& [key, item] : value) json[key] = item;
    return json;
  }
};

/// PEFT types these as int, so 16.0 is written 16; a fraction stays one, and so does what a double cannot count to.
void write_whole_numbers(nlohmann::json& object, const char* key) {
  const auto whole = [](nlohmann::json& number) {
    if (number.is_number_float() && is_whole(number.get<double>())) number = static_cast<std::int64_t>(number.get<double>());
  };
  if (!object.contains(key)) return;
  if (!object[key].is_object()) return whole(object[key]);
  for (auto& item : object[key]) whole(item);
}

// ---- validation ----

template <class C>
void validate_common(const C& c, std::initializer_list<std::string_view> biases) {
  constexpr std::array tasks = {"", "SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"};
  check(std::find(tasks.begin(), tasks.end(), c.task_type) != tasks.end(),
        "task_type is '{}', not one of SEQ_CLS, SEQ_2_SEQ_LM, CAUSAL_LM, TOKEN_CLS, QUESTION_ANS, FEATURE_EXTRACTION",
        c.task_type);
  check(std::find(biases.begin(), biases.end(), c.bias) != biases.end(), "bias is '{}', not one of {}", c.bias,
        fmt::join(biases, ", "));
  check(c.layers_pattern.empty() || !c.layers_to_transform.empty(), "layers_pattern is given without layers_to_transform");
  check(!c.fan_in_fan_out, "fan_in_fan_out is true, but every linear layer here stores its weight as [out, in]");
}

/// A pattern together with a choice of layers: the choice would be ignored.
template <class C>
void validate_selection(const C& c) {
  if (!c.target_modules.is_pattern()) return;
  check(c.layers_to_transform.empty(), "layers_to_transform cannot be used when target_modules is a regular expression ('{}')",
        c.target_modules.pattern());
  check(c.layers_pattern.empty(), "layers_pattern cannot be used when target_modules is a regular expression ('{}')",
        c.target_modules.pattern());
}

/// Every number of a config, whatever the field: JSON has no others, and nothing can be trained with them.
struct RequireFinite {
  template <class T>
  void operator()(const char*, const T&) const {}
  void operator()(const char* key, double value) const {
    check(std::isfinite(value), "{} is {}, not a finite number", key, value);
  }
  void operator()(const char* key, const Pattern<double>& pattern) const {
    for (const auto& [path, value] : pattern)
      check(std::isfinite(value), "{}['{}'] is {}, not a finite number", key, path, value);
  }
};

void check_probability(const char* name, double p) { check(p >= 0 && p < 1, "{} is {}, not a probability in [0, 1)", name, p); }

void validate_one(const LoraConfig& c) {
  validate_common(c, {"none", "all", "lora_only"});
  validate_selection(c);
  check_probability("lora_dropout", c.lora_dropout);
  check(!c.lora_bias || std::holds_alternative<bool>(c.init_lora_weights),
        "lora_bias needs init_lora_weights to be true or false, not a scheme");
  check(!(c.lora_bias && c.use_dora), "lora_bias cannot be combined with use_dora");
  check(!c.use_qalora || c.qalora_group_size > 0, "qalora_group_size is {}, not a positive number", c.qalora_group_size);
}

void validate_one(const AdaLoraConfig& c) {
  validate_common(c, {"none", "all", "lora_only"});
  validate_selection(c);
  check_probability("lora_dropout", c.lora_dropout);
  check(std::holds_alternative<bool>(c.init_lora_weights), "AdaLoRA's init_lora_weights is true or false; there are no schemes");
  check(c.total_step > 0, "AdaLoRA needs total_step, the number of training steps, to be positive; it is {}", c.total_step);
  check(c.orth_reg_weight >= 0, "orth_reg_weight is {}, and must not be negative", c.orth_reg_weight);
  check(c.tinit >= 0 && c.tfinal >= 0, "tinit and tfinal are {} and {}, and must not be negative", c.tinit, c.tfinal);
  check(c.deltaT > 0, "deltaT is {}, not a positive number", c.deltaT);
  check(c.tinit < c.total_step - c.tfinal, "no step is left for budgeting: tinit {} is not below total_step {} − tfinal {}",
        c.tinit, c.total_step, c.tfinal);
  check(c.beta1 > 0 && c.beta1 < 1, "beta1 is {}, not between 0 and 1", c.beta1);
  check(c.beta2 > 0 && c.beta2 < 1, "beta2 is {}, not between 0 and 1", c.beta2);
  check(c.target_r >= 0 && c.target_r <= c.init_r, "target_r is {}, not between 0 and init_r = {}", c.target_r, c.init_r);
}

void validate_one(const OFTConfig& c) {
  validate_common(c, {"none", "all", "oft_only"});
  validate_selection(c);
  check_probability("module_dropout", c.module_dropout);
  check(std::holds_alternative<bool>(c.init_weights), "OFT's init_weights is true or false; there are no schemes");
  check(c.r != 0 || c.oft_block_size != 0, "either r or oft_block_size must be set; both are 0");
  check(c.r == 0 || c.oft_block_size == 0,
        "r ({}) and oft_block_size ({}) cannot both be set, since their product is in_features; set one to 0", c.r,
        c.oft_block_size);
  check(c.r >= 0 && c.oft_block_size >= 0, "r and oft_block_size are {} and {}, and must not be negative", c.r, c.oft_block_size);
  check(!c.coft || c.eps > 0, "eps, the radius of COFT, is {}, not a positive number", c.eps);
}

/// "0.17.1" before "0.18": compares the first two numbers; false for what is no version.
bool version_before(const std::string& version, int major, int minor) {
  int a = 0, b = 0;
  if (std::sscanf(version.c_str(), "%d.%d", &a, &b) != 2) return false;
  return a < major || (a == major && b < minor);
}

template <class C>
C read_config(const Json& object) {
  C config;
  Reader reader{object};
  fields(config, reader);
  if (const auto mapping = object.find("auto_mapping"); mapping != object.end() && !mapping->is_null())
    config.auto_mapping = dump_json(*mapping);
  std::vector<std::string> known = reader.seen;
  for (const char* key : {"peft_type", "auto_mapping", "runtime_config"}) known.emplace_back(key);
  for (const FixedKey& key : fixed_keys(config)) {
    known.emplace_back(key.name);
    const auto found = object.find(key.name);
    if (found == object.end() || found->is_null() || *found == parse_json<Json>(key.json)) continue;
    if (key.other == Other::refused)
      fail<NotImplementedError>("adapter_config.json: {} = {} is a feature that this library does not offer", key.name,
                                dump_json(*found));
    if (key.other == Other::spent)
      adapters::warn("adapter_config.json: {} = {} has no effect on a trained adapter", key.name, dump_json(*found));
    if (key.other == Other::ignored)
      adapters::warn("adapter_config.json: {} = {} has no effect on AdaLoRA", key.name, dump_json(*found));
  }
  if constexpr (std::is_same_v<C, LoraConfig>) {
    known.emplace_back("qalora_scale");
    if (const auto found = object.find("qalora_scale"); found != object.end()) {
      const auto scale =
          std::find(std::begin(qalora_scales), std::end(qalora_scales), found->is_string() ? found->get<std::string>() : "");
      check(scale != std::end(qalora_scales), "adapter_config.json: qalora_scale is {}, not one of {}", dump_json(*found),
            fmt::join(qalora_scales, ", "));
      config.qalora_scale = static_cast<QALoraScale>(scale - std::begin(qalora_scales));
    }
  }
  if constexpr (std::is_same_v<C, AdaLoraConfig>) {
    check(object.value("use_dora", Json(false)) != Json(true),
          "adapter_config.json: use_dora is true, and AdaLoRA does not support DoRA");
    // PEFT refuses this scheme alone, and takes any other for true.
    if (const auto* scheme = std::get_if<std::string>(&config.init_lora_weights); scheme && lower_case(*scheme) != "loftq") {
      adapters::warn("adapter_config.json: init_lora_weights = \"{}\" has no effect on AdaLoRA", *scheme);
      config.init_lora_weights = !scheme->empty();
    }
  }
  if constexpr (std::is_same_v<C, OFTConfig>) {
    if (config.target_modules.is_pattern() && !config.layers_to_transform.empty()) {
      adapters::warn(
          "adapter_config.json: layers_to_transform has no effect on OFT where target_modules is a regular expression");
      config.layers_to_transform.clear();
      config.layers_pattern.clear();
    }
    check(
        object.contains("oft_block_size"),
        "adapter_config.json: no oft_block_size: this is OFT as it was before PEFT 0.14, with other tensors and another meaning");
    if (config.use_cayley_neumann && (config.peft_version.empty() || version_before(config.peft_version, 0, 18)))
      adapters::warn(
          "adapter_config.json: the Cayley-Neumann series changed in PEFT 0.18 (its last term lost the factor 2); this adapter "
          "was written by {} and is evaluated with the series of today",
          config.peft_version.empty() ? "an older version" : config.peft_version);
  }
  for (const auto& [key, value] : object.items())
    if (std::find(known.begin(), known.end(), key) == known.end())
      adapters::warn("adapter_config.json: unknown key {} is ignored", key);
  validate(config);
  return config;
}

template <class C>
void write_config(C config, nlohmann::json& object) {
  fields(config, Writer{object});
  for (const FixedKey& key : fixed_keys(config)) object[key.name] = parse_json<nlohmann::json>(key.json);
  write_whole_numbers(object, "lora_alpha");
  write_whole_numbers(object, "alpha_pattern");
  object["auto_mapping"] = config.auto_mapping.empty() ? nlohmann::json() : parse_json<nlohmann::json>(config.auto_mapping);
  object["inference_mode"] = true;
  if constexpr (std::is_same_v<C, LoraConfig>) {
    if (config.qalora_scale != QALoraScale::peft) object["qalora_scale"] = qalora_scales[static_cast<int>(config.qalora_scale)];
  }
  if constexpr (std::is_same_v<C, AdaLoraConfig>) {
    if (config.total_step == 0) object["total_step"] = nullptr;
    if (config.rank_pattern.empty()) object["rank_pattern"] = nullptr;
  }
  // The version of the format, so that PEFT does not take an OFT series for the one that it had before 0.18.
  if (config.peft_version.empty()) object["peft_version"] = "0.21.2";
}

}  // namespace

std::string lower_case(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

bool is_scheme(const InitWeights& scheme, std::string_view name) {
  const auto* given = std::get_if<std::string>(&scheme);
  return given && lower_case(*given) == name;
}

std::string_view peft_type(const AdapterConfig& config) {
  constexpr std::string_view names[] = {"LORA", "ADALORA", "OFT"};
  return names[config.index()];
}

void validate(const AdapterConfig& config) {
  std::visit(
      [](auto c) {
        fields(c, RequireFinite());
        validate_one(c);
      },
      config);
}

std::string to_json(const AdapterConfig& config) {
  nlohmann::json object;
  object["peft_type"] = peft_type(config);
  std::visit([&](const auto& c) { write_config(c, object); }, config);
  return dump_json(object, 2);
}

AdapterConfig config_from_json(std::string_view text) {
  const Json object = parse_json<Json>(text, false);
  check(object.is_object(), "adapter_config.json: not a JSON object");
  const auto type = object.find("peft_type");
  check<TypeError>(type != object.end() && type->is_string(), "adapter_config.json: peft_type is missing");
  const auto name = type->get<std::string>();
  if (name == "LORA") return read_config<LoraConfig>(object);
  if (name == "ADALORA") return read_config<AdaLoraConfig>(object);
  if (name == "OFT") return read_config<OFTConfig>(object);
  fail("adapter_config.json: peft_type is '{}', not one of LORA, ADALORA, OFT", name);
}

}  // namespace graft
