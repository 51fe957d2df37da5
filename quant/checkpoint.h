// A Hugging Face model folder: its configs and weights, and per module the layer that the file really holds.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "graft/core/safetensors.h"
#include "graft/quant/quant_linear.h"

namespace graft::quant {

class Checkpoint {
 public:
  /// Reads config.json, the quantization config (quantize_config.json, quant_config.json, or config.json's quantization_config)
  /// and maps the weights. FileError or ValueError for a folder that cannot be understood.
  static Checkpoint open(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const;
  /// The text of config.json, for the model code to parse.
  const std::string& config() const;

  bool contains(const std::string& name) const;
  std::vector<std::string> names() const;
  /// A tensor converted to `dtype` (copied out of the mapping); FileError if missing, ValueError unless it has the shape.
  Tensor tensor(const std::string& name, const Shape& shape, DType dtype) const;

  /// The linear layer under `prefix` ("model.layers.0.self_attn.q_proj"): quantized if the file holds packed weights there, dense
  /// otherwise. `dtype` is that of dense weights and of the bias. ValueError if its sizes are not in × out or its tensors contradict
  /// each other or the config.
  std::shared_ptr<LinearBase> linear(const std::string& prefix, std::int64_t in, std::int64_t out, DType dtype) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace graft::quant
