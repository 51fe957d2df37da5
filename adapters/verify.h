// Whether an adapter and a model belong together, and what the one does to the other.
#pragma once

#include <string>
#include <vector>

#include "graft/core/module.h"

namespace graft::adapters {

/// A number for the base below the adapters: of every linear layer the path, the sizes and a sample of the weight (of dense ones rounded to
/// bf16, so that the dtype in which a checkpoint is loaded makes no difference). Sixteen hexadecimal digits.
std::string fingerprint(Module& model);

/// Names it in the metadata of tensor files, which PEFT passes over.
inline constexpr const char* fingerprint_key = "graft.base";

struct LayerChange {
  std::string path;
  double relative;  // ‖y − y₀‖ / ‖y₀‖ for normal random inputs, with y₀ the base's result
};
/// How much an adapter changes each layer that has it, a bias that it trains included; modules that it trains whole are not among them.
/// ValueError for an unknown name. Nothing is recorded or changed.
std::vector<LayerChange> verify(Module& model, const std::string& adapter_name = "default");

}  // namespace graft::adapters
