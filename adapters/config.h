// What PEFT's configuration classes hold, field for field, as flat aggregates: LoraConfig{.r = 16, .target_modules = {"q_proj"}}.
// One list of fields per class (config.cpp) drives adapter_config.json in both directions.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace graft {

/// Which modules: a list of names (whole paths or their last components), or one regular expression that a whole path must match,
/// or "all-linear", or nothing.
class Targets {
 public:
  Targets() = default;
  Targets(std::initializer_list<std::string> names) : names_(names), given_(true) {}
  Targets(std::vector<std::string> names) : names_(std::move(names)), given_(true) {}
  Targets(std::string pattern) : pattern_(std::move(pattern)), given_(true), is_pattern_(true) {}
  Targets(const char* pattern) : Targets(std::string(pattern)) {}

  bool given() const { return given_; }
  bool is_pattern() const { return is_pattern_; }
  const std::string& pattern() const { return pattern_; }
  const std::vector<std::string>& names() const { return names_; }
  bool operator==(const Targets&) const = default;

 private:
  std::vector<std::string> names_;
  std::string pattern_;
  bool given_ = false, is_pattern_ = false;
};

/// true, false, or the name of a scheme ("gaussian", "pissa", …).
using InitWeights = std::variant<bool, std::string>;
/// Whether it is the scheme of this name (in lower case), however it is spelled.
bool is_scheme(const InitWeights& scheme, std::string_view name);
/// ASCII letters in lower case, as names in configurations are compared.
std::string lower_case(std::string text);

/// Values for modules whose path, or its end behind a dot, the key (a regular expression) matches; the first key that does wins.
template <class T>
using Pattern = std::vector<std::pair<std::string, T>>;

/// How the pooled input of QA-LoRA is scaled: the mean of each group times the number of groups (PEFT), the sum of each group (the
/// paper), or the mean (the authors' code).
enum class QALoraScale { peft, paper, authors };

struct LoraConfig {
  std::int64_t r = 8;
  double lora_alpha = 8;
  Targets target_modules = {};
  double lora_dropout = 0;
  std::string bias = "none";  // "none", "all", "lora_only"
  bool use_rslora = false;
  InitWeights init_lora_weights = true;
  bool lora_bias = false;
  bool use_dora = false;
  bool use_qalora = false;
  std::int64_t qalora_group_size = 16;
  QALoraScale qalora_scale = QALoraScale::peft;
  Pattern<std::int64_t> rank_pattern = {};
  Pattern<double> alpha_pattern = {};
  Targets exclude_modules = {};
  std::vector<std::string> modules_to_save = {};
  std::vector<std::int64_t> layers_to_transform = {};
  std::vector<std::string> layers_pattern = {};
  bool fan_in_fan_out = false;
  bool inference_mode = false;
  std::string task_type = {};
  std::string base_model_name_or_path = {};
  std::string revision = {};
  std::string peft_version = {};
  std::string auto_mapping = {};  // JSON, kept as it came; empty for null
  bool operator==(const LoraConfig&) const = default;
};

struct AdaLoraConfig {
  std::int64_t target_r = 8;
  std::int64_t init_r = 12;
  std::int64_t tinit = 0;
  std::int64_t tfinal = 0;
  std::int64_t deltaT = 1;
  double beta1 = 0.85;
  double beta2 = 0.85;
  double orth_reg_weight = 0.5;
  std::int64_t total_step = 0;  // must be set
  double lora_alpha = 8;
  Targets target_modules = {};
  double lora_dropout = 0;
  std::string bias = "none";
  InitWeights init_lora_weights = true;
  Pattern<std::vector<bool>> rank_pattern = {};  // which directions the allocator kept, per lora_E
  Targets exclude_modules = {};
  std::vector<std::string> modules_to_save = {};
  std::vector<std::int64_t> layers_to_transform = {};
  std::vector<std::string> layers_pattern = {};
  bool fan_in_fan_out = false;
  bool inference_mode = false;
  std::string task_type = {};
  std::string base_model_name_or_path = {};
  std::string revision = {};
  std::string peft_version = {};
  std::string auto_mapping = {};
  bool operator==(const AdaLoraConfig&) const = default;
};

struct OFTConfig {
  std::int64_t r = 0;  // number of blocks; 0: follows from the block size
  std::int64_t oft_block_size = 32;
  double module_dropout = 0;
  Targets target_modules = {};
  std::string bias = "none";  // "none", "all", "oft_only"
  InitWeights init_weights = true;
  bool coft = false;
  double eps = 6e-5;  // radius of the ball that COFT keeps the rotation's generator in
  bool block_share = false;
  bool use_cayley_neumann = true;
  std::int64_t num_cayley_neumann_terms = 5;
  Targets exclude_modules = {};
  std::vector<std::string> modules_to_save = {};
  std::vector<std::int64_t> layers_to_transform = {};
  std::vector<std::string> layers_pattern = {};
  bool fan_in_fan_out = false;
  bool inference_mode = false;
  std::string task_type = {};
  std::string base_model_name_or_path = {};
  std::string revision = {};
  std::string peft_version = {};
  std::string auto_mapping = {};
  bool operator==(const OFTConfig&) const = default;
};

using AdapterConfig = std::variant<LoraConfig, AdaLoraConfig, OFTConfig>;

/// "LORA", "ADALORA", "OFT".
std::string_view peft_type(const AdapterConfig& config);

/// ValueError for what cannot work whatever the layer, NotImplementedError for what this library does not offer.
void validate(const AdapterConfig& config);

/// The text of adapter_config.json: the keys of current PEFT, sorted; inference_mode is true there whatever the field says.
std::string to_json(const AdapterConfig& config);

/// Reads adapter_config.json as PEFT 0.14 and later write it: missing keys take their defaults, unknown keys are warned about.
/// ValueError naming the key for what is no JSON object, has no known peft_type, or a value of the wrong kind; NotImplementedError
/// for a feature in use that this library does not offer.
AdapterConfig config_from_json(std::string_view text);

}  // namespace graft
