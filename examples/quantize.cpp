// quantize: makes a GPTQ, AWQ or EETQ folder from a dense one of the Llama architecture, block by block.
#include <chrono>
#include <map>
#include <optional>
#include <set>

#include "graft/autograd/ops.h"
#include "graft/core/parallel.h"
#include "graft/examples/llama/command_line.h"
#include "graft/examples/llama/files.h"
#include "graft/examples/llama/model.h"
#include "graft/examples/llama/progress.h"
#include "graft/examples/llama/text_data.h"
#include "graft/examples/llama/tokenizer.h"
#include "graft/quant/quantize_folder.h"

namespace graft::llama {
namespace {

struct Options {
  std::filesystem::path model, out, data = shipped_file("data/jargon_train.txt");
  std::string method = "gptq", layout;
  int bits = 4;
  std::int64_t group_size = 128, samples = 128, length = 256;
  bool asym = false, desc_act = false, static_groups = false;
  double damp = 0.05, mse = 0;
  int threads = 0;
};

using Methods = std::set<std::string_view>;
const Methods known_methods = {"gptq", "awq", "eetq", "round"}, calibrated = {"gptq", "awq"};

// The methods that have an option; those that are not here are for all.
const std::map<std::string, Methods>& methods_of_options() {
  static const std::map<std::string, Methods> methods = {{"--bits", {"gptq", "awq", "round"}},
                                                         {"--group-size", {"gptq", "awq", "round"}},
                                                         {"--asym", {"gptq", "awq", "round"}},
                                                         {"--desc-act", {"gptq"}},
                                                         {"--static-groups", {"gptq"}},
                                                         {"--damp", {"gptq"}},
                                                         {"--mse", {"gptq", "round"}},
                                                         {"--data", calibrated},
                                                         {"--samples", calibrated},
                                                         {"--length", calibrated}};
  return methods;
}

bool parse(Options& options, int argc, const char* const* argv) {
  CommandLine line{"Quantizes a dense model of the Llama architecture, without ever holding more than one block of it in float."};
  line.required_option("--model", &options.model, "Hugging Face folder of the dense model");
  line.required_option("--out", &options.out, "folder to write");
  line.option("--method", &options.method, "gptq, awq, eetq, or round (to GPTQ's grid, without calibration)");
  line.option("--bits", &options.bits, "per weight, 2 to 8; EETQ has 8");
  line.option("--group-size", &options.group_size, "input channels that share a scale; -1 for all");
  line.flag("--asym", options.asym, "zero points of their own for each group; always so for AWQ");
  line.flag("--desc-act", options.desc_act, "GPTQ: loudest channels first, at the price of irregular groups");
  line.flag("--static-groups", options.static_groups, "GPTQ: scales from the original weights");
  line.option("--damp", &options.damp, "GPTQ: share of the Hessian's mean diagonal that is added to it");
  line.option("--mse", &options.mse, "GPTQ and round: exponent of the search for narrower ranges, such as 2.4; 0 for none");
  line.option("--layout", &options.layout,
              "of the packed tensors: gptq, gptq_v2, gptq_p, gemm, sm80, sm70 or plain; empty for the usual");
  line.option("--data", &options.data, "text for calibration");
  line.option("--samples", &options.samples, "windows of it");
  line.option("--length", &options.length, "tokens in a window");
  line.option("--threads", &options.threads, "0 for one per core");
  if (!line.parse(argc, argv)) return false;
  // An option without effect would be believed to have one.
  const auto& methods = methods_of_options();
  for (const std::string& option : line.given()) {
    const auto found = methods.find(option);
    if (found == methods.end() || known_methods.count(options.method) == 0) continue;
    check(found->second.count(options.method) > 0, "{} means nothing with --method {}, only with {}", option, options.method,
          fmt::join(found->second, ", "));
  }
  check(options.threads >= 0, "--threads is {}, and a count from 0 is wanted", options.threads);
  check(options.samples > 0 && options.length > 0, "--samples is {} and --length {}; both must be positive", options.samples,
        options.length);
  return true;
}

quant::QuantizeMethod method_of(const Options& options) {
  const quant::Grid grid{.bits = options.bits, .group_size = options.group_size, .sym = !options.asym, .mse = options.mse};
  if (options.method == "gptq")
    // Without act-order, the order inside groups costs nothing and gains most of what act-order gains.
    return quant::GptqSettings{.grid = grid,
                               .desc_act = options.desc_act,
                               .act_group_aware = !options.desc_act,
                               .static_groups = options.static_groups,
                               .damp_percent = options.damp};
  if (options.method == "awq")
    return quant::AwqSettings{
        .grid = {.bits = options.bits, .group_size = options.group_size, .sym = false, .rule = quant::GridRule::awq}};
  if (options.method == "eetq") return quant::eetq_grid();
  check(options.method == "round", "--method is {}, and gptq, awq, eetq or round is wanted", options.method);
  return grid;
}

class QuantizableLlama final : public quant::QuantizableModel {
 public:
  QuantizableLlama(const std::filesystem::path& folder, std::optional<TextData> data, std::int64_t samples)
      : checkpoint_(quant::Checkpoint::open(folder)),
        weights_(safetensors::Checkpoint::open(folder)),
        config_(Config::parse(checkpoint_.config())),
        data_(std::move(data)),
        samples_(data_ ? std::min(samples, data_->windows()) : 0),
        pass_{data_ ? rotary_table(config_.rope, config_.head_dim, 0, data_->length(), {}) : RotaryTable{}, {}, nullptr} {}

