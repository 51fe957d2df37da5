#include "graft/quant/config.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <initializer_list>

#include "graft/core/formats/json.h"
#include "graft/quant/formats/gptq.h"

namespace graft::quant {

// A value and the file that gives it.
template <class T>
struct Said {
  T value;
  std::string source;
};
template <class T>
using Maybe = std::optional<Said<T>>;

// A tool as it is named in files, "gptqmodel:7.7.0".
struct Producer {
  std::string name, version;
};

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
      check(is<T>(*found), "{}: {} is {}, not {}", source_, name, dump_json(*found), kind<T>());
      const T here = found->template get<T>();
      check(!value || *value == here, "{}: {} is {}, but {} is {}", source_, name, dump_json(*found), first ? first : "",
            dump_json(Json(*value)));
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

template <class T>
Maybe<T> said(std::optional<T> value, const std::string& source) {
  if (!value) return {};
  return Said<T>{*std::move(value), source};
}

// What a first file leaves open a second one may say; what both say must be the same.
template <class T>
void merge(const char* name, Maybe<T>& first, const Maybe<T>& second) {
  if (!first) first = second;
  check(!second || first->value == second->value, "{}: {} is {}, but {} says {}; remove the wrong one",
        first ? first->source : "", name, first ? dump_json(Json(first->value)) : "", second ? second->source : "",
        second ? dump_json(Json(second->value)) : "");
}

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

// AWQ's own field is zero_point; transformers 5 adds GPTQ's sym with its default to it, and GPTQModel lets zero_point decide.
std::optional<bool> symmetry(std::optional<bool> sym, std::optional<bool> zero_point, bool awq, const std::string& source) {
  if (!zero_point) return sym;
  check(awq || !sym || *sym != *zero_point, "{}: sym is {} and zero_point is {}, of which each denies the other", source,
        sym.value_or(false), *zero_point);
  return !*zero_point;
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

// Which tool wrote the file, alone or in a list with others. Those whose files differ from their labels come first.
Producer read_producer(const Fields& fields) {
  std::vector<Producer> producers;
  if (const Json* meta = fields.find("meta"); meta && meta->is_object() && meta->contains("quantizer")) {
    const Json& quantizer = (*meta)["quantizer"];
    for (const Json& item : quantizer.is_array() ? quantizer : Json::array({quantizer})) {
      if (!item.is_string()) continue;
      const std::string entry = item.get<std::string>();
      const auto colon = entry.find(':');
      producers.push_back({lower(entry.substr(0, colon)), colon == std::string::npos ? "" : entry.substr(colon + 1)});
    }
  }
  for (const char* own : {"gptqmodel", "autoawq"})
    for (const Producer& producer : producers)
      if (producer.name == own) return producer;
  return producers.empty() ? Producer{} : producers.front();
}

// The kernel that AutoGPTQ may take. A hint that says nothing about the file: what cannot be read is as if it were not there.
std::optional<int> read_exllama(const Fields& fields) {
  const Json *use = fields.find("use_exllama"), *disable = fields.find("disable_exllama"),
             *config = fields.find("exllama_config");
  if (!use && !disable && !config) return {};
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

// What all labels of a config come to.
std::string one_layout(const std::vector<std::string>& labels, bool awq, const std::string& source) {
  if (labels.empty()) return awq ? "gemm" : "gptq";
  const auto named = [&](std::string_view label) { return std::find(labels.begin(), labels.end(), label) != labels.end(); };
  // llm-awq's own configs call their layout by the kernel that it is for.
  if (named("llm-awq")) return "llm-awq";
  if (std::count(labels.begin(), labels.end(), labels[0]) == std::ssize(labels)) return labels[0];
  const bool versions =
      std::all_of(labels.begin(), labels.end(), [](const std::string& l) { return l == "gptq" || l == "gptq_v2"; });
  check(versions, "{}: names the layouts {}", source, fmt::join(labels, " and "));
  return std::string(gptq_format.undecided);  // the tensors will tell
}

// A pattern of "dynamic". libstdc++'s usual matcher calls itself for every character and group, and tries every way to cut a name:
// some 20 groups and 4,000 characters overflow the stack, and "(.*)*(.*)*x" never ends. Its other one goes through the name once.
// Reading a pattern is recursive in both.
std::regex compiled(const std::string& pattern, const std::string& source) {
  constexpr std::size_t longest = 512, most_groups = 100;
  check(pattern.size() <= longest, "{}: dynamic has a pattern of {} characters; at most {} are read", source, pattern.size(),
        longest);
  const auto groups = static_cast<std::size_t>(std::count(pattern.begin(), pattern.end(), '('));
  check(groups <= most_groups, "{}: dynamic has a pattern of {} groups; at most {} are read", source, groups, most_groups);
  auto flags = std::regex::ECMAScript | std::regex::nosubs;
#if defined(__GLIBCXX__)
  flags |= std::regex_constants::__polynomial;
#endif
  try {
    return std::regex(pattern, flags);
  } catch (const std::regex_error& error) {
    fail("{}: dynamic has the pattern '{}', which cannot be read: {}", source, pattern, error.what());
  }
}

}  // namespace

// What one file or several say, before any default.
struct QuantConfig::Statement {
  std::string source;  // the first file
  Maybe<std::string> method, pack_dtype;
  Maybe<Json> weights;
  bool llm_awq = false;
  std::string implied_method;  // the oldest files say it by their other fields only
  std::vector<Said<std::string>> labels;
  Maybe<int> bits;
  Maybe<std::int64_t> group_size;
  Maybe<bool> sym, zero_point, desc_act;
  Maybe<Json> dynamic;
  Producer named, implied;
  std::optional<int> exllama;

  void add(const Statement& other) {
    merge("quant_method", method, other.method);
    merge("weights", weights, other.weights);
    merge("pack_dtype", pack_dtype, other.pack_dtype);
    merge("bits", bits, other.bits);
    merge("group_size", group_size, other.group_size);
    merge("sym", sym, other.sym);
    merge("zero_point", zero_point, other.zero_point);
    merge("desc_act", desc_act, other.desc_act);
    merge("dynamic", dynamic, other.dynamic);
    labels.insert(labels.end(), other.labels.begin(), other.labels.end());
    if (implied_method.empty()) implied_method = other.implied_method;
    if (named.name.empty()) named = other.named;
    if (implied.name.empty()) implied = other.implied;
    if (!exllama) exllama = other.exllama;
    llm_awq = llm_awq || other.llm_awq;
  }
};

QuantConfig::Statement QuantConfig::state(const std::string& text, const std::string& source) {
  Json json;
  try {
    json = parse_json<Json>(text);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: is not valid JSON: {}", source, error.what());
  }
  const Fields fields(json, source);
  Statement statement;
  statement.source = source;
  auto method = fields.get<std::string>({"quant_method", "method"});
  if (method) *method = lower(*method);
  if (method == "marlin" || method == "bitblas") statement.labels.push_back({*std::exchange(method, "gptq"), source});
  statement.method = said(std::move(method), source);
  if (fields.find("w_bit") || fields.find("q_group_size") || fields.find("zero_point")) statement.implied_method = "awq";
  else if (fields.find("bits") || fields.find("wbits")) statement.implied_method = "gptq";
  for (const char* name : {"checkpoint_format", "format", "version"})
    if (auto label = fields.get<std::string>({name})) statement.labels.push_back({*std::move(label), source});
  if (fields.get<bool>({"is_marlin_format"}).value_or(false)) statement.labels.push_back({"marlin", source});
  if (const Json* weights = fields.find("weights")) statement.weights = Said<Json>{*weights, source};
  if (const Json* backend = fields.find("backend")) statement.llm_awq = *backend == "llm-awq";
  statement.pack_dtype = said(read_pack_dtype(fields, source), source);
  statement.bits = said(read_bits(fields, source), source);
  statement.group_size = said(read_group_size(fields, source), source);
  statement.sym = said(fields.get<bool>({"sym"}), source);
  statement.zero_point = said(fields.get<bool>({"zero_point"}), source);
  statement.desc_act = said(fields.get<bool>({"desc_act"}), source);
  if (const Json* dynamic = fields.find("dynamic")) statement.dynamic = Said<Json>{*dynamic, source};
  statement.named = read_producer(fields);
  // AutoGPTQ writes no name, but fields of its own.
  if (fields.find("model_file_base_name") || fields.find("is_marlin_format")) statement.implied.name = "auto_gptq";
  statement.exllama = read_exllama(fields);
  return statement;
}

QuantConfig QuantConfig::settle(const Statement& said) {
  const std::string& source = said.source;
  const auto value = []<class T>(const Maybe<T>& field) { return field ? std::optional<T>(field->value) : std::nullopt; };
  QuantConfig config;
  config.source_ = source;
  Description& base = config.base_;
  base.method = value(said.method).value_or(said.implied_method);
  check(!base.method.empty(), "{}: has neither quant_method nor bits", source);
  check(base.method == "gptq" || base.method == "awq" || base.method == "eetq",
        "{}: quant_method is '{}'; known are gptq, awq and eetq", source, base.method);
  const Producer& producer = said.named.name.empty() ? said.implied : said.named;
  base.producer = producer.name;
  base.producer_version = producer.version;

  if (base.method == "eetq") {
    check(!said.weights || said.weights->value == "int8", "{}: weights is {}; EETQ has \"int8\"", source,
          dump_json(value(said.weights).value_or(Json())));
    base.bits = value(said.bits).value_or(8);
    check(base.bits == 8, "{}: bits is {}; EETQ has 8", source, base.bits);
    base.group_size = -1;
    return config;  // the layout is in no config
  }

  const bool awq = base.method == "awq";
  std::vector<std::string> layouts;
  for (const auto& [label, from] : said.labels) layouts.push_back(layout_of(label, base.method, from));
  if (awq && said.llm_awq) layouts.push_back("llm-awq");
  base.layout = one_layout(layouts, awq, source);

  base.bits = value(said.bits).value_or(4);
  check(said.group_size || awq, "{}: has no group_size, for which AutoGPTQ would take -1 and GPTQModel 128; add it", source);
  base.group_size = value(said.group_size).value_or(128);
  const auto sym = symmetry(value(said.sym), value(said.zero_point), awq, source);
  base.sym = sym.value_or(!awq);
  base.sym_assumed = !sym;
  base.desc_act = value(said.desc_act).value_or(false);
  base.pack_dtype = value(said.pack_dtype).value_or("");
  base.exllama = said.exllama.value_or(1);

  if (!said.dynamic) return config;
  const std::string& from = said.dynamic->source;
  check(said.dynamic->value.is_object(), "{}: dynamic is not an object", from);
  for (const auto& [key, values] : said.dynamic->value.items()) {
    Override entry;
    entry.exclude = key.starts_with("-:");
    entry.pattern = compiled(key.starts_with("-:") || key.starts_with("+:") ? key.substr(2) : key, from);
    if (!entry.exclude) {
      const std::string where = fmt::format("{}: dynamic '{}'", from, key);
      const Fields own(values, where);
      entry.bits = read_bits(own, where);
      entry.group_size = read_group_size(own, where);
      entry.sym = symmetry(own.get<bool>({"sym"}), own.get<bool>({"zero_point"}), awq, where);
      entry.desc_act = own.get<bool>({"desc_act"});
      entry.pack_dtype = read_pack_dtype(own, where);
    }
    config.overrides_.push_back(std::move(entry));
  }
  std::stable_partition(config.overrides_.begin(), config.overrides_.end(), [](const Override& entry) { return entry.exclude; });
  return config;
}

QuantConfig QuantConfig::parse(const std::string& text, const std::string& source) { return settle(state(text, source)); }

std::optional<QuantConfig> QuantConfig::read(const fs::path& folder) {
  std::optional<Statement> statement;
  for (const char* name : {"quantize_config.json", "quant_config.json", "config.json"}) {
    const fs::path path = folder / name;
    if (!fs::exists(path)) continue;
    std::ifstream file(path, std::ios::binary);
    check<FileError>(file.good(), "{}: cannot be opened", path.string());
    std::string text{std::istreambuf_iterator<char>(file), {}}, source = path.string();
    if (name == std::string_view("config.json")) {
      Json json;
      try {
        json = parse_json<Json>(text);
      } catch (const nlohmann::json::exception& error) {
        fail<FileError>("{}: is not valid JSON: {}", source, error.what());
      }
      if (!json.is_object() || !json.contains("quantization_config") || json["quantization_config"].is_null()) continue;
      text = dump_json(json["quantization_config"]);
      source += ": quantization_config";
    }
    Statement other = state(text, source);
    if (statement) statement->add(other);
    else statement = std::move(other);
  }
  if (!statement) return {};
  return settle(*statement);
}

std::optional<Description> QuantConfig::describe(const std::string& module) const {
  constexpr std::size_t longest_name = 4096;
  check(overrides_.empty() || module.size() <= longest_name,
        "{}: a module's name has {} characters; dynamic is applied to at most {}", source_, module.size(), longest_name);
  Description description = base_;
  for (const Override& entry : overrides_) {
    if (!std::regex_search(module, entry.pattern, std::regex_constants::match_continuous)) continue;
    if (entry.exclude) return {};
    description.bits = entry.bits.value_or(description.bits);
    description.group_size = entry.group_size.value_or(description.group_size);
    if (entry.sym) description.sym = *entry.sym, description.sym_assumed = false;
    description.desc_act = entry.desc_act.value_or(description.desc_act);
    description.pack_dtype = entry.pack_dtype.value_or(description.pack_dtype);
    break;
  }
  return description;
}

}  // namespace graft::quant
