// The command line of finetune.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "graft/examples/llama/methods.h"
#include "graft/examples/llama/sampling.h"
#include "graft/examples/llama/trainer.h"

namespace graft::llama {

struct FinetuneOptions {
  std::filesystem::path model, data, held, out = "adapter";
  DType dtype = DType::f32;
  Device device;
  std::string method = "lora";
  AdapterOptions adapter;
  TrainingOptions training;
  std::int64_t sequence = 128;
  std::int64_t save_every = 50;
  bool resume = false;
  int threads = 0;  // 0: one per core
  std::string prompt = "hacker: n.";
  GenerationOptions generation = {.max_tokens = 60, .sampling = {.temperature = 0.7, .top_p = 0.95, .seed = 1}};
};

/// What `argv` asks for; nothing after --help, which has printed its answer. ValueError for anything else that is not understood.
std::optional<FinetuneOptions> parse_finetune(int argc, const char* const* argv);

/// Those options that the numbers of a run depend on, a mark of its text, and `base`, that of its model: files may move between
/// two runs, but not change.
Settings settings_of(const FinetuneOptions& options, std::span<const std::int64_t> text, const std::string& base);

}  // namespace graft::llama
