// A Hugging Face model folder: its configs and weights, and per module the layer that the file really holds.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "graft/core/safetensors.h"
#include "graft/quant/format.h"

namespace graft::quant {

/// How to read what a file leaves open; an error that asks for a choice names these fields. Empty: whatever the data show.
struct Choices {
  /// Description::layout: "gptq" or "gptq_v2" for a file that claims both; "plain", "sm70" or "sm80" for EETQ.
  std::string layout = {};
  /// Description::zeros, of the modules whose width can have them; the others are read as their labels say.
  std::string zeros = {};
  /// Description::producer_version, for a file that names its producer alone: it settles all widths at once.
  std::string producer_version = {};
};

class Checkpoint {
 public:
  /// Reads config.json, the quantization config (quantize_config.json, quant_config.json, or config.json's quantization_config)
  /// and maps the weights. FileError or ValueError for a folder that cannot be understood, and for tensors of quantized modules
  /// that would go unused: AWQ's scales for activations are refused, since ignoring them gives wrong results without a word.
  /// ValueError for choices that do not exist.
  static Checkpoint open(const std::filesystem::path& folder, const Choices& choices = {});

  const std::filesystem::path& folder() const;
  /// The text of config.json, for the model code to parse.
  const std::string& config() const;

  bool contains(const std::string& name) const;
  std::vector<std::string> names() const;  // sorted
  std::int64_t bytes() const;              // of all tensors
  /// A tensor converted to `dtype`, copied out of the mapping so that it may be trained; the mapped pages are given back to the
  /// system. FileError if missing, ValueError unless it has the shape.
  Tensor tensor(const std::string& name, const Shape& shape, DType dtype) const;

  /// The linear layer under `prefix` ("model.layers.0.self_attn.q_proj"): quantized if the file holds packed weights there, dense
  /// otherwise. `dtype` is that of dense weights and of the bias. ValueError if its sizes are not in × out or its tensors
  /// contradict each other or the config. The pages of what was copied or repacked are given back, too.
  std::shared_ptr<LinearBase> linear(const std::string& prefix, std::int64_t in, std::int64_t out, DType dtype) const;

  /// Every module that holds packed weights, in alphabetical order.
  std::vector<std::string> quantized_modules() const;
  /// in and out features of such a module, by the shapes of its tensors; ValueError if it holds no packed weights.
  std::pair<std::int64_t, std::int64_t> features(const std::string& module) const;
  /// How linear() would read such a module, with features() for its sizes. The same errors.
  Decoded decode(const std::string& module) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace graft::quant