  std::int64_t blocks() const override { return config_.num_hidden_layers; }
  std::string prefix(std::int64_t block) const override { return fmt::format("model.layers.{}", block); }
  std::vector<quant::QuantizeStep> steps(std::int64_t) const override {
    return {{{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, "input_layernorm"},
            {{"self_attn.o_proj"}, "self_attn.v_proj"},
            {{"mlp.gate_proj", "mlp.up_proj"}, "post_attention_layernorm"},
            {{"mlp.down_proj"}, "mlp.up_proj"}};
  }

  std::int64_t batches() const override { return (samples_ + rows - 1) / rows; }
  Tensor embed(std::int64_t batch) override {
    const Batch windows = data_->shuffled(0, batch * rows, std::min(rows, samples_ - batch * rows));
    return to(embedding(weights_.tensor("model.embed_tokens.weight"), windows.inputs), DType::f32);
  }
  std::shared_ptr<Module> load(std::int64_t block) override {
    return std::make_shared<DecoderLayer>(Source{config_, checkpoint_, DType::f32}, prefix(block),
                                          static_cast<std::size_t>(block));
  }
  Tensor forward(Module& block, const Tensor& hidden, std::int64_t) override {
    return static_cast<DecoderLayer&>(block).forward(hidden, pass_);
  }

 private:
  static constexpr std::int64_t rows = 8;  // of a batch
  quant::Checkpoint checkpoint_;
  safetensors::Checkpoint weights_;  // the embedding as it lies in the file
  Config config_;
  std::optional<TextData> data_;
  std::int64_t samples_;
  Pass pass_;
};

int quantize(const Options& options) {
  if (options.threads > 0) set_thread_pool(make_thread_pool(options.threads));
  const quant::QuantizeMethod method = method_of(options);
  std::optional<TextData> data;  // rounding needs none, and so neither a tokenizer
  if (calibrated.count(options.method) > 0)
    data.emplace(Tokenizer::load(options.model).encode(read_text(options.data)), options.length);
  QuantizableLlama model(options.model, std::move(data), options.samples);
  const auto start = std::chrono::steady_clock::now();
  quant::QuantizeOptions folder_options{.layout = options.layout};
  folder_options.progress = [&](const quant::QuantizedModule& done) {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double left = seconds / static_cast<double>(done.number) * static_cast<double>(done.count - done.number);
    fmt::print("{:4}/{}  {:<40} loss {:.3e}   {} left{}\n", done.number, done.count, done.module, done.loss, clock_time(left),
               done.uncalibrated ? "   (no calibration: rounded)"
               : done.indefinite ? "   (its inputs' Hessian is not definite: rounded)"
                                 : "");
    std::fflush(stdout);
  };
  quant::quantize_folder(options.model, options.out, model, method, folder_options);
  fmt::print("wrote {}\n", options.out.string());
  return 0;
}

}  // namespace
}  // namespace graft::llama

int main(int argc, char** argv) {
  return graft::llama::run_program("quantize", [&] {
    graft::llama::Options options;
    return graft::llama::parse(options, argc, argv) ? graft::llama::quantize(options) : 0;
  });
}
