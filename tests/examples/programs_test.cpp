// The example programs as their users meet them: what they print, write, refuse, and survive.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <system_error>
#include <tuple>

#include "graft/core/formats/json.h"
#include "graft/core/safetensors.h"
#include "graft/examples/llama/files.h"
#include "graft/examples/llama/model.h"
#include "graft/examples/llama/text_data.h"
#include "graft/examples/llama/tokenizer.h"
#include "graft/examples/llama/trainer.h"
#include "graft/quant/checkpoint.h"

namespace graft::llama {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

class Programs : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) / (std::string("programs_test_") + test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    const std::string text = read_text(GRAFT_SOURCE_DIR "/examples/data/jargon_held.txt");
    std::ofstream(folder_ / "data.txt") << text.substr(0, 6000);
    std::ofstream(folder_ / "held.txt") << text.substr(6000, 400);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // A program that can make no file longer than `longest` stands for one that meets a full disk.
  pid_t start(const char* program, const Words& options, rlim_t longest = RLIM_INFINITY) const {
    Words words{program};
    words.insert(words.end(), options.begin(), options.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string files[] = {folder_ / "stdout", folder_ / "stderr"};
    const pid_t pid = fork();
    if (pid < 0) throw std::system_error(errno, std::generic_category(), "fork");  // never a number that kill() takes for all
    if (pid > 0) return pid;
    for (int i = 0; i < 2; ++i) dup2(open(files[i].c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), i + 1);
    signal(SIGXFSZ, SIG_IGN);  // writing then fails with an error number
    const rlimit limit{longest, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &limit);
    execv(program, argv.data());
    _exit(127);
  }
  // The exit code, or minus the signal that ended it.
  static int wait(pid_t pid) {
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  // Waits until the run `pid` has replaced the training state in `out` so many times; false if it ended before.
  bool waited_for_states(pid_t pid, const std::string& out, unsigned times) const {
    const fs::path path = folder_ / out / "training_state.safetensors";
    const auto identity = [&] {  // the one after the next may have its number again, but not its time
      struct stat file {};
      ::stat(path.c_str(), &file);
      return std::tuple(file.st_ino, file.st_mtim.tv_sec, file.st_mtim.tv_nsec);
    };
    for (auto known = identity(); times > 0; usleep(500)) {
      siginfo_t ended{};
      waitid(P_PID, static_cast<id_t>(pid), &ended, WEXITED | WNOHANG | WNOWAIT);
      if (ended.si_pid != 0) return false;
      if (const auto now = identity(); now != known) known = now, --times;
    }
    return true;
  }
  int run(const char* program, const Words& options, rlim_t longest = RLIM_INFINITY) const {
    return wait(start(program, options, longest));
  }

  // The command line of a small run; `more` replaces what it has and adds what it lacks.
  Words training(const std::string& out, const Words& more = {}) const {
    std::map<std::string, std::string> values{{"--data", folder_ / "data.txt"},
                                              {"--held", folder_ / "held.txt"},
                                              {"--out", folder_ / out},
                                              {"--batch", "2"},
                                              {"--seq", "32"},
                                              {"--lr", "2e-3"},
                                              {"--prompt-tokens", "8"},
                                              {"--dropout", "0.1"},
                                              {"--target-modules", "q_proj,v_proj"}};
    Words flags;
    for (std::size_t i = 0; i < more.size(); ++i) {
      if (i + 1 < more.size() && !more[i + 1].starts_with("--")) {
        values[more[i]] = more[i + 1];
        ++i;
      } else {
        flags.push_back(more[i]);
      }
    }
    for (const auto& [name, value] : values) flags.insert(flags.end(), {name, value});
    return flags;
  }
  std::string output() const { return read_text(folder_ / "stdout"); }
  std::string message() const { return read_text(folder_ / "stderr"); }
  Words files(const std::string& out) const {
    Words names;
    for (const auto& entry : fs::directory_iterator(folder_ / out)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
  // What the last program said is one refusal by finetune, with these words in it.
  void expect_refusal(const std::string& words) const {
    const std::string text = message();
    EXPECT_EQ(text.find("finetune: "), 0u) << text;
    EXPECT_NE(text.find(words), std::string::npos) << text;
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  }
  std::string adapter(const std::string& out) const { return read_text(folder_ / out / "adapter_model.safetensors"); }

  fs::path folder_;
};

TEST_F(Programs, FinetuneShowsAndWritesWhatItLearned) {
  ASSERT_EQ(run(GRAFT_FINETUNE, training("out", {"--steps", "5"})), 0) << message();
  for (const char* shown : {"before: held-out loss ", "step 1/5   loss ", "step 5/5   loss ", " tokens/s   0:00 left",
                            "after: held-out loss ", "MB of tensors at most in training", "written   "})
    EXPECT_NE(output().find(shown), std::string::npos) << shown;
  EXPECT_NE(read_text(folder_ / "out/adapter_config.json").find("\"LORA\""), std::string::npos);
  EXPECT_EQ(message(), "");

  ASSERT_EQ(run(GRAFT_GENERATE, {"--adapter", folder_ / "out", "--prompt", "hacker: n.", "--max-tokens", "4"}), 0) << message();
  EXPECT_EQ(output().substr(0, 10), "hacker: n.");
}

TEST_F(Programs, ARunKilledAtAnyMomentAndResumedWritesTheSameBytes) {
  const Words options{"--steps", "20", "--save-every", "1"};
  ASSERT_EQ(run(GRAFT_FINETUNE, training("whole", options)), 0) << message();

  constexpr unsigned seed = 3;
  std::mt19937 random(seed);
  std::set<std::string> resumed;  // what the runs said about where they went on
  Words more = options;
  for (int kills = 0; kills < 4; ++kills) {
    // Killed a while after its state has changed so often: at some step, within it or within writing.
    const unsigned changes = 1 + random() % 6, delay = random() % 20'000;
    SCOPED_TRACE(fmt::format("seed {}, kill {}: {} us after change {} of the state", seed, kills, delay, changes));
    const pid_t pid = start(GRAFT_FINETUNE, training("killed", more));
    ASSERT_TRUE(waited_for_states(pid, "killed", changes)) << message();
    usleep(delay);
    kill(pid, SIGKILL);
    ASSERT_EQ(wait(pid), -SIGKILL) << "it ended before it could be killed";
    if (kills == 0) more.push_back("--resume");
    const std::string shown = output();
    if (const auto at = shown.find("resumed   "); at != std::string::npos)
      resumed.insert(shown.substr(at, shown.find('\n', at) - at));
  }
  ASSERT_EQ(run(GRAFT_FINETUNE, training("killed", more)), 0) << message();
  EXPECT_EQ(adapter("killed"), adapter("whole"));
  EXPECT_GE(resumed.size(), 2u) << "the kills fell at one and the same step";
}

TEST_F(Programs, ARunGoesOnWithItsOwnModelWhereverThatLies) {
  const fs::path shipped = GRAFT_SOURCE_DIR "/examples/models/tiny-llama-gptq";
  const fs::path moved = folder_ / "moved", other = folder_ / "other";
  fs::copy(shipped, moved);
  fs::copy(shipped, other);
  const auto file = safetensors::File::open(shipped / "model.safetensors");
  std::vector<NamedTensor> tensors;
  for (const auto& [name, entry] : file.entries()) {
    const bool changed = name == "model.layers.3.mlp.up_proj.qweight";  // a layer without an adapter
    tensors.push_back({name, changed ? Tensor::zeros(entry.shape, entry.dtype) : file.tensor(name)});
  }
  fs::remove(other / "model.safetensors");
  safetensors::save(other / "model.safetensors", tensors, file.metadata());

  ASSERT_EQ(run(GRAFT_FINETUNE, training("out", {"--steps", "1"})), 0) << message();
  const std::string trained = adapter("out");
  EXPECT_EQ(run(GRAFT_FINETUNE, training("out", {"--steps", "1", "--model", other, "--resume"})), 1);
  EXPECT_NE(message().find("the weights of --model was "), std::string::npos) << message();
  EXPECT_EQ(run(GRAFT_FINETUNE, training("out", {"--steps", "1", "--model", moved, "--resume"})), 0) << message();
  EXPECT_EQ(adapter("out"), trained);
}

TEST_F(Programs, AnInterruptSavesWhatWasLearned) {
  const pid_t pid = start(GRAFT_FINETUNE, training("out", {"--steps", "100000", "--save-every", "0"}));
  while (!fs::exists(folder_ / "stdout") || output().find("step ") == std::string::npos) usleep(2000);
  kill(pid, SIGINT);
  EXPECT_EQ(wait(pid), 130) << message();
  EXPECT_NE(output().find("interrupted after step "), std::string::npos);
  EXPECT_FALSE(adapter("out").empty());
}

TEST_F(Programs, AnInterruptBeforeTheFirstStepLeavesNothing) {
  {
    std::ofstream held(folder_ / "long.txt");  // measuring it takes longer than all else before the first step
    for (int i = 0; i < 200; ++i) held << read_text(folder_ / "data.txt");
  }
  for (const int signal : {SIGINT, SIGTERM}) {
    const pid_t pid = start(GRAFT_FINETUNE, training("new/out", {"--held", folder_ / "long.txt"}));
    while (!fs::exists(folder_ / "new/out")) usleep(500);
    usleep(signal == SIGINT ? 0 : 300'000);  // while it reads, and while it measures
    kill(pid, signal);
    EXPECT_EQ(wait(pid), 128 + signal) << message();
    EXPECT_NE(output().find("interrupted before any step; nothing was written\n"), std::string::npos) << output();
    EXPECT_EQ(message(), "");
    EXPECT_FALSE(fs::exists(folder_ / "new"));
  }
}

TEST_F(Programs, RefusedInputEndsWithOneMessageAndNoFolder) {
  std::ofstream(folder_ / "short.txt") << "too short";
  std::ofstream(folder_ / "latin1.txt") << "caf\xE9 " << std::string(1000, 'a');
  const fs::path broken = folder_ / "broken-model";
  fs::copy(GRAFT_SOURCE_DIR "/examples/models/tiny-llama-gptq", broken);
  fs::permissions(broken / "model.safetensors", fs::perms::owner_write, fs::perm_options::add);
  fs::resize_file(broken / "model.safetensors", 100000);
  const std::pair<Words, std::string> cases[] = {
      {{"--model", "/nonexistent"}, "/nonexistent"},
      {{"--model", broken}, "model.safetensors"},
      {{"--data", "/nonexistent.txt"}, "/nonexistent.txt: no such file"},
      {{"--data", folder_ / "short.txt"}, "the text has 5 tokens, and one window of 32 needs 33"},
      {{"--data", folder_ / "latin1.txt"}, "text in UTF-8 is wanted, and byte 3 "},
      {{"--method", "prefix"}, "method = \"prefix\" is not one of lora, dora, qalora, adalora, oft"},
      {{"--r", "0"}, "r"},
      {{"--target-modules", "nothing_like_this"}, "nothing_like_this"},
      {{"--steps", "0"}, "steps = 0, and at least 1 is wanted"},
      {{"--steps", "many"}, "--steps"},
      {{"--schedule", "step"}, "schedule = \"step\" is not one of constant, linear, cosine"},
      {{"--dtype", "i8"}, "--dtype is i8, and f32, bf16 or f16 is wanted"},
      {{"--device", "gpu"}, "--device is gpu, and cpu, cuda or cuda:<index> is wanted"},
      {{"--device", "cuda:first"}, "--device is cuda:first, and cpu, cuda or cuda:<index> is wanted"},
      {{"--device", "cuda:"}, "--device is cuda:, and cpu, cuda or cuda:<index> is wanted"},
      {{"--device", "cuda:-1"}, "--device is cuda:-1, and cpu, cuda or cuda:<index> is wanted"},
      {{"--device", "cuda:99"}, "device cuda:99 was asked for, but"},
      {{"--lora-alpha", "nan"}, "lora_alpha is nan, not a finite number"},
      {{"--lora-alpha", "inf", "--method", "adalora"}, "lora_alpha is inf, not a finite number"},
      {{"--dropout", "nan"}, "lora_dropout is nan, not a finite number"},
      {{"--r", "100000"}, "--r is 100000, and a count from 1 to 65536 is wanted"},
      {{"--block-size", "0", "--method", "oft"}, "--block-size is 0, and a count from 1 to 65536 is wanted"},
      {{"--batch", "4000000000"}, "--batch is 4000000000, and a count from 1 to 65536 is wanted"},
      {{"--accumulate", "0"}, "--accumulate is 0, and a count from 1 to 65536 is wanted"},
      {{"--seq", "9223372036854775807"}, "--seq is 9223372036854775807, and a count from 1 to 2147483648 is wanted"},
      {{"--save-every", "-1"}, "--save-every is -1, and a count from 0 to 2147483648 is wanted"},
      {{"--prompt-tokens", "-4"}, "--prompt-tokens is -4, and a count from 0 to 2147483648 is wanted"},
      {{"--threads", "1000000"}, "--threads is 1000000, and a count from 0 to 1024 is wanted"},
      {{"--seed", "-1"}, "--seed: -1, and a whole number from 0 is wanted"},
      {{"--resume"}, "no training state to resume"},
      {{"--unknown"}, "--unknown"},
  };
  for (const auto& [more, expected] : cases) {
    EXPECT_EQ(run(GRAFT_FINETUNE, training("out", more)), 1) << more[0];
    expect_refusal(expected);
    EXPECT_FALSE(fs::exists(folder_ / "out")) << more[0];
  }
}

TEST_F(Programs, ATextThatIsNotMeasuredOnAnotherMustBeLongEnoughForBoth) {
  const std::string text = read_text(folder_ / "data.txt");
  const auto refuse = [&](std::size_t bytes, const std::string& words) {
    std::ofstream(folder_ / "part.txt") << text.substr(0, bytes);
    EXPECT_EQ(run(GRAFT_FINETUNE, {"--data", folder_ / "part.txt", "--out", folder_ / "out", "--seq", "32"}), 1);
    expect_refusal(words);
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  };
  for (const std::size_t bytes : {0u, 20u, 100u})
    refuse(bytes, " tokens; 66 are wanted, for a row of 32 to learn from and another to measure on");
  EXPECT_EQ(run(GRAFT_FINETUNE, {"--held", folder_ / "held.txt", "--out", folder_ / "out"}), 1);
  expect_refusal("--held needs --data: the shipped text has a held-out part of its own");
}

const Words saved_files{"adapter_config.json", "adapter_model.safetensors", "training_state.safetensors"};
constexpr rlim_t too_short = 100'000;  // for either file of tensors

TEST_F(Programs, AFirstSaveThatFailsLeavesNothing) {
  EXPECT_EQ(run(GRAFT_FINETUNE, training("new/out", {"--steps", "1"}), too_short), 1);
  expect_refusal("training_state.safetensors: cannot be written: File too large");
  EXPECT_FALSE(fs::exists(folder_ / "new"));

  fs::create_directories(folder_ / "empty");
  EXPECT_EQ(run(GRAFT_FINETUNE, training("empty", {"--steps", "1"}), too_short), 1);
  EXPECT_EQ(files("empty"), Words{});
}

TEST_F(Programs, ALaterSaveThatFailsLeavesTheStateBefore) {
  // So many steps that the limit comes before the end of them on a busy machine, too.
  const Words options{"--steps", "40", "--save-every", "1"}, resumed{"--steps", "40", "--save-every", "1", "--resume"};
  ASSERT_EQ(run(GRAFT_FINETUNE, training("whole", options)), 0) << message();
  const pid_t pid = start(GRAFT_FINETUNE, training("out", options));
  ASSERT_TRUE(waited_for_states(pid, "out", 2)) << message();
  const rlimit limit{too_short, RLIM_INFINITY};
  ASSERT_EQ(prlimit(pid, RLIMIT_FSIZE, &limit, nullptr), 0);
  EXPECT_EQ(wait(pid), 1);
  expect_refusal("safetensors: cannot be written: File too large");
  EXPECT_EQ(files("out"), saved_files);
  const std::string state = read_text(folder_ / "out/training_state.safetensors");
  EXPECT_EQ(run(GRAFT_FINETUNE, training("out", resumed), too_short), 1);
  expect_refusal("training_state.safetensors: cannot be written: File too large");
  EXPECT_EQ(read_text(folder_ / "out/training_state.safetensors"), state);
  EXPECT_EQ(run(GRAFT_FINETUNE, training("out", resumed)), 0) << message();
  EXPECT_EQ(adapter("out"), adapter("whole"));
}

TEST_F(Programs, AnOutputFolderThatCannotBeMadeIsRefusedBeforeAnyWork) {
  for (const std::string& out : {std::string("data.txt/out"), "new/" + std::string(300, 'a')}) {
    EXPECT_EQ(run(GRAFT_FINETUNE, training(out, {"--steps", "1"})), 1);
    expect_refusal(out + ": a folder to write to is wanted: ");
    EXPECT_EQ(output(), "");
    EXPECT_FALSE(fs::exists(folder_ / "new"));
  }
}

TEST_F(Programs, AFolderThatExistsIsNotOverwritten) {
  fs::create_directories(folder_ / "out");
  std::ofstream(folder_ / "out/notes.txt") << "mine";
  EXPECT_EQ(run(GRAFT_FINETUNE, training("out", {"--steps", "1"})), 1);
  EXPECT_NE(message().find("exists already"), std::string::npos);
  EXPECT_EQ(read_text(folder_ / "out/notes.txt"), "mine");
}

TEST_F(Programs, ALossThatIsNoNumberEndsTheRun) {
  EXPECT_EQ(run(GRAFT_FINETUNE, training("out", {"--steps", "5", "--lr", "1e30"})), 1);
  expect_refusal("at step 2: a lower learning rate may help");
  // What there was before the first step is what was saved last.
  EXPECT_EQ(files("out"), saved_files);
  EXPECT_EQ(run(GRAFT_FINETUNE, training("out", {"--steps", "5", "--lr", "1e30", "--resume"})), 1);
  EXPECT_NE(output().find("resumed   after step 0"), std::string::npos) << output();
  EXPECT_EQ(run(GRAFT_GENERATE, {"--adapter", folder_ / "out", "--prompt", "hacker: n.", "--max-tokens", "1"}), 0) << message();
}

TEST_F(Programs, GenerateRefusesWhatMakesNoSense) {
  const std::pair<Words, const char*> cases[] = {{{"--temperature", "-1"}, "temperature = -1, and a number from 0 is wanted"},
                                                 {{"--top-p", "0"}, "top_p = 0"},
                                                 {{"--adapter", "/nonexistent"}, "/nonexistent"},
                                                 {{"--prompt", ""}, "--prompt is empty"},
                                                 {{"--max-tokens", "-3"}, "--max-tokens is -3, and a count from 0 to "},
                                                 {{"--top-k", "-1"}, "top_k = -1, and a count from 0 is wanted"},
                                                 {{"--device", "cuda:99"}, "device cuda:99 was asked for, but"},
                                                 {{"--threads", "-1"}, "--threads is -1, and a count from 0 to 1024 is wanted"},
                                                 {{"--seed", "-7"}, "--seed: -7, and a whole number from 0 is wanted"}};
  for (const auto& [options, expected] : cases) {
    EXPECT_EQ(run(GRAFT_GENERATE, options), 1);
    EXPECT_NE(message().find(expected), std::string::npos) << message();
  }
}

// ---- quantize and inspect ----

// The shipped model as the numbers that its packed weights stand for.
void write_dense_model(const fs::path& folder) {
  const fs::path shipped = GRAFT_SOURCE_DIR "/examples/models/tiny-llama-gptq";
  const auto checkpoint = quant::Checkpoint::open(shipped);
  const auto weights = safetensors::Checkpoint::open(shipped);
  const auto modules = checkpoint.quantized_modules();
  std::vector<NamedTensor> tensors;
  for (const std::string& name : weights.names())
    if (!std::binary_search(modules.begin(), modules.end(), name.substr(0, name.rfind('.'))))
      tensors.push_back({name, weights.tensor(name)});
  for (const std::string& module : modules) {
    const quant::Decoded decoded = checkpoint.decode(module);
    tensors.push_back({module + ".weight", quant::dequantize(decoded, 0, decoded.out)});
  }
  fs::create_directories(folder);
  safetensors::save(folder / "model.safetensors", tensors);
  auto config = parse_json<nlohmann::json>(checkpoint.config());
  config.erase("quantization_config");
  std::ofstream(folder / "config.json") << dump_json(config);
  fs::copy(shipped / "tokenizer.json", folder);
}

Words quantizing(const fs::path& folder, const std::string& out, const Words& more) {
  Words words{"--model", folder / "dense", "--out", folder / out};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST_F(Programs, QuantizeWritesFoldersThatLoadAndInspectExplains) {
  write_dense_model(folder_ / "dense");
  const TextData held(Tokenizer::load(folder_ / "dense").encode(read_text(folder_ / "held.txt")), 64);
  CausalLM dense = load(folder_ / "dense");
  const double loss = evaluate(dense, held, 2);
  const std::string data = folder_ / "data.txt";
  const struct {
    const char* method;
    Words more;
    const char* layout;
    double worse;  // the held-out loss may be by so much
  } cases[] = {
      {"gptq", {"--data", data, "--samples", "4", "--length", "32", "--group-size", "64"}, "gptq gptq, 256 -> 128, 4 bits", 0.2},
      {"awq", {"--data", data, "--samples", "4", "--length", "32", "--group-size", "64"}, "awq gemm, 256 -> 128, 4 bits", 0.2},
      {"round", {"--bits", "8", "--asym"}, "gptq gptq_v2, 256 -> 128, 8 bits", 0.01},
      {"eetq", {}, "eetq sm80, 256 -> 128, 8 bits", 0.02}};
  for (const auto& [method, more, layout, worse] : cases) {
    SCOPED_TRACE(method);
    Words options{"--method", method};
    options.insert(options.end(), more.begin(), more.end());
    ASSERT_EQ(run(GRAFT_QUANTIZE, quantizing(folder_, method, options)), 0) << message();
    EXPECT_NE(output().find("  28/28  model.layers.3.mlp.down_proj"), std::string::npos) << output();
    EXPECT_NE(output().find("wrote "), std::string::npos);
    CausalLM model = load(folder_ / method);
    EXPECT_NEAR(evaluate(model, held, 2), loss, worse);

    ASSERT_EQ(run(GRAFT_INSPECT, {folder_ / method}), 0) << message();
    EXPECT_NE(output().find("; 28 quantized modules\n"), std::string::npos) << output();
    EXPECT_NE(output().find(fmt::format("model.layers.0.self_attn.k_proj: {}", layout)), std::string::npos) << output();
    EXPECT_EQ(output().find("refused"), std::string::npos) << output();
  }
}

TEST_F(Programs, QuantizeRefusesOptionsThatItsMethodDoesNotHave) {
  write_dense_model(folder_ / "dense");
  const std::pair<Words, std::string> cases[] = {
      {{"--method", "eetq", "--bits", "4"}, "--bits means nothing with --method eetq, only with awq, gptq, round"},
      {{"--method", "eetq", "--asym"}, "--asym means nothing with --method eetq"},
      {{"--method", "awq", "--mse", "2.4"}, "--mse means nothing with --method awq, only with gptq, round"},
      {{"--method", "awq", "--desc-act"}, "--desc-act means nothing with --method awq, only with gptq"},
      {{"--method", "awq", "--damp", "0.1"}, "--damp means nothing with --method awq, only with gptq"},
      {{"--method", "round", "--desc-act"}, "--desc-act means nothing with --method round, only with gptq"},
      {{"--method", "round", "--samples", "4"}, "--samples means nothing with --method round, only with awq, gptq"},
      {{"--method", "bnb"}, "--method is bnb, and gptq, awq, eetq or round is wanted"}};
  for (const auto& [options, words] : cases) {
    EXPECT_EQ(run(GRAFT_QUANTIZE, quantizing(folder_, "out", options)), 1);
    EXPECT_EQ(message().find("quantize: " + words), 0u) << message();
    const std::string text = message();
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  }
}

TEST_F(Programs, QuantizeNeedsATokenizerOnlyWhereItCalibrates) {
  write_dense_model(folder_ / "dense");
  fs::remove(folder_ / "dense/tokenizer.json");
  EXPECT_EQ(run(GRAFT_QUANTIZE, quantizing(folder_, "rounded", {"--method", "round"})), 0) << message();
  EXPECT_EQ(run(GRAFT_QUANTIZE, quantizing(folder_, "out", {"--method", "gptq"})), 1);
  EXPECT_NE(message().find("tokenizer.json"), std::string::npos) << message();
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(Programs, InspectEndsWithOneWhereAModuleIsRefused) {
  EXPECT_EQ(run(GRAFT_INSPECT, {"/nonexistent"}), 1);
  EXPECT_EQ(message(), "inspect: /nonexistent: is not a folder\n");
  const fs::path broken = folder_ / "broken";
  fs::copy(GRAFT_SOURCE_DIR "/examples/models/tiny-llama-gptq", broken);
  for (const char* name : {"config.json", "quantize_config.json"}) {
    std::string text = read_text(broken / name);
    text.replace(text.find("\"group_size\": 128"), 17, "\"group_size\": 64");
    fs::remove(broken / name);
    std::ofstream(broken / name) << text;
  }
  EXPECT_EQ(run(GRAFT_INSPECT, {broken}), 1);
  EXPECT_NE(output().find("model.layers.0.mlp.up_proj: refused: model.layers.0.mlp.up_proj: scales has shape [2, 768]"),
            std::string::npos)
      << output();
  EXPECT_EQ(message(), "");
}

TEST_F(Programs, HelpSaysWhatAProgramTakes) {
  const std::pair<const char*, const char*> cases[] = {{GRAFT_FINETUNE, "--model"},
                                                       {GRAFT_GENERATE, "--model"},
                                                       {GRAFT_QUANTIZE, "--method"},
                                                       {GRAFT_INSPECT, "--zeros"},
                                                       {GRAFT_CUSTOM_ADAPTER, "usage: custom_adapter <model folder> "},
                                                       {GRAFT_CUSTOM_RULE, "usage: custom_rule <model folder> "}};
  for (const auto& [program, expected] : cases) {
    EXPECT_EQ(run(program, {"--help"}), 0) << message();
    EXPECT_NE(output().find(expected), std::string::npos) << output();
    EXPECT_EQ(message(), "");
  }
  for (const char* program : {GRAFT_CUSTOM_ADAPTER, GRAFT_CUSTOM_RULE}) {
    EXPECT_EQ(run(program, {"too few"}), 1);
    EXPECT_NE(message().find(": usage: "), std::string::npos) << message();
  }
}

}  // namespace
}  // namespace graft::llama
