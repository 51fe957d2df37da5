#include "graft/examples/llama/config.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "graft/autograd/ops.h"

namespace graft::llama {
namespace {

using nlohmann::json;

constexpr std::pair<const char*, Tensor (*)(const Tensor&)> activations[] = {
    {"silu", silu},           {"swish", silu},          {"gelu", gelu}, {"gelu_new", gelu_tanh}, {"gelu_pytorch_tanh", gelu_tanh},
    {"gelu_fast", gelu_tanh}, {"gelu_tanh", gelu_tanh}, {"relu", relu}};

// The fields of one JSON object. Null means left out, as in transformers.
class Fields {
 public:
  Fields(const json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {}

  bool has(const char* name) const { return object_.contains(name) && !object_.at(name).is_null(); }
  const json& at(const char* name) const {
    check(has(name), "config.json: {}{} is missing", prefix_, name);
    return object_.at(name);
  }

  std::int64_t size(const char* name) const {
    const json& value = at(name);
    // No model is near this bound, and products of two sizes stay within 63 bits.
    check(value.is_number_integer() && value > 0 && value <= std::int64_t{1} << 31,
          "config.json: {}{} = {}, and a whole number from 1 is wanted", prefix_, name, value.dump());
    return value;
  }
  std::int64_t size(const char* name, std::int64_t fallback) const { return has(name) ? size(name) : fallback; }

  double positive(const char* name) const {
    const json& value = at(name);
    check(value.is_number() && std::isfinite(value.get<double>()) && value > 0,
          "config.json: {}{} = {}, and a number above 0 is wanted", prefix_, name, value.dump());
    return value;
  }
  double positive(const char* name, double fallback) const { return has(name) ? positive(name) : fallback; }

  bool flag(const char* name) const {
    if (!has(name)) return false;
    check(at(name).is_boolean(), "config.json: {}{} = {}, and true or false is wanted", prefix_, name, at(name).dump());
    return at(name);
  }

  std::string text(const char* name, const std::string& fallback) const {
    if (!has(name)) return fallback;
    check(at(name).is_string(), "config.json: {}{} = {}, and a text is wanted", prefix_, name, at(name).dump());
    return at(name);
  }

  /// NotImplementedError unless it is left out or has the one value that is `understood`.
  void only(const char* name, double understood) const {
    if (has(name))
      check<NotImplementedError>(at(name) == understood, "config.json: {}{} = {}, and only {} is understood", prefix_, name,
                                 at(name).dump(), understood);
  }

  Fields object(const char* name) const {
    check(at(name).is_object(), "config.json: {}{} = {}, and an object is wanted", prefix_, name, at(name).dump());
    return {at(name), prefix_ + name + "."};
  }

 private:
  const json& object_;
  std::string prefix_;
};

// What one of the two objects in use, rope_parameters or rope_scaling, says; `theta` is what stands outside it.
Rope parse_scaling(const Fields& scaling, double theta, std::int64_t max_position_embeddings) {
  Rope rope{.theta = scaling.positive("rope_theta", theta)};
  scaling.only("partial_rotary_factor", 1);
  const std::string kind = scaling.text("rope_type", scaling.text("type", "default")), other = scaling.text("type", kind);
  check(kind == other, "config.json: rope_type = \"{}\" and type = \"{}\" contradict each other", kind, other);
  if (kind == "default") return rope;
  check<NotImplementedError>(kind == "linear" || kind == "llama3",
                             "config.json: rope_type = \"{}\" is not one of default, linear, llama3", kind);
  rope.factor = scaling.positive("factor");
  check(rope.factor >= 1, "config.json: the rotary factor = {}, and a number from 1 is wanted", rope.factor);
  rope.kind = Rope::Kind::linear;
  if (kind == "linear") return rope;
  rope.kind = Rope::Kind::llama3;
  rope.low_freq_factor = scaling.positive("low_freq_factor");
  rope.high_freq_factor = scaling.positive("high_freq_factor");
  check(rope.low_freq_factor < rope.high_freq_factor,
        "config.json: low_freq_factor = {} and high_freq_factor = {}, and the first must be smaller", rope.low_freq_factor,
        rope.high_freq_factor);
  rope.original_max_position_embeddings = scaling.size("original_max_position_embeddings", max_position_embeddings);
  return rope;
}

Rope parse_rope(const Fields& config, std::int64_t max_position_embeddings) {
  config.only("partial_rotary_factor", 1);
  std::optional<double> theta;  // wherever it stands, it is one
  if (config.has("rope_theta")) theta = config.positive("rope_theta");
  for (const char* name : {"rope_parameters", "rope_scaling"}) {
    if (!config.has(name) || !config.object(name).has("rope_theta")) continue;
    const double inner = config.object(name).positive("rope_theta");
    check(!theta || *theta == inner, "config.json: rope_theta = {} and {}.rope_theta = {} contradict each other",
          theta.value_or(0), name, inner);
    theta = inner;
  }
  std::optional<Rope> rope;
  for (const char* name : {"rope_parameters", "rope_scaling"}) {
    if (!config.has(name)) continue;
    const Rope read = parse_scaling(config.object(name), theta.value_or(Rope().theta), max_position_embeddings);
    if (rope && *rope != read)
      fail("config.json: rope_parameters = {} and rope_scaling = {} contradict each other", config.at("rope_parameters").dump(),
           config.at("rope_scaling").dump());
    rope = read;
  }
  return rope.value_or(Rope{.theta = theta.value_or(Rope().theta)});
}

std::vector<std::int64_t> parse_ids(const Fields& fields, const char* name, std::int64_t vocab_size) {
  if (!fields.has(name)) return {};
  const json& value = fields.at(name);
  std::vector<std::int64_t> ids;
  for (const json& id : value.is_array() ? value : json::array({value})) {
    check(id.is_number_integer() && id >= 0 && id < vocab_size,
          "config.json: {} = {}, and token ids below vocab_size = {} are wanted", name, value.dump(), vocab_size);
    ids.push_back(id);
  }
  return ids;
}

Tensor (*parse_activation(const std::string& name))(const Tensor&) {
  std::string names;
  for (const auto& [known, function] : activations) {
    if (name == known) return function;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", known);
  }
  fail<NotImplementedError>("config.json: hidden_act = \"{}\" is not one of {}", name, names);
}

}  // namespace

Config Config::parse(std::string_view text) try {
  const json root = json::parse(text);
  check(root.is_object(), "config.json: an object is wanted, not {}", root.type_name());
  const Fields fields(root, "");
  const std::string model_type = fields.text("model_type", "");
  check<NotImplementedError>(model_type == "llama", "config.json: model_type = \"{}\", and only \"llama\" is understood",
                             model_type);

  Config config;
  config.vocab_size = fields.size("vocab_size");
  config.hidden_size = fields.size("hidden_size");
  config.intermediate_size = fields.size("intermediate_size");
  config.num_hidden_layers = fields.size("num_hidden_layers");
  config.num_attention_heads = fields.size("num_attention_heads");
  config.num_key_value_heads = fields.size("num_key_value_heads", config.num_attention_heads);
  check(config.num_attention_heads % config.num_key_value_heads == 0,
        "config.json: num_key_value_heads = {}, and a divisor of num_attention_heads = {} is wanted", config.num_key_value_heads,
        config.num_attention_heads);
  if (!fields.has("head_dim"))
    check(config.hidden_size % config.num_attention_heads == 0,
          "config.json: num_attention_heads = {}, and without head_dim a divisor of hidden_size = {} is wanted",
          config.num_attention_heads, config.hidden_size);
  config.head_dim = fields.size("head_dim", std::max<std::int64_t>(config.hidden_size / config.num_attention_heads, 1));
  check(config.head_dim % 2 == 0, "config.json: head_dim = {}, and rotary embedding wants an even number", config.head_dim);
  config.max_position_embeddings = fields.size("max_position_embeddings", config.max_position_embeddings);
  config.rms_norm_eps = fields.positive("rms_norm_eps", config.rms_norm_eps);
  config.rope = parse_rope(fields, config.max_position_embeddings);
  config.activation = parse_activation(fields.text("hidden_act", "silu"));
  config.attention_bias = fields.flag("attention_bias");
  config.mlp_bias = fields.flag("mlp_bias");
  config.tie_word_embeddings = fields.flag("tie_word_embeddings");
  config.eos_token_ids = parse_ids(fields, "eos_token_id", config.vocab_size);
  fields.only("attention_dropout", 0);
  return config;
} catch (const json::exception& error) {
  fail("config.json is malformed: {}", error.what());
}

}  // namespace graft::llama
