#include "graft/adapters/peft_io.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "graft/adapters/model.h"
#include "graft/adapters/verify.h"
#include "graft/adapters/warning.h"
#include "graft/autograd/ops.h"
#include "graft/core/safetensors.h"

namespace graft::adapters {
namespace {

constexpr const char* prefix = "base_model.model.";
constexpr const char* config_file = "adapter_config.json";
constexpr const char* tensor_file = "adapter_model.safetensors";

std::string bias_of(const AdapterConfig& config) {
  return std::visit([](const auto& c) { return c.bias; }, config);
}

std::filesystem::path folder_of(const std::filesystem::path& folder, const std::string& adapter_name) {
  return adapter_name == "default" ? folder : folder / adapter_name;
}

void save_one(Module& model, const std::string& name, const std::filesystem::path& folder, const SaveOptions& options) {
  std::shared_ptr<AdapterRecord> record;
  std::vector<NamedTensor> tensors;
  for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
    if (layer.has_adapter(name) && !record) record = layer.record(name);
  });
  check(record != nullptr, "adapter '{}' was added by hand and has no configuration to save", name);
  AdapterConfig config = record->config;
  for_each_layer(model, [&](const std::string& path, AdapterLayer& layer) {
    if (!layer.has_adapter(name)) return;
    const auto adapter = layer.adapter(name);
    adapter->describe(config, path, name);
    for (const auto& [parameter, tensor] : adapter->state(name)) tensors.push_back({saved_name(path, parameter, name), tensor});
  });
  std::map<std::string, std::string> wrapped;  // biases of adapted layers, which PEFT saves under the wrapper's name for them
  if (bias_of(config) != "none")
    for_each_base_parameter(model, [&](const std::string& path, Tensor&) { wrapped.emplace(plain_path(path), path); });
  for (const auto& saved : record->saved) {
    const bool is_bias = saved.path == "bias" || saved.path.ends_with(".bias");
    const auto found = is_bias ? wrapped.find(saved.path) : wrapped.end();
    tensors.push_back({prefix + (found == wrapped.end() ? saved.path : found->second), saved.copy});
  }
  if (!options.base_model_name_or_path.empty())
    std::visit([&](auto& c) { c.base_model_name_or_path = options.base_model_name_or_path; }, config);

  std::error_code error;
  std::filesystem::create_directories(folder, error);
  check<FileError>(!error, "{}: cannot be made: {}", folder.string(), error.message());
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  if (!record->base_fingerprint.empty()) metadata.emplace(fingerprint_key, record->base_fingerprint);
  safetensors::save(folder / tensor_file, tensors, metadata);
  safetensors::write_file_atomically(folder / config_file, to_json(config));
}

/// A place for each tensor that the file should have, by its plain name.
std::map<std::string, Tensor> places(const Injection& injection) {
  std::map<std::string, Tensor> found;
  const std::string& name = injection.report.adapter_name;
  for (const auto& placed : injection.placed)
    for (const auto& [parameter, tensor] : placed.fresh->adapter(name)->Adapter::state(name))
      found.emplace(saved_name(placed.path, parameter, name), tensor);
  for (const auto& saved : injection.record->saved) found.emplace(prefix + saved.path, saved.copy);
  return found;
}

void check_fits(const Tensor& place, const Tensor& tensor, const std::string& name, const char* wanted) {
  check<TypeError>(is_floating(tensor.dtype()), "{}: has elements of type {}, not floating ones", name, tensor.dtype());
  check(tensor.shape() == place.shape(), "{}: has the shape {}, and {} {}", name, tensor.shape(), wanted, place.shape());
}

/// Whether two tensors are equal, once the wider one is rounded to the narrower one's dtype.
bool same_numbers(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || !is_floating(a.dtype())) return false;
  const NoGrad no_grad;
  const DType narrow = size_of(a.dtype()) < size_of(b.dtype()) ? a.dtype() : b.dtype();
  const auto numbers = [&](const Tensor& t) { return to(to(t, Device::cpu()), narrow).to_vector<double>(); };
  return numbers(a) == numbers(b);
}

}  // namespace

std::string saved_name(const std::string& path, const std::string& parameter, const std::string& adapter_name) {
  std::string key = parameter;
  if (const std::string end = "." + adapter_name; key.ends_with(end)) {
    key.resize(key.size() - end.size());  // a raw parameter: "lora_E.default"
  } else if (const std::size_t dot = key.rfind('.'); dot != std::string::npos && key.substr(0, dot).ends_with(end)) {
    key.erase(dot - end.size(), end.size());  // of a module: "lora_A.default.weight"
  }
  // DoRA's magnitude is a module in memory and a plain tensor in files.
  if (key == "lora_magnitude_vector.weight") key = "lora_magnitude_vector";
  return fmt::format("{}{}.{}", prefix, path, key);
}

