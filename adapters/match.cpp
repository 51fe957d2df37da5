#include "graft/adapters/match.h"

#include <algorithm>
#include <array>
#include <regex>

#include "graft/autograd/linear.h"

namespace graft::adapters {
namespace {

/// Whether the whole of `text` matches.
bool full_match(const std::string& text, const std::string& pattern) {
  try {
    return std::regex_match(text, std::regex(pattern, std::regex::ECMAScript));
  } catch (const std::regex_error& error) {
    fail("'{}' is not a regular expression: {}", pattern, error.what());
  }
}

/// `name` itself, or a path that ends with ".name".
bool ends_with_component(const std::string& path, const std::string& name) {
  if (path == name) return true;
  return path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.';
}

/// Whether a key of a pattern means the layer at `path`.
bool matches_key(const std::string& path, const std::string& key) { return full_match(path, "(.*\\.)?(?:" + key + ")"); }

bool is_excluded(const Selection& s, const std::string& path) {
  if (s.exclude_modules.is_pattern()) {
    if (full_match(path, s.exclude_modules.pattern())) return true;
  } else {
    const auto& names = s.exclude_modules.names();
    if (std::any_of(names.begin(), names.end(), [&](const auto& name) { return ends_with_component(path, name); })) return true;
  }
  // A module that is saved whole gets no adapter, nor does anything below it.
  return std::any_of(s.modules_to_save.begin(), s.modules_to_save.end(),
                     [&](const auto& name) { return full_match(path, "(.*\\.)?(?:" + name + ")(\\..*)?"); });
}

std::optional<std::int64_t> number(const std::string& text) {
  if (text.empty() || text.size() > 9 || !std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; }))
    return {};
  return std::stoll(text);
}

std::vector<std::string> split(const std::string& path) {
  std::vector<std::string> components;
  std::size_t begin = 0;
  for (std::size_t end; (end = path.find('.', begin)) != std::string::npos; begin = end + 1)
    components.push_back(path.substr(begin, end - begin));
  components.push_back(path.substr(begin));
  return components;
}

/// The index of the layer that a path goes through: "model.layers.3.mlp" is in layer 3.
std::optional<std::int64_t> layer_index(const Selection& s, const std::string& path) {
  if (s.layers_pattern.empty()) {
    // The first number with at least two components before it and one behind.
    const auto components = split(path);
    for (std::size_t i = 2; i + 1 < components.size(); ++i)
      if (auto index = number(components[i])) return index;
    return {};
  }
  for (const auto& pattern : s.layers_pattern) {
    std::smatch found;
    try {
      if (std::regex_match(path, found, std::regex(".*\\.(?:" + pattern + ")\\.(\\d+)\\..*")))
        return number(found[found.size() - 1]);
    } catch (const std::regex_error& error) {
      fail("layers_pattern: '{}' is not a regular expression: {}", pattern, error.what());
    }
  }
  return {};
}

bool in_wanted_layer(const Selection& s, const std::string& path) {
  if (s.layers_to_transform.empty()) return true;
  const auto index = layer_index(s, path);
  return index && std::find(s.layers_to_transform.begin(), s.layers_to_transform.end(), *index) != s.layers_to_transform.end();
}

}  // namespace

Selection selection(const AdapterConfig& config) {
  return std::visit(
      [](const auto& c) {
        return Selection{c.target_modules, c.exclude_modules, c.modules_to_save, c.layers_to_transform, c.layers_pattern};
      },
      config);
}

Match match(const Selection& s, const std::string& path) {
  if (is_excluded(s, path)) return Match::excluded;
  const auto verdict = [](bool yes) { return yes ? Match::yes : Match::no; };
  if (s.target_modules.is_pattern()) return verdict(full_match(path, s.target_modules.pattern()));
  const auto& names = s.target_modules.names();
  if (std::find(names.begin(), names.end(), path) != names.end()) return Match::yes;  // a whole path is not filtered by layer
  if (std::none_of(names.begin(), names.end(), [&](const auto& name) { return ends_with_component(path, name); }))
    return Match::no;
  return verdict(in_wanted_layer(s, path));
}

std::vector<std::string> unmatched(const AdapterConfig& config, const std::vector<std::string>& paths,
                                   const std::vector<std::string>& targets) {
  std::vector<std::string> found;
  const Selection s = selection(config);
  const auto want = [&](const char* field, const auto& entry, const std::vector<std::string>& among, auto matches) {
    if (std::none_of(among.begin(), among.end(), matches)) found.push_back(fmt::format("{}: {}", field, entry));
  };
  for (const auto& name : s.target_modules.names())
    want("target_modules", name, paths, [&](const auto& path) { return ends_with_component(path, name); });
  for (const std::int64_t layer : s.layers_to_transform)
    want("layers_to_transform", layer, paths, [&](const auto& path) { return layer_index(s, path) == layer; });
  if (const auto* lora = std::get_if<LoraConfig>(&config)) {
    const auto keys = [&](const char* field, const auto& pattern) {
      for (const auto& entry : pattern)
        want(field, entry.first, targets, [&](const auto& path) { return matches_key(path, entry.first); });
    };
    keys("rank_pattern", lora->rank_pattern);
    keys("alpha_pattern", lora->alpha_pattern);
  }
  return found;
}

std::vector<std::string> unfiltered(const Selection& s, const std::vector<std::string>& targets) {
  std::vector<std::string> found;
  for (const auto& path : targets)
    if (!in_wanted_layer(s, path)) found.push_back(path);
  return found;
}

std::vector<std::string> all_linear(Module& model, const std::string& task_type, std::vector<std::string>* left_out) {
  constexpr std::array<std::string_view, 3> outputs = {"lm_head", "embed_out", "output"};
  constexpr std::array<std::string_view, 2> classifiers = {"score", "classifier"};
  const auto is_head = [&](const std::string& path) {
    const auto components = split(path);
    if (std::any_of(components.begin(), components.end(), [](const auto& part) { return number(part).has_value(); }))
      return false;
    const auto any = [&](const auto& names) { return std::find(names.begin(), names.end(), components.back()) != names.end(); };
    return task_type == "SEQ_CLS" ? any(classifiers) : any(outputs);
  };
  std::vector<std::string> paths;
  std::string inside;  // below a linear layer: its own parts are not targets
  for_each_slot(model, [&](const std::string& path, SlotBase& slot) {
    if (!inside.empty() && path.starts_with(inside)) return;
    if (!std::dynamic_pointer_cast<LinearBase>(slot.module())) return;
    inside = path + ".";
    if (!is_head(path)) paths.push_back(path);
    else if (left_out) left_out->push_back(path);
  });
  return paths;
}

Targets default_targets(const std::string& architecture) {
  constexpr std::array listed = {"llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2"};
  check(std::find(listed.begin(), listed.end(), architecture) != listed.end(),
        "no target_modules are given, and there is no default for architecture '{}'", architecture);
  return {"q_proj", "v_proj"};
}

bool is_saved_module(const Selection& s, const std::string& path) {
  return std::any_of(s.modules_to_save.begin(), s.modules_to_save.end(), [&](const auto& name) { return path.ends_with(name); });
}

template <class T>
std::optional<T> look_up(const Pattern<T>& pattern, const std::string& path) {
  for (const auto& [key, value] : pattern)
    if (matches_key(path, key)) return value;
  return {};
}
template std::optional<std::int64_t> look_up(const Pattern<std::int64_t>&, const std::string&);
template std::optional<double> look_up(const Pattern<double>&, const std::string&);

}  // namespace graft::adapters
