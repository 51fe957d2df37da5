// Adapters on disk, as PEFT writes and reads them: a folder with adapter_config.json and adapter_model.safetensors.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "graft/adapters/inject.h"

namespace graft::adapters {

struct SaveOptions {
  std::vector<std::string> adapter_names = {};  // empty: all
  std::string base_model_name_or_path = {};     // replaces what the configuration says, unless empty
};
/// Writes the adapters of a model. The one called "default" goes into `folder`, any other into a folder of its name below. Each file
/// replaces its predecessor at once or not at all; FileError otherwise. ValueError for an unknown adapter, or one that was added by
/// hand and so has no configuration.
void save_pretrained(Module& model, const std::filesystem::path& folder, const SaveOptions& options = {});

struct LoadOptions {
  std::string adapter_name = "default";
  bool is_trainable = false;  // false: frozen for good, as PEFT loads for inference
  bool strict = true;         // refuse tensors that nothing uses and targets that nothing fills
  bool same_base = true;      // refuse a file that was saved over another base (files of PEFT do not say); false: warn
  Registry registry = Registry::builtin();
  std::uint64_t seed = 0;
  std::string architecture = {};
  std::string auto_awq_version = {};  // as for inject()
};
struct LoadReport {
  InjectionReport injection;
  std::vector<std::string> unused;    // tensors of the file that belong nowhere
  std::vector<std::string> unfilled;  // parameters of the adapter that the file does not have
  std::vector<std::string> warnings;
};
/// Injects the adapter that a folder describes and fills it. FileError for files that are missing or broken; ValueError for a tensor of
/// the wrong shape, for another base, and, when strict, for unused and unfilled ones (all are named), among them biases that the
/// configuration trains, and for weights of the base that the file carries and that differ from the model's; TypeError for one that is
/// not floating; and what inject() and config_from_json() refuse. The model is as before then.
LoadReport load_pretrained(Module& model, const std::filesystem::path& folder, const LoadOptions& options = {});

/// adapter_config.json of a folder. FileError, or what config_from_json() refuses.
AdapterConfig read_config(const std::filesystem::path& folder);

/// The name under which a file has a parameter that is called `parameter` in the layer at `path`: "lora_A.default.weight" of adapter
/// "default" is "base_model.model.<path>.lora_A.weight".
std::string saved_name(const std::string& path, const std::string& parameter, const std::string& adapter_name);

}  // namespace graft::adapters
