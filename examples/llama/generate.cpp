// generate: continues a text with a model, with or without an adapter.
#include <cstdio>
#include <iostream>
#include <iterator>

#include "graft/adapters/peft_io.h"
#include "graft/examples/llama/command_line.h"
#include "graft/examples/llama/sampling.h"
#include "graft/examples/llama/tokenizer.h"

namespace graft::llama {
namespace {

struct Options {
  std::filesystem::path model = default_model(), adapter;
  std::string prompt = "In the beginning";
  std::string dtype = "f32", device = "cpu";
  GenerationOptions generation;
  int threads = 0;
};

bool parse(Options& options, int argc, const char* const* argv) {
  SamplingOptions& sampling = options.generation.sampling;
  CommandLine line{"Continues a text with a quantized or dense model of the Llama architecture."};
  line.option("--model", &options.model, "Hugging Face folder of the model");
  line.option("--adapter", &options.adapter, "PEFT folder of an adapter to put on it");
  line.option("--prompt", &options.prompt, "text to continue; - reads it from standard input");
  line.option("--max-tokens", &options.generation.max_tokens, "most tokens to write");
  line.option("--temperature", &sampling.temperature, "0 always takes the likeliest token");
  line.option("--top-k", &sampling.top_k, "choose among the k likeliest tokens; 0 for all");
  line.option("--top-p", &sampling.top_p, "choose among the likeliest tokens that reach this probability together");
  line.seed(sampling.seed, "of the choice");
  line.option("--dtype", &options.dtype, "of the dense weights and of the computation: f32, bf16 or f16");
  line.option("--device", &options.device, device_description);
  line.option("--threads", &options.threads, "0 for one per core");
  if (!line.parse(argc, argv)) return false;
  check_range("--max-tokens", options.generation.max_tokens, 0);
  if (options.prompt == "-") options.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  return true;
}

// Prints a text as its tokens come. A character may be spread over several, so an unfinished end is held back.
class TextPrinter {
 public:
  TextPrinter(const Tokenizer& tokenizer, std::vector<std::int64_t> prompt) : tokenizer_(tokenizer), ids_(std::move(prompt)) {
    print();
  }
  void add(std::int64_t id) {
    ids_.push_back(id);
    print();
  }
  void finish() { print(true); }

 private:
  void print(bool all = false) {
    constexpr std::string_view unfinished = "\uFFFD";
    const std::string text = tokenizer_.decode(ids_, true);
    std::size_t end = text.size();
    if (!all && text.ends_with(unfinished)) end -= unfinished.size();
    if (end > printed_) fmt::print("{}", text.substr(printed_, end - printed_));
    printed_ = std::max(printed_, end);
    std::fflush(stdout);
  }
  const Tokenizer& tokenizer_;
  std::vector<std::int64_t> ids_;
  std::size_t printed_ = 0;
};

int run(Options options) {
  set_threads(options.threads);
  const DType dtype = parse_model_dtype(options.dtype);
  const Device device = parse_device(options.device);
  Sampler(options.generation.sampling);  // refuses what makes no sense before anything is loaded
  const Tokenizer tokenizer = Tokenizer::load(options.model);
  CausalLM model = load(options.model, dtype);
  to(model, device);
  if (!options.adapter.empty()) adapters::load_pretrained(model, options.adapter, {.architecture = "llama"});

  const auto prompt = tokenizer.encode(options.prompt);
  check(!prompt.empty(), "--prompt is empty, and this tokenizer begins texts with no token of its own");
  TextPrinter printer(tokenizer, prompt);
  options.generation.stop_ids = model.config().eos_token_ids;
  options.generation.on_token = [&](std::int64_t id) {
    printer.add(id);
    return true;
  };
  generate(model, prompt, options.generation);
  printer.finish();
  fmt::print("\n");
  return 0;
}

}  // namespace
}  // namespace graft::llama

int main(int argc, char** argv) {
  return graft::llama::run_program("generate", [&] {
    graft::llama::Options options;
    return graft::llama::parse(options, argc, argv) ? graft::llama::run(std::move(options)) : 0;
  });
}
