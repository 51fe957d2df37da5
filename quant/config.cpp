#include "graft/quant/config.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <initializer_list>

#include "graft/quant/format.h"

namespace graft::quant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // "dynamic" is an ordered map

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// Typed access to an object's fields under all their names.
class Fields {
 public:
  Fields(const Json& object, const std::string& source) : object_(object), source_(source) {
    check(object.is_object(), "{}: is not an object", source);
  }

  template <class T>
  std::optional<T> get(std::initializer_list<const char*> names) const {
    std::optional<T> value;
    const char* first = nullptr;
    for (const char* name : names) {
      const auto found = object_.find(name);
      if (found == object_.end() || found->is_null()) continue;
      check(is<T>(*found), "{}: {} is {}, not {}", source_, name, found->dump(), kind<T>());
      const T here = found->template get<T>();
      check(!value || *value == here, "{}: {} is {}, but {} is {}", source_, name, found->dump(), first ? first : "",
            Json(*value).dump());
      value = here;
      first = name;
    }
    return value;
  }
  const Json* find(const char* name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

 private:
  template <class T>
  static bool is(const Json& value) {
    if constexpr (std::is_same_v<T, bool>) return value.is_boolean();
    else if constexpr (std::is_same_v<T, std::string>) return value.is_string();
    else return value.is_number_integer();
  }
  template <class T>
  static const char* kind() {
    return std::is_same_v<T, bool> ? "true or false" : std::is_same_v<T, std::string> ? "a string" : "an integer";
  }
  const Json& object_;
  const std::string& source_;
};

std::optional<int> read_bits(const Fields& fields, const std::string& source) {
  const auto bits = fields.get<std::int64_t>({"bits", "w_bit", "wbits"});
  if (!bits) return {};
  check(*bits >= 2 && *bits <= 8, "{}: bits is {}; known are 2 to 8", source, *bits);
  return static_cast<int>(*bits);
}

std::optional<std::int64_t> read_group_size(const Fields& fields, const std::string& source) {
  const auto size = fields.get<std::int64_t>({"group_size", "q_group_size"});
  check(!size || *size == -1 || *size > 0, "{}: group_size is {}; it must be positive, or -1 for one group", source,
        size.value_or(0));
  return size;
}

std::optional<bool> read_sym(const Fields& fields) {
  if (const auto sym = fields.get<bool>({"sym"})) return sym;
  if (const auto zero_point = fields.get<bool>({"zero_point"})) return !*zero_point;
  return {};
}

std::optional<std::string> read_pack_dtype(const Fields& fields, const std::string& source) {
  auto name = fields.get<std::string>({"pack_dtype"});
  if (!name) return {};
  if (name->starts_with("torch.")) name->erase(0, 6);
  check<NotImplementedError>(*name != "int64", "{}: pack_dtype is int64, which no reader of these files takes", source);
  check(*name == "int8" || *name == "int16" || *name == "int32", "{}: pack_dtype is {}; known are int8, int16 and int32", source,
        *name);
  return name;
}

// Which tool wrote the file: "gptqmodel:7.7.0", alone or in a list with others.
void read_producer(const Fields& fields, Description& description) {
  std::vector<std::string> entries;
  if (const Json* meta = fields.find("meta"); meta && meta->is_object() && meta->contains("quantizer")) {
    const Json& quantizer = (*meta)["quantizer"];
    for (const Json& entry : quantizer.is_array() ? quantizer : Json::array({quantizer}))
      if (entry.is_string()) entries.push_back(entry.get<std::string>());
  }
  // AutoGPTQ writes no name, but fields of its own.
  if (entries.empty() && (fields.find("model_file_base_name") || fields.find("is_marlin_format"))) entries.push_back("auto_gptq");
  if (entries.empty()) return;
  const auto own =
      std::find_if(entries.begin(), entries.end(), [](const std::string& entry) { return entry.starts_with("gptqmodel"); });
  const std::string& entry = own == entries.end() ? entries.front() : *own;
  const auto colon = entry.find(':');
  description.producer = lower(entry.substr(0, colon));
  description.producer_version = colon == std::string::npos ? "" : entry.substr(colon + 1);
}

// The kernel that AutoGPTQ may take. A hint that says nothing about the file: what cannot be read is as if it were not there.
int read_exllama(const Fields& fields) {
  const Json *use = fields.find("use_exllama"), *disable = fields.find("disable_exllama"),
             *config = fields.find("exllama_config");
  const bool wanted = use && use->is_boolean() ? use->get<bool>() : !(disable && disable->is_boolean() && disable->get<bool>());
  if (!wanted) return 0;
  return config && config->is_object() && config->value("version", Json()) == 2 ? 2 : 1;
}

// A layout in our spelling; the method decides what the others mean.
std::string layout_of(const std::string& label, const std::string& method, const std::string& source) {
  const std::string layout = lower(label);
  check<NotImplementedError>(layout != "bitblas", "{}: layout bitblas is not read", source);
  // Names of kernels that run on gemm files.
  if (method == "awq" && (layout == "exllama" || layout == "exllamav2" || layout == "ipex")) return "gemm";
  std::vector<std::string_view> known;
  for (const Format* format : formats())
    if (format->method == method) known.insert(known.end(), format->layouts.begin(), format->layouts.end());
  check(std::find(known.begin(), known.end(), layout) != known.end(), "{}: layout '{}' of method {}; known are {}", source, label,
        method, fmt::join(known, ", "));
  return layout;
}

std::string method_of(const Fields& fields, const std::string& source) {
  const auto method = fields.get<std::string>({"quant_method", "method"});
  if (method) return lower(*method);
  // The oldest files say it by their other fields only.
  if (fields.find("w_bit") || fields.find("q_group_size") || fields.find("zero_point")) return "awq";
  check(fields.find("bits") || fields.find("wbits"), "{}: has neither quant_method nor bits", source);
  return "gptq";
}

}  // namespace