void save_pretrained(Module& model, const std::filesystem::path& folder, const SaveOptions& options) {
  const auto known = adapter_names(model);
  check(!known.empty(), "the model has no adapter to save");
  for (const auto& name : options.adapter_names)
    check(std::find(known.begin(), known.end(), name) != known.end(), "there is no adapter '{}' to save, only {}", name,
          fmt::join(known, ", "));
  for (const auto& name : options.adapter_names.empty() ? known : options.adapter_names)
    save_one(model, name, folder_of(folder, name), options);
}

AdapterConfig read_config(const std::filesystem::path& folder) {
  const auto path = folder / config_file;
  std::ifstream file(path, std::ios::binary);
  check<FileError>(file.is_open(), "{}: cannot be opened; an adapter folder needs one", path.string());
  std::ostringstream text;
  text << file.rdbuf();
  return config_from_json(text.str());
}

LoadReport load_pretrained(Module& model, const std::filesystem::path& folder, const LoadOptions& options) {
  const WarningScope warnings;
  AdapterConfig config = read_config(folder);
  std::visit([&](auto& c) { c.inference_mode = !options.is_trainable; }, config);
  check<FileError>(std::filesystem::exists(folder / tensor_file), "{}: there is no such file{}", (folder / tensor_file).string(),
                   std::filesystem::exists(folder / "adapter_model.bin")
                       ? "; adapter_model.bin is a pickle, which is not read: save it as safetensors"
                       : "");
  const auto file = safetensors::File::open(folder / tensor_file);

  // EVA chooses A and the ranks from data and leaves the base alone, so that a trained one is filled like any other.
  AdapterConfig start = config;
  if (auto* lora = std::get_if<LoraConfig>(&start); lora && is_scheme(lora->init_lora_weights, "eva"))
    lora->init_lora_weights = true;
  Injection injection = prepare_injection(model, start,
                                          {.adapter_name = options.adapter_name,
                                           .registry = options.registry,
                                           .seed = options.seed,
                                           .architecture = options.architecture,
                                           .auto_awq_version = options.auto_awq_version,
                                           .strict = false});
  if (auto* lora = std::get_if<LoraConfig>(&injection.record->config))
    lora->init_lora_weights = std::get<LoraConfig>(config).init_lora_weights;
  const auto base_there = file.metadata().find(fingerprint_key);
  if (base_there != file.metadata().end() && base_there->second != injection.record->base_fingerprint) {
    const auto words = fmt::format("{}: the adapter was saved over another base (fingerprint {}) than this model ({})",
                                   (folder / tensor_file).string(), base_there->second, injection.record->base_fingerprint);
    check(!options.same_base, "{}", words);
    warn("{}", words);
  }
  LoadReport report;
  const auto wanted = places(injection);
  std::set<std::string> filled;
  std::vector<std::string> foreign;  // weights of another base
  std::map<std::string, Tensor> base = originals(model);
  for_each_base_parameter(model, [&](const std::string& path, Tensor& tensor) { base.emplace(plain_path(path), tensor); });
  for (const auto& [name, entry] : file.entries()) {
    check(!name.ends_with(".oft_r") && !name.ends_with(".oft_s"),
          "{}: a tensor of OFT as it was before PEFT 0.16, which is not read", name);
    const std::string plain = plain_path(name);
    if (const auto place = wanted.find(plain); place != wanted.end() && filled.insert(plain).second) {
      const Tensor tensor = file.tensor(name);
      check_fits(place->second, tensor, name, "the configuration says");
      place->second.copy_(tensor);
      continue;
    }
    // PEFT writes the weights of embeddings and of what they may be tied to along, trained or not.
    const auto weight = plain.starts_with(prefix) ? base.find(plain.substr(std::string_view(prefix).size())) : base.end();
    if (weight != base.end() && !wanted.count(plain)) {
      if (same_numbers(file.tensor(name), weight->second)) continue;
      foreign.push_back(name);
    }
    report.unused.push_back(name);
  }
  for (const auto& [name, place] : wanted)
    if (!filled.count(name)) report.unfilled.push_back(name);
  if (!foreign.empty()) {
    const auto words = fmt::format("{}: the file carries weights of its base, and those of the model are others: {}",
                                   (folder / tensor_file).string(), fmt::join(foreign, ", "));
    check(!options.strict, "{}", words);
    warn("{}", words);
  }
  if (options.strict) {
    check(report.unfilled.empty(), "{}: the adapter's tensors are incomplete, these are missing: {}",
          (folder / tensor_file).string(), fmt::join(report.unfilled, ", "));
    check(report.unused.empty(), "{}: these tensors belong to nothing that the configuration and the model have: {}",
          (folder / tensor_file).string(), fmt::join(report.unused, ", "));
  }
  for (const auto& placed : injection.placed) placed.fresh->adapter(options.adapter_name)->loaded();
  report.injection = commit_injection(model, std::move(injection));
  report.warnings = warnings.messages();
  return report;
}

}  // namespace graft::adapters
