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
  /// method, layout, width or group size that does not exist, synonyms that disagree, or a pattern that is broken or has more than
  /// 512 characters or 100 groups; NotImplementedError for what exists but is not read (bitblas, 64-bit words). Unknown fields are
  /// ignored, and null is the same as absent.
  static QuantConfig parse(const std::string& json, const std::string& source);

  /// The config of a folder: quantize_config.json, quant_config.json and config.json's quantization_config, field by field. What
  /// one file leaves open the next may say; ValueError where two differ in more than the name of the layout, for which both names
  /// count. None if there is no such file.
  static std::optional<QuantConfig> read(const std::filesystem::path& folder);

  /// How the module of this name is quantized, per-module overrides applied; none if they exclude it. ValueError for overrides and
  /// a name of more than 4096 characters.
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

  struct Statement;
  static Statement state(const std::string& json, const std::string& source);
  static QuantConfig settle(const Statement& said);

  Description base_;
  std::vector<Override> overrides_;  // excluding ones first
  std::string source_;
};

}  // namespace graft::quant
