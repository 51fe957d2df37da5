// finetune and generate as their users meet them: what they print, write, refuse, and survive.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "graft/core/safetensors.h"
#include "graft/examples/llama/files.h"

extern char** environ;

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

  pid_t start(const char* program, const Words& options) const {
    Words words{program};
    words.insert(words.end(), options.begin(), options.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, (folder_ / "stdout").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, (folder_ / "stderr").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    pid_t pid = -1;
    EXPECT_EQ(posix_spawn(&pid, program, &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    return pid;
  }
  // The exit code, or minus the signal that ended it.
  static int wait(pid_t pid) {
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  int run(const char* program, const Words& options) const { return wait(start(program, options)); }

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

  const fs::path state = folder_ / "killed/training_state.safetensors";
  for (int kills = 0; kills < 3; ++kills) {
    Words more = options;
    if (kills > 0) more.push_back("--resume");
    std::error_code error;
    const auto before = fs::last_write_time(state, error);
    const pid_t pid = start(GRAFT_FINETUNE, training("killed", more));
    // Killed a while after its state has changed: somewhere within a step or within writing.
    while (!fs::exists(state) || fs::last_write_time(state, error) == before) usleep(1000);
    usleep(9000 * static_cast<unsigned>(kills));
    kill(pid, SIGKILL);
    ASSERT_EQ(wait(pid), -SIGKILL) << "it ended before it could be killed";
  }
  Words more = options;
  more.push_back("--resume");
  ASSERT_EQ(run(GRAFT_FINETUNE, training("killed", more)), 0) << message();
  EXPECT_EQ(adapter("killed"), adapter("whole"));
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
      {{"--data", folder_ / "short.txt"}, "the text has"},
      {{"--data", folder_ / "latin1.txt"}, "text in UTF-8 is wanted, and byte 3 "},
      {{"--method", "prefix"}, "method = \"prefix\" is not one of lora, dora, qalora, adalora, oft"},
      {{"--r", "0"}, "r"},
      {{"--target-modules", "nothing_like_this"}, "nothing_like_this"},
      {{"--steps", "0"}, "steps = 0, and at least 1 is wanted"},
      {{"--steps", "many"}, "--steps"},
      {{"--schedule", "step"}, "schedule = \"step\" is not one of constant, linear, cosine"},
      {{"--dtype", "i8"}, "--dtype is i8, and f32, bf16 or f16 is wanted"},
      {{"--resume"}, "no training state to resume"},
      {{"--unknown"}, "--unknown"},
  };
  for (const auto& [more, expected] : cases) {
    EXPECT_EQ(run(GRAFT_FINETUNE, training("out", more)), 1) << more[0];
    const std::string text = message();
    EXPECT_EQ(text.find("finetune: "), 0u) << text;
    EXPECT_NE(text.find(expected), std::string::npos) << text;
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
    EXPECT_FALSE(fs::exists(folder_ / "out")) << more[0];
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
  EXPECT_NE(message().find("a lower learning rate may help"), std::string::npos) << message();
}

TEST_F(Programs, GenerateRefusesWhatMakesNoSense) {
  const std::pair<Words, const char*> cases[] = {{{"--temperature", "-1"}, "temperature = -1, and a number from 0 is wanted"},
                                                 {{"--top-p", "0"}, "top_p = 0"},
                                                 {{"--adapter", "/nonexistent"}, "/nonexistent"},
                                                 {{"--prompt", ""}, "--prompt is empty"},
                                                 {{"--max-tokens", "-3"}, "--max-tokens is -3"}};
  for (const auto& [options, expected] : cases) {
    EXPECT_EQ(run(GRAFT_GENERATE, options), 1);
    EXPECT_NE(message().find(expected), std::string::npos) << message();
  }
}

TEST_F(Programs, HelpListsTheOptions) {
  for (const char* program : {GRAFT_FINETUNE, GRAFT_GENERATE}) {
    EXPECT_EQ(run(program, {"--help"}), 0);
    EXPECT_NE(output().find("--model"), std::string::npos);
  }
}

}  // namespace
}  // namespace graft::llama