QuantConfig QuantConfig::parse(const std::string& text, const std::string& source) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: is not valid JSON: {}", source, error.what());
  }
  const Fields fields(json, source);
  QuantConfig config;
  config.source_ = source;
  Description& base = config.base_;

  base.method = method_of(fields, source);
  std::vector<std::string> labels;
  if (base.method == "marlin" || base.method == "bitblas") labels.push_back(std::exchange(base.method, "gptq"));
  check(base.method == "gptq" || base.method == "awq" || base.method == "eetq",
        "{}: quant_method is '{}'; known are gptq, awq and eetq", source, base.method);
  read_producer(fields, base);

  if (base.method == "eetq") {
    const auto weights = fields.get<std::string>({"weights"});
    check(!weights || *weights == "int8", "{}: weights is '{}'; EETQ has int8", source, weights.value_or(""));
    base.bits = read_bits(fields, source).value_or(8);
    check(base.bits == 8, "{}: bits is {}; EETQ has 8", source, base.bits);
    base.group_size = -1;
    return config;  // the layout is in no config
  }

  for (const char* name : {"checkpoint_format", "format", "version"})
    if (const auto label = fields.get<std::string>({name})) labels.push_back(*label);
  if (fields.get<bool>({"is_marlin_format"}).value_or(false)) labels.push_back("marlin");
  if (base.method == "awq" && fields.get<std::string>({"backend"}) == "llm-awq") labels.insert(labels.begin(), "llm-awq");
  for (const std::string& label : labels) config.labels_.push_back(layout_of(label, base.method, source));
  // llm-awq's own configs call their layout by the kernel that it is for.
  if (!config.labels_.empty() && config.labels_[0] == "llm-awq") config.labels_.resize(1);
  config.settle_layout();

  base.bits = read_bits(fields, source).value_or(4);
  const auto group_size = read_group_size(fields, source);
  check(group_size || base.method == "awq", "{}: has no group_size, for which AutoGPTQ would take -1 and GPTQModel 128; add it",
        source);
  base.group_size = group_size.value_or(128);
  base.sym = read_sym(fields).value_or(base.method == "gptq");
  base.desc_act = fields.get<bool>({"desc_act"}).value_or(false);
  base.pack_dtype = read_pack_dtype(fields, source).value_or("");
  base.exllama = read_exllama(fields);

  if (const Json* dynamic = fields.find("dynamic")) {
    check(dynamic->is_object(), "{}: dynamic is not an object", source);
    for (const auto& [key, values] : dynamic->items()) {
      Override entry;
      entry.exclude = key.starts_with("-:");
      const std::string pattern = key.starts_with("-:") || key.starts_with("+:") ? key.substr(2) : key;
      try {
        entry.pattern = std::regex(pattern);
      } catch (const std::regex_error& error) {
        fail("{}: dynamic has the pattern '{}', which cannot be read: {}", source, pattern, error.what());
      }
      if (!entry.exclude) {
        const std::string where = fmt::format("{}: dynamic '{}'", source, key);
        const Fields own(values, where);
        entry.bits = read_bits(own, where);
        entry.group_size = read_group_size(own, where);
        entry.sym = read_sym(own);
        entry.desc_act = own.get<bool>({"desc_act"});
        entry.pack_dtype = read_pack_dtype(own, where);
      }
      config.overrides_.push_back(std::move(entry));
    }
    std::stable_partition(config.overrides_.begin(), config.overrides_.end(),
                          [](const Override& entry) { return entry.exclude; });
  }
  return config;
}

