// finetune: trains an adapter on a text file, shows what it changed, and writes it as PEFT does.
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <cstdio>

#include "graft/adapters/model.h"
#include "graft/adapters/peft_io.h"
#include "graft/adapters/verify.h"
#include "graft/examples/llama/command_line.h"
#include "graft/examples/llama/files.h"
#include "graft/examples/llama/finetune_options.h"
#include "graft/examples/llama/output_folder.h"
#include "graft/examples/llama/progress.h"
#include "graft/examples/llama/tokenizer.h"

namespace graft::llama {
namespace {

constexpr const char* state_file = "training_state.safetensors";

volatile std::sig_atomic_t interrupted = 0;  // by this signal

// The first ^C ends the run where it has nothing half done, in training after the step at hand; a second one ends the program as
// usual.
void listen_for_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int signal) { interrupted = signal; };
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

struct Interrupted {};

void heed_interrupts() {
  if (interrupted) throw Interrupted();
}

struct Text {
  std::vector<std::int64_t> train;
  TextData data, held;
};

Text read_data(const FinetuneOptions& options, const Tokenizer& tokenizer) {
  auto train = tokenizer.encode(read_text(options.data), false);
  std::vector<std::int64_t> held;
  if (!options.held.empty()) {
    held = tokenizer.encode(read_text(options.held), false);
  } else {
    const auto size = static_cast<std::int64_t>(train.size());
    check(size / 2 > options.sequence,
          "{}: {} tokens; {} are wanted, for a row of {} to learn from and another to measure on, or a text of its own for the "
          "latter by --held",
          options.data.string(), size, 2 * (options.sequence + 1), options.sequence);
    const auto begin = train.end() - std::max(size / 20, options.sequence + 1);
    held.assign(begin, train.end());
    train.erase(begin, train.end());
  }
  return {train, TextData(train, options.sequence), TextData(held, options.sequence)};
}

void refuse_unsuitable_folder(const FinetuneOptions& options) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (options.resume) {
    check<FileError>(fs::exists(options.out / state_file, error), "{}: no training state to resume",
                     (options.out / state_file).string());
    return;
  }
  const bool free = !fs::exists(options.out, error) || (fs::is_directory(options.out, error) && fs::is_empty(options.out, error));
  check<FileError>(free, "{}: exists already; choose another --out, or go on with it by --resume", options.out.string());
}

std::string indented(const std::string& text) {
  std::string result;
  for (const char c : text) result += c == '\n' ? std::string("\n  ") : std::string(1, c);
  return result;
}

void print_measurement(const char* when, CausalLM& model, const Tokenizer& tokenizer, const TextData& held,
                       const FinetuneOptions& options) {
  const double loss = evaluate(model, held, options.training.batch, heed_interrupts);
  fmt::print("\n{}: held-out loss {:.4f} (perplexity {:.1f})\n", when, loss, std::exp(loss));
  if (!options.prompt.empty()) {
    GenerationOptions generation = options.generation;
    generation.on_token = [](std::int64_t) { return !interrupted; };
    const auto ids = generate(model, tokenizer.encode(options.prompt), generation);
    heed_interrupts();
    fmt::print("  {}\n", indented(options.prompt + tokenizer.decode(ids, true)));
  }
  std::fflush(stdout);
}

void save(CausalLM& model, const Trainer& trainer, const FinetuneOptions& options, const Settings& settings) {
  trainer.save(options.out / state_file, settings);
  adapters::save_pretrained(model, options.out, {.base_model_name_or_path = options.model.string()});
}

int train(const FinetuneOptions& options) {
  listen_for_interrupts();
  set_threads(options.threads);
  const Method& method = find_method(options.method);
  refuse_unsuitable_folder(options);
  OutputFolder folder(options.out);
  const Tokenizer tokenizer = Tokenizer::load(options.model);
  heed_interrupts();
  CausalLM model = load(options.model, options.dtype);
  to(model, options.device);
  heed_interrupts();
  const Text text = read_data(options, tokenizer);
  const Settings settings = settings_of(options, text.train, adapters::fingerprint(model));

  fmt::print("model     {}: {} layers of width {}, vocabulary {}, {} on {}\n", options.model.string(),
             model.config().num_hidden_layers, model.config().hidden_size, model.config().vocab_size, options.dtype,
             options.device);
  fmt::print("text      {} tokens to learn from, {} held out\n", text.train.size(), text.held.windows() * text.held.length());
  const adapters::InjectionReport report =
      adapters::inject(model, method.config(options.adapter),
                       {.registry = method.registry(), .seed = options.training.seed, .architecture = "llama"});
  for (const std::string& warning : report.warnings) fmt::print("warning   {}\n", warning);
  fmt::print("adapter   {} on {} layers, {} trainable parameters\n", method.name, report.targets.size(),
             report.trainable_parameters);
  Trainer trainer(model, text.data, options.training, method.steps(model));
  if (options.resume) {
    trainer.resume(options.out / state_file, settings);
    fmt::print("resumed   after step {}\n", trainer.steps_done());
  }
  adapters::enable_adapters(model, false);
  print_measurement("before", model, tokenizer, text.held, options);
  adapters::enable_adapters(model, true);
  heed_interrupts();

  // Everything was read and understood: from here on there is something to keep.
  const auto save_all = [&] { save(model, trainer, options, settings); };
  options.resume ? save_all() : folder.first_save(save_all);

  fmt::print("\n");
  memory::reset_peak();
  Progress progress(trainer.steps_done(), options.training.steps, stdout);
  while (!trainer.done() && !interrupted) {
    const StepReport step = trainer.step();
    progress.step_done(step.step, step.loss, step.tokens);
    if (options.save_every > 0 && step.step % options.save_every == 0) save_all();
  }
  progress.finish();
  save_all();
  try {
    heed_interrupts();
    print_measurement("after", model, tokenizer, text.held, options);
  } catch (const Interrupted&) {
    fmt::print("interrupted after step {}; what was learned is in {}, and --resume goes on from there\n", trainer.steps_done(),
               options.out.string());
    return 128 + interrupted;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  fmt::print("\nmemory    {:.0f} MB of tensors at most in training, {:.0f} MB of the process\n",
             static_cast<double>(memory::peak_bytes()) / 1e6, static_cast<double>(usage.ru_maxrss) * 1024 / 1e6);
  fmt::print("written   {}\n", options.out.string());
  return 0;
}

}  // namespace

int run(const FinetuneOptions& options) {
  try {
    return train(options);
  } catch (const Interrupted&) {
    fmt::print("interrupted before any step; nothing was written\n");
    return 128 + interrupted;
  }
}

}  // namespace graft::llama

int main(int argc, char** argv) {
  return graft::llama::run_program("finetune", [&] {
    const auto options = graft::llama::parse_finetune(argc, argv);
    return options ? graft::llama::run(*options) : 0;
  });
}
