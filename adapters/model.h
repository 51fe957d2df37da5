// What is done with adapters throughout a model: listing, choosing, switching off, renaming, deleting, merging. Each layer changes at
// once, one after the other, and other threads may run forward meanwhile; but not while adapters are merged or taken out of the model,
// nor where one has trained copies of the model's own parameters (modules_to_save, bias), which take the place of the originals.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "graft/adapters/adapter.h"

namespace graft::adapters {

/// Calls f(path, layer) for every adapted layer below `model`; wrapped layers within such a layer are not visited.
void for_each_layer(Module& model, const std::function<void(const std::string&, AdapterLayer&)>& f);
/// Calls f(path, tensor) for every parameter that belongs to no adapter.
void for_each_base_parameter(Module& model, const std::function<void(const std::string&, Tensor&)>& f);

/// A parameter's path without the wrappers that stand around its layer: "q_proj.bias" for "q_proj.base_layer.bias".
std::string plain_path(std::string path);
/// The originals of all parameters that some adapter has a trained copy of, by plain path.
std::map<std::string, Tensor> originals(Module& model);

/// Names of all adapters, each once, in the order in which layers have them.
std::vector<std::string> adapter_names(Module& model);

/// Activates these adapters, in this order, in every layer. ValueError for a name that no layer has, and if two of them have a trained
/// copy of the same parameter (modules_to_save, bias). Merged layers are unmerged first, with a warning.
void set_adapter(Module& model, const std::vector<std::string>& names, std::optional<bool> inference_mode = {});
/// Switches all adapters off (the model is its base again) or on.
void enable_adapters(Module& model, bool enabled);
/// ValueError for an unknown or merged adapter; nothing changes then. Where it was the only active one, the alphabetically first of the
/// model becomes active, with a warning.
void delete_adapter(Module& model, const std::string& name);
void rename_adapter(Module& model, const std::string& from, const std::string& to);

/// Merges adapters (by default the active ones) into the weights of all layers. Every layer is asked before any is changed:
/// ValueError on a GPTQ model, AttributeError on EETQ layers, NotImplementedError on other quantized layers, as in PEFT.
void merge_adapter(Module& model, bool safe_merge = false, const std::optional<std::vector<std::string>>& names = {});
void unmerge_adapter(Module& model);
/// Merges, and puts the plain layers back into the model.
void merge_and_unload(Module& model, bool safe_merge = false, const std::optional<std::vector<std::string>>& names = {});
/// Puts the plain layers back without merging.
void unload(Module& model);

/// Puts trained copies of parameters outside of the adapters (modules_to_save, bias) in place where their adapter is active, and the
/// originals elsewhere.
void place_saved_parameters(Module& model);

}  // namespace graft::adapters
