// The quantization config of a checkpoint, in any of its spellings.
#pragma once

#include <filesystem>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "graft/quant/quant_linear.h"

namespace graft::quant {

class QuantConfig {
 public:
  /// Reads the JSON object of AutoGPTQ, GPTQModel, AutoAWQ, EETQ or transformers. `source` names it in errors. ValueError for a
  /// method, layout, width or group size that does not exist, synonyms that disagree, or a broken pattern; NotImplementedError
  /// for what exists but is not read (bitblas, 64-bit words). Unknown fields are ignored, and null is the same as absent.
  static QuantConfig parse(const std::string& json, const std::string& source);

  /// The config of a folder: quantize_config.json, quant_config.json and config.json's quantization_config. The first that is
  /// there is taken, and the others must not contradict it. None if there is none.
  static std::optional<QuantConfig> read(const std::filesystem::path& folder);

  /// How the module of this name is quantized, per-module overrides applied; none if they exclude it.
  std::optional<Description> describe(const std::string& module) const;
  /// The same without overrides.
  const Description& base() const { return base_; }
  const std::string& source() const { return source_; }

 private:
  // One entry of GPTQModel's "dynamic". The pattern is matched at the beginning of a module's name.
  struct Override {
    std::regex pattern;
    bool exclude = false;
    std::optional<int> bits;
    std::optional<std::int64_t> group_size;
    std::optional<bool> sym, desc_act;
    std::optional<std::string> pack_dtype;
  };

  void settle_layout();

  Description base_;
  std::vector<Override> overrides_;  // excluding ones first
  std::vector<std::string> labels_;  // every layout that the config names, in our spelling
  std::string source_;
};

}  // namespace graft::quant
