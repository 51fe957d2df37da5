#include "graft/examples/llama/finetune_options.h"

#include "graft/examples/llama/command_line.h"

namespace graft::llama {

std::optional<FinetuneOptions> parse_finetune(int argc, const char* const* argv) {
  FinetuneOptions options;
  options.model = default_model();
  TrainingOptions& training = options.training;
  AdapterOptions& adapter = options.adapter;
  std::string dtype = "f32", device = "cpu", schedule = training.schedule.name;

  CommandLine line{
      "Trains an adapter on a quantized or dense model of the Llama architecture, and writes a folder that PEFT opens."};
  line.option("--model", &options.model, "Hugging Face folder of the model");
  line.option("--data", &options.data, "text file to learn from; without it, the shipped one");
  line.option("--held", &options.held, "text file to measure on; without it, the last twentieth of the data");
  line.option("--out", &options.out,
              "folder to write the adapter and the training state to; a run that fails leaves what it saved last, from which "
              "--resume goes on, and no folder if it saved nothing");
  line.option("--dtype", &dtype, "of the dense weights and of the computation: f32, bf16 or f16");
  line.option("--device", &device, device_description);
  std::string names;
  for (const Method& method : methods()) names += fmt::format("\n  {}: {}", method.name, method.description);
  line.option("--method", &options.method, "the kind of adapter:" + names);
  line.option("--r", &adapter.r, "rank (oft: number of blocks); without it, 16 (adalora: 8)");
  line.option("--lora-alpha", &adapter.lora_alpha, "scale times rank; without it, twice the rank");
  line.option("--dropout", &adapter.dropout, "share of the adapter's input that training drops");
  line.option("--block-size", &adapter.block_size, "of oft's rotations (32) or of qalora's pooling groups (16)");
  line.option("--target-modules", &adapter.target_modules,
              "names of layers, separated by commas; or one regular expression; or all-linear");
  line.option("--steps", &training.steps, "optimizer steps");
  line.option("--batch", &training.batch, "rows per forward pass");
  line.option("--seq", &options.sequence, "tokens per row");
  line.option("--accumulate", &training.accumulate, "forward passes per step");
  line.option("--lr", &training.lr, "learning rate of AdamW");
  line.option("--weight-decay", &training.weight_decay, "of AdamW");
  line.option("--warmup", &training.warmup, "steps in which the learning rate rises");
  line.option("--schedule", &schedule, "of the learning rate after that: constant, linear or cosine");
  line.option("--clip", &training.clip, "largest norm of the gradient; 0 for any");
  line.seed(training.seed, "of the adapter's start, of dropout and of the text's order");
  line.option("--save-every", &options.save_every, "steps between two training states; 0 for only the last");
  line.flag("--resume", options.resume, "go on from the training state in --out, with the settings of that run");
  line.option("--threads", &options.threads, "0 for one per core");
  line.option("--prompt", &options.prompt, "beginning of the text that is written before and after; empty for none");
  line.option("--prompt-tokens", &options.generation.max_tokens, "length of that text");
  if (!line.parse(argc, argv)) return {};

  options.dtype = parse_model_dtype(dtype);
  options.device = parse_device(device);
  training.schedule = find_schedule(schedule);
  constexpr std::int64_t most = 1 << 16;
  if (adapter.r) check_range("--r", *adapter.r, 1, most);
  if (adapter.block_size) check_range("--block-size", *adapter.block_size, 1, most);
  check_range("--batch", training.batch, 1, most);
  check_range("--accumulate", training.accumulate, 1, most);
  check_range("--seq", options.sequence, 1);
  check_range("--save-every", options.save_every, 0);
  check_range("--prompt-tokens", options.generation.max_tokens, 0);
  if (options.data.empty()) {
    check(options.held.empty(), "--held needs --data: the shipped text has a held-out part of its own");
    options.data = shipped_file("data/jargon_train.txt");
    options.held = shipped_file("data/jargon_held.txt");
  }
  adapter.steps = training.steps;
  adapter.base_model = options.model.string();
  return options;
}

Settings settings_of(const FinetuneOptions& options, std::span<const std::int64_t> text, const std::string& base) {
  // FNV-1a over the ids: enough to notice another text.
  std::uint64_t mark = 0xCBF29CE484222325u;
  for (const std::int64_t id : text) mark = (mark ^ static_cast<std::uint64_t>(id)) * 0x100000001B3u;
  const TrainingOptions& training = options.training;
  const AdapterOptions& adapter = options.adapter;
  const auto optional = [](const auto& value) { return value ? fmt::format("{}", *value) : std::string("default"); };
  Settings settings{{"--dtype", std::string(name(options.dtype))},
                    {"--method", options.method},
                    {"--r", optional(adapter.r)},
                    {"--lora-alpha", optional(adapter.lora_alpha)},
                    {"--dropout", fmt::format("{}", adapter.dropout)},
                    {"--block-size", optional(adapter.block_size)},
                    {"--target-modules", fmt::format("{}", fmt::join(adapter.target_modules, ","))},
                    {"--steps", fmt::format("{}", training.steps)},
                    {"--batch", fmt::format("{}", training.batch)},
                    {"--seq", fmt::format("{}", options.sequence)},
                    {"--accumulate", fmt::format("{}", training.accumulate)},
                    {"--lr", fmt::format("{}", training.lr)},
                    {"--weight-decay", fmt::format("{}", training.weight_decay)},
                    {"--warmup", fmt::format("{}", training.warmup)},
                    {"--schedule", training.schedule.name},
                    {"--clip", fmt::format("{}", training.clip)},
                    {"--seed", fmt::format("{}", training.seed)},
                    {"the weights of --model", base},
                    {"the text of --data", fmt::format("{} tokens ({:016x})", text.size(), mark)}};
  // Not which GPU; and states that were written before there was a choice are those of a CPU.
  if (!options.device.is_cpu()) settings.emplace("--device", "cuda");
  return settings;
}

}  // namespace graft::llama
