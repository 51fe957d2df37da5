#include "graft/examples/llama/trainer.h"

#include <gtest/gtest.h>

#include "graft/adapters/peft_io.h"
#include "graft/core/formats/json.h"
#include "graft/core/parallel.h"
#include "graft/examples/llama/files.h"
#include "graft/examples/llama/methods.h"

#include "../support/errors.h"
#include "../support/tensors.h"

namespace graft::llama {
namespace {

using test::expect_error;

namespace fs = std::filesystem;

CausalLM tiny_model() {
  CausalLM model = load(GRAFT_SOURCE_DIR "/examples/models/tiny-llama-gptq");
  to(model, test::tested_device());
  return model;
}

const TextData& data() {
  static const TextData instance = [] {
    std::vector<std::int64_t> ids;
    for (std::int64_t i = 0; i < 400; ++i) ids.push_back(i * i % 1009 % 1000);
    return TextData(ids, 12);
  }();
  return instance;
}

fs::path scratch(const std::string& name) {
  const fs::path folder = fs::path(testing::TempDir()) / ("trainer_test_" + name);
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

struct Training {
  CausalLM model;
  Trainer trainer;

  Training(const Method& method, const TrainingOptions& options)
      : model(adapted(method, options)), trainer(model, data(), options, method.steps(model)) {}
  static CausalLM adapted(const Method& method, const TrainingOptions& options) {
    CausalLM model = tiny_model();
    const AdapterOptions adapter{.dropout = 0.1, .target_modules = {"q_proj", "down_proj"}, .steps = options.steps};
    adapters::inject(model, method.config(adapter),
                     {.registry = method.registry(), .seed = options.seed, .architecture = "llama"});
    return model;
  }
  void steps(int n) {
    for (int i = 0; i < n; ++i) trainer.step();
  }
  std::string saved(const fs::path& folder) {
    adapters::save_pretrained(model, folder);
    return read_text(folder / "adapter_model.safetensors");
  }
};

class EveryMethod : public testing::TestWithParam<const char*> {};

TEST_P(EveryMethod, AResumedRunEqualsAnUninterruptedOneInEveryByte) {
  const Method& method = find_method(GetParam());
  const TrainingOptions options{.steps = 8, .batch = 2, .accumulate = 2, .warmup = 2, .seed = 5};
  const Settings settings{{"--seed", "5"}};
  Training whole(method, options);
  whole.steps(8);
  EXPECT_TRUE(whole.trainer.done());

  const fs::path folder = scratch(GetParam());
  for (const int stop : {0, 3, 7}) {
    Training first(method, options), second(method, options);
    first.steps(stop);
    first.trainer.save(folder / "state.safetensors", settings);
    second.trainer.resume(folder / "state.safetensors", settings);
    EXPECT_EQ(second.trainer.steps_done(), stop);
    second.steps(8 - stop);
    EXPECT_EQ(second.saved(folder), whole.saved(folder)) << "stopped after step " << stop;
  }
}

TEST_P(EveryMethod, LearnsTheSameBitsOnAnyNumberOfThreads) {
  const fs::path folder = scratch(std::string(GetParam()) + "_threads");
  std::vector<std::string> saved;
  for (const int threads : {1, 2, 3, 7}) {
    set_thread_pool(make_thread_pool(threads));
    Training run(find_method(GetParam()), {.steps = 2, .batch = 5});
    run.steps(2);
    saved.push_back(run.saved(folder));
  }
  set_thread_pool(nullptr);
  for (const std::string& bytes : saved) EXPECT_TRUE(bytes == saved[0]);
}

TEST_P(EveryMethod, Learns) {
  Training run(find_method(GetParam()), {.steps = 6, .batch = 4, .lr = 5e-3, .schedule = find_schedule("constant")});
  const double before = evaluate(run.model, data(), 8);
  run.steps(6);
  EXPECT_LT(evaluate(run.model, data(), 8), before);
}

std::vector<const char*> method_names() {
  std::vector<const char*> names;
  for (const Method& method : methods()) names.push_back(method.name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Trainer, EveryMethod, testing::ValuesIn(method_names()),
                         [](const auto& info) { return std::string(info.param); });

TEST(Trainer, AccumulatesTheMeanGradient) {
  const Method& oft = find_method("oft");  // with no dropout between the two
  const auto first_step = [&](std::int64_t batch, std::int64_t accumulate) {
    CausalLM model = tiny_model();
    adapters::inject(model, oft.config({.target_modules = {"q_proj"}}));
    return Trainer(model, data(), {.batch = batch, .accumulate = accumulate}).step();
  };
  const StepReport once = first_step(4, 1), four = first_step(1, 4);
  EXPECT_NEAR(once.loss, four.loss, 1e-5);
  EXPECT_NEAR(once.grad_norm, four.grad_norm, 1e-4 * once.grad_norm);
  EXPECT_EQ(once.tokens, 48);
  EXPECT_EQ(four.tokens, 48);
}

TEST(Trainer, ALossThatIsNoNumberIsAnError) {
  Training run(find_method("lora"), {.steps = 5, .batch = 2, .lr = 1e30, .schedule = find_schedule("constant")});
  try {
    run.steps(5);
    FAIL();
  } catch (const ValueError& error) {
    EXPECT_NE(std::string(error.what()).find(" at step 2: a lower learning rate may help"), std::string::npos) << error.what();
  }
}

TEST(Trainer, RefusesOptionsThatMakeNoSense) {
  CausalLM model = tiny_model();
  const auto message = [&](const TrainingOptions& options) {
    try {
      Trainer(model, data(), options);
    } catch (const ValueError& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  EXPECT_EQ(message({.steps = 0}), "steps = 0, and at least 1 is wanted");
  EXPECT_EQ(message({.batch = -1}), "batch = -1, and at least 1 is wanted");
  EXPECT_EQ(message({.accumulate = 0}), "accumulate = 0, and at least 1 is wanted");
  EXPECT_EQ(message({.lr = 0}), "lr = 0, and a number above 0 is wanted");
  EXPECT_EQ(message({.weight_decay = -1}), "weight_decay = -1, and a number from 0 is wanted");
  EXPECT_EQ(message({.steps = 5, .warmup = 6}), "warmup = 6, and a count from 0 to the 5 steps is wanted");
  EXPECT_EQ(message({.clip = -1}), "clip = -1, and a number from 0 is wanted");
  set_requires_grad(model, false);
  EXPECT_EQ(message({}), "nothing in the model is trainable: inject an adapter first");
  expect_error<ValueError>([] { find_schedule("step"); }, "schedule = \"step\" is not one of constant, linear, cosine");
  expect_error<ValueError>([] { find_method("prefix"); }, "method = \"prefix\" is not one of lora, dora, qalora, adalora, oft");
}

TEST(Trainer, ResumesOnlyTheSameRun) {
  const fs::path folder = scratch("other");
  const TrainingOptions options{.steps = 2, .batch = 1};
  Training lora(find_method("lora"), options), oft(find_method("oft"), options);
  lora.trainer.save(folder / "state", {{"--lr", "0.1"}, {"--r", "4"}});
  const auto message = [&](Trainer& trainer, const fs::path& path, const Settings& settings) {
    try {
      trainer.resume(path, settings);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  EXPECT_EQ(
      message(lora.trainer, folder / "state", {{"--lr", "0.2"}}),
      "a run is resumed with the settings that it was begun with: --lr was 0.1 and is now 0.2; --r was 4 and is now not set");
  EXPECT_NE(message(oft.trainer, folder / "state", {{"--lr", "0.1"}, {"--r", "4"}}).find("the state of another run"),
            std::string::npos);
  EXPECT_NE(
      message(lora.trainer, GRAFT_SOURCE_DIR "/examples/models/tiny-llama-gptq/model.safetensors", {}).find("no training state"),
      std::string::npos);
  expect_error<FileError>([&] { lora.trainer.resume(folder / "missing", {}); }, "missing: cannot be opened: No such file");
}

TEST(Trainer, RefusesAStateThatWasChanged) {
  const fs::path path = scratch("changed") / "state";
  Training run(find_method("lora"), {.steps = 2, .batch = 1});
  run.steps(1);
  run.trainer.save(path, {});
  const auto file = safetensors::File::open(path);
  const nlohmann::json whole = parse_json<nlohmann::json>(file.metadata().at("training_state"));
  const auto refuse = [&](const nlohmann::json& description, const std::string& dropped, const std::string& words) {
    std::vector<NamedTensor> tensors;
    for (const auto& [name, entry] : file.entries())
      if (name != dropped) tensors.push_back({name, file.tensor(name)});
    const fs::path changed = path.parent_path() / "changed";
    safetensors::save(changed, tensors, {{"training_state", dump_json(description)}});
    expect_error<FileError>([&] { run.trainer.resume(changed, {}); }, changed.string() + ": " + words);
    EXPECT_EQ(run.trainer.steps_done(), 1);
  };
  const auto with = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json changed = whole;
    changed[key] = value;
    return changed;
  };
  refuse(with("step", -1), "", "a training state with step -1 and position 1");
  refuse(with("position", -5), "", "a training state with step 1 and position -5");
  refuse(with("step", "one"), "", "a training state that cannot be read: ");
  refuse(with("generators", nlohmann::json::object()), "", "the state of another run, it holds 0 generators and 8 are wanted");
  nlohmann::json renamed = whole;
  const std::string known = renamed["generators"].items().begin().key();
  renamed["generators"]["elsewhere"] = renamed["generators"][known];
  renamed["generators"].erase(known);
  refuse(renamed, "", "the state of another run, it lacks the generator " + known);
  const std::string tensor = file.entries().begin()->first;
  refuse(whole, tensor, "the state of another run, it lacks " + tensor);
  run.trainer.resume(path, {});
}

}  // namespace
}  // namespace graft::llama