void QuantConfig::settle_layout() {
  const auto named = [&](std::string_view label) { return std::find(labels_.begin(), labels_.end(), label) != labels_.end(); };
  if (labels_.empty()) {
    base_.layout = base_.method == "awq" ? "gemm" : "gptq";
    return;
  }
  base_.layout = labels_[0];
  if (std::all_of(labels_.begin(), labels_.end(), [&](const std::string& label) { return label == labels_[0]; })) return;
  const bool versions =
      std::all_of(labels_.begin(), labels_.end(), [](const std::string& l) { return l == "gptq" || l == "gptq_v2"; });
  check(versions && named("gptq") && named("gptq_v2"), "{}: names the layouts {}", source_, fmt::join(labels_, " and "));
  base_.layout = "gptq or gptq_v2";  // the tensors will tell
}

std::optional<QuantConfig> QuantConfig::read(const fs::path& folder) {
  std::optional<QuantConfig> config;
  for (const char* name : {"quantize_config.json", "quant_config.json", "config.json"}) {
    const fs::path path = folder / name;
    if (!fs::exists(path)) continue;
    std::ifstream file(path, std::ios::binary);
    check<FileError>(file.good(), "{}: cannot be opened", path.string());
    std::string text{std::istreambuf_iterator<char>(file), {}}, source = path.string();
    if (name == std::string_view("config.json")) {
      Json json;
      try {
        json = Json::parse(text);
      } catch (const nlohmann::json::exception& error) {
        fail<FileError>("{}: is not valid JSON: {}", source, error.what());
      }
      if (!json.is_object() || !json.contains("quantization_config") || json["quantization_config"].is_null()) continue;
      text = json["quantization_config"].dump();
      source += ": quantization_config";
    }
    QuantConfig other = parse(text, source);
    if (!config) {
      config = std::move(other);
      continue;
    }
    const Description &a = config->base_, &b = other.base_;
    check(a.method == b.method && a.bits == b.bits && a.group_size == b.group_size,
          "{} says {}, {} bits and groups of {}, but {} says {}, {} bits and groups of {}; remove the wrong one", config->source_,
          a.method, a.bits, a.group_size, other.source_, b.method, b.bits, b.group_size);
    config->labels_.insert(config->labels_.end(), other.labels_.begin(), other.labels_.end());
    if (a.method != "eetq") config->settle_layout();
  }
  return config;
}

std::optional<Description> QuantConfig::describe(const std::string& module) const {
  Description description = base_;
  for (const Override& entry : overrides_) {
    if (!std::regex_search(module, entry.pattern, std::regex_constants::match_continuous)) continue;
    if (entry.exclude) return {};
    description.bits = entry.bits.value_or(description.bits);
    description.group_size = entry.group_size.value_or(description.group_size);
    description.sym = entry.sym.value_or(description.sym);
    description.desc_act = entry.desc_act.value_or(description.desc_act);
    description.pack_dtype = entry.pack_dtype.value_or(description.pack_dtype);
    break;
  }
  return description;
}

}  // namespace graft::quant
