// What a training run needs, beside the model's frozen weights, to go on with the same bits as if it had never stopped: one
// safetensors file, replaced atomically.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "graft/autograd/optim.h"
#include "graft/core/module.h"

namespace graft::llama {

/// Settings that change a run's numbers, by option name; a run is resumed with those that it was begun with.
using Settings = std::map<std::string, std::string>;

struct TrainingState {
  std::int64_t step = 0;                 // optimizer steps done
  std::int64_t position = 0;             // samples shown
  std::vector<NamedTensor> method = {};  // what the adapter method keeps beside the model
};

/// Writes the adapters' tensors and whatever else is trainable in `model`, the random generators below it, the optimizer's state,
/// the run's state and its settings. FileError if that fails; the old file is then untouched.
void save_training_state(const std::filesystem::path& path, Module& model, const Optimizer& optimizer, const TrainingState& state,
                         const Settings& settings);

/// Reads all of it back into the same objects. FileError for a file that is missing, malformed or of another model,
/// ValueError naming each setting that differs; nothing has changed then.
TrainingState load_training_state(const std::filesystem::path& path, Module& model, Optimizer& optimizer,
                                  const Settings& settings);

}  // namespace graft::llama
