#include "graft/examples/llama/training_state.h"

#include <nlohmann/json.hpp>

#include "graft/adapters/adapter.h"
#include "graft/core/safetensors.h"

namespace graft::llama {
namespace {

using nlohmann::json;

constexpr const char* metadata_key = "training_state";

// Everything below the model that training changes: by name, tensors and random generators.
struct Changing {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, Generator*> generators;
};

Changing changing_parts(Module& model) {
  struct Collector final : Visitor {
    Changing found;
    std::string module;
    bool adapter = false;  // an adapter's tensors count even when frozen: masks and ranks change too
    std::string path(std::string_view name) const {
      return module.empty() ? std::string(name) : fmt::format("{}.{}", module, name);
    }
    void parameter(std::string_view name, Tensor& tensor) override {
      if (adapter || tensor.requires_grad()) found.tensors.emplace(path(name), tensor);
    }
    void buffer(std::string_view name, Tensor& tensor) override {
      if (adapter) found.tensors.emplace(path(name), tensor);
    }
    void generator(std::string_view name, Generator& generator) override { found.generators.emplace(path(name), &generator); }
  } collector;
  for_each_module(model, [&](const std::string& name, Module& module) {
    collector.module = name;
    collector.adapter = dynamic_cast<AdapterLayer*>(&module) != nullptr;
    module.visit(collector);
  });
  return std::move(collector.found);
}

constexpr std::string_view method_prefix = "method.";

std::vector<NamedTensor> model_and_optimizer(const Changing& parts, const Optimizer& optimizer) {
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : parts.tensors) tensors.push_back({"model." + name, tensor});
  for (const auto& [name, tensor] : optimizer.state()) tensors.push_back({"optimizer." + name, tensor});
  return tensors;
}

void check_settings(const Settings& begun, const Settings& now) {
  std::string differences;
  const auto value = [](const Settings& settings, const std::string& name) {
    const auto found = settings.find(name);
    return found == settings.end() ? std::string("not set") : found->second;
  };
  Settings all = begun;
  all.insert(now.begin(), now.end());
  for (const auto& [name, unused] : all)
    if (value(begun, name) != value(now, name))
      differences +=
          fmt::format("{}{} was {} and is now {}", differences.empty() ? "" : "; ", name, value(begun, name), value(now, name));
  check(differences.empty(), "a run is resumed with the settings that it was begun with: {}", differences);
}

}  // namespace

void save_training_state(const std::filesystem::path& path, Module& model, const Optimizer& optimizer, const TrainingState& state,
                         const Settings& settings) {
  const Changing parts = changing_parts(model);
  json generators = json::object();
  for (const auto& [name, generator] : parts.generators) generators[name] = {generator->seed, generator->stream};
  const json description{{"step", state.step}, {"position", state.position}, {"generators", generators}, {"settings", settings}};
  std::vector<NamedTensor> tensors = model_and_optimizer(parts, optimizer);
  for (const auto& [name, tensor] : state.method) tensors.push_back({std::string(method_prefix) + name, tensor});
  safetensors::save(path, tensors, {{metadata_key, description.dump()}});
}

TrainingState load_training_state(const std::filesystem::path& path, Module& model, Optimizer& optimizer,
                                  const Settings& settings) try {
  const auto file = safetensors::File::open(path);
  const auto metadata = file.metadata().find(metadata_key);
  check<FileError>(metadata != file.metadata().end(), "{}: no training state (its metadata lack \"{}\")", path.string(),
                   metadata_key);
  const json description = json::parse(metadata->second);
  check_settings(description.at("settings").get<Settings>(), settings);

  const Changing parts = changing_parts(model);
  const std::vector<NamedTensor> wanted = model_and_optimizer(parts, optimizer);
  for (const auto& [name, tensor] : wanted) {
    const auto entry = file.entries().find(name);
    check<FileError>(entry != file.entries().end(), "{}: the state of another run, it lacks {}", path.string(), name);
    check<FileError>(entry->second.shape == tensor.shape() && entry->second.dtype == tensor.dtype(),
                     "{}: the state of another run, {} is {} {} and {} {} is wanted", path.string(), name, entry->second.dtype,
                     entry->second.shape, tensor.dtype(), tensor.shape());
  }
  TrainingState state{description.at("step"), description.at("position")};
  for (const auto& [name, entry] : file.entries())
    if (name.starts_with(method_prefix)) state.method.push_back({name.substr(method_prefix.size()), file.tensor(name).clone()});
  check<FileError>(state.step >= 0 && state.position >= 0, "{}: a training state with step {} and position {}", path.string(),
                   state.step, state.position);
  check<FileError>(file.entries().size() == wanted.size() + state.method.size(),
                   "{}: the state of another run, it holds {} tensors of model and optimizer and {} are wanted", path.string(),
                   file.entries().size() - state.method.size(), wanted.size());
  const json& generators = description.at("generators");
  check<FileError>(generators.size() == parts.generators.size(),
                   "{}: the state of another run, it holds {} generators and {} are wanted", path.string(), generators.size(),
                   parts.generators.size());
  for (const auto& [name, generator] : parts.generators)
    check<FileError>(generators.contains(name), "{}: the state of another run, it lacks the generator {}", path.string(), name);

  for (const auto& [name, generator] : parts.generators)
    *generator = {generators.at(name).at(0).get<std::uint64_t>(), generators.at(name).at(1).get<std::uint64_t>()};
  for (const auto& [name, tensor] : parts.tensors) tensor.copy_(file.tensor("model." + name));
  std::vector<NamedTensor> moments;
  for (const auto& [name, tensor] : optimizer.state()) moments.push_back({name, file.tensor("optimizer." + name)});
  optimizer.load_state(moments);
  return state;
} catch (const json::exception& error) {
  fail<FileError>("{}: a training state that cannot be read: {}", path.string(), error.what());
}

}  // namespace graft::llama
