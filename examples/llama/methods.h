// The adapter methods that finetune offers: one row each.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graft/adapters/inject.h"
#include "graft/examples/llama/trainer.h"

namespace graft::llama {

/// What the command line says about the adapter. What is left open has the method's own default.
struct AdapterOptions {
  std::optional<std::int64_t> r = {};
  std::optional<double> lora_alpha = {};
  double dropout = 0;
  std::optional<std::int64_t> block_size = {};  // QA-LoRA's pooling groups, OFT's rotations
  std::vector<std::string> target_modules = {"all-linear"};
  std::int64_t steps = 1;  // of the whole run, for AdaLoRA's schedule
  std::string base_model = {};
};

struct Method {
  const char* name;
  const char* description;
  AdapterConfig (*config)(const AdapterOptions& options);
  /// The rules that it needs.
  Registry (*registry)();
  /// What it does in each training step, if anything.
  std::unique_ptr<MethodSteps> (*steps)(CausalLM& model);
};

std::span<const Method> methods();
/// ValueError listing the names if there is no such method.
const Method& find_method(std::string_view name);

}  // namespace graft::llama
