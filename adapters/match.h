// Which modules of a model a configuration means: PEFT's rules for target_modules, exclude_modules, modules_to_save,
// layers_to_transform and the two patterns.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "graft/adapters/config.h"
#include "graft/core/module.h"

namespace graft::adapters {

/// The part of a configuration that chooses modules.
struct Selection {
  Targets target_modules;
  Targets exclude_modules;
  std::vector<std::string> modules_to_save;
  std::vector<std::int64_t> layers_to_transform;
  std::vector<std::string> layers_pattern;
};
Selection selection(const AdapterConfig& config);

enum class Match { no, yes, excluded };

/// Whether the module at `path` ("model.layers.0.self_attn.q_proj") is meant. "all-linear" must have been resolved before.
/// ValueError for a malformed regular expression.
Match match(const Selection& selection, const std::string& path);

/// What names nothing: entries of target_modules that no path of a model answers to, numbers of layers_to_transform that no path goes
/// through, and keys of rank_pattern and alpha_pattern that match none of the targets; each as "target_modules: gate_proj".
std::vector<std::string> unmatched(const AdapterConfig& config, const std::vector<std::string>& paths,
                                   const std::vector<std::string>& targets);
/// Those of `targets` that layers_to_transform leaves out, and that are meant all the same: by a whole path, which it does not filter.
std::vector<std::string> unfiltered(const Selection& selection, const std::vector<std::string>& targets);

/// "all-linear" spelled out: the paths of all linear layers below `model`, dense or quantized or already wrapped, except the output
/// embedding (named lm_head, embed_out or output, and in no numbered layer) and, for task SEQ_CLS, the classifier (score, classifier)
/// instead. `left_out` gets the paths of these.
std::vector<std::string> all_linear(Module& model, const std::string& task_type, std::vector<std::string>* left_out = nullptr);

/// PEFT's default targets for an architecture ("llama", …) of Hugging Face's config.json; ValueError for one that is not listed.
Targets default_targets(const std::string& architecture);

/// Whether `path` ends with an entry of modules_to_save (no dot is needed before it, as in PEFT).
bool is_saved_module(const Selection& selection, const std::string& path);

/// Value of the first key that matches the whole of `path` or its end behind a dot.
template <class T>
std::optional<T> look_up(const Pattern<T>& pattern, const std::string& path);

}  // namespace graft::adapters
