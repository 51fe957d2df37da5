// Whole models: logits, greedy continuations, training curves and adapter folders, against PEFT's. A run has only the parts that it shows.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <map>
#include <set>

#include "graft/adapters/peft_io.h"
#include "graft/adapters/rank_allocator.h"
#include "graft/autograd/ops.h"
#include "graft/autograd/optim.h"
#include "graft/examples/llama/model.h"
#include "graft/tests/support/tested.h"

#include "golden.h"

namespace golden {
namespace {

using namespace graft;
namespace fs = std::filesystem;

Tensor ids(const Json& rows) {
  std::vector<std::int64_t> values;
  for (const Json& row : rows) values.insert(values.end(), row.begin(), row.end());
  return Tensor::from(values, {static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(rows.at(0).size())});
}

struct Run {
  explicit Run(fs::path path)
      : folder(std::move(path)),
        info(read_json(folder / "run.json")),
        tokens(read_json(folder / info.at("tokens").get<std::string>())),
        logits(safetensors::File::open(folder / "logits.safetensors")) {}

  llama::CausalLM model(DType dtype = DType::f32) const {
    auto model = llama::load(root() / "models" / info.at("base").get<std::string>(), dtype);
    to(model, test::tested_device());
    return model;
  }
  bool has_method() const { return !info.at("method").is_null(); }
  bool in_several_dtypes() const { return info.at("dtype").is_array(); }

  fs::path folder;
  Json info, tokens;
  safetensors::File logits;
};

void expect_known(const std::string& name, const std::set<std::string>& known, const std::string& what) {
  EXPECT_TRUE(known.contains(name)) << what << ": " << name << " is there, and nothing compares it";
}

/// Fails for every key, file and tensor of a run that the checks below do not read: a part that a run has is a part to compare.
void expect_nothing_unread(const Run& run) {
  std::set<std::string> keys{"base", "method", "torch", "transformers", "dtype", "tokens", "logits"};
  std::set<std::string> files{"run.json", "logits.safetensors", run.info.at("tokens")}, tensors{"logits.base"};
  if (run.in_several_dtypes()) {
    tensors.clear();
    for (const Json& dtype : run.info.at("dtype")) tensors.insert("logits.base." + dtype.get<std::string>());
  }
  if (run.has_method()) {
    keys.merge(std::set<std::string>{"peft", "held_loss_base", "greedy_base", "trainable", "wrappers", "optimizer", "loss",
                                     "grad_norm", "ranks", "rank_pattern", "held_loss_trained", "greedy_trained"});
    for (const std::string folder : {"start", "trained"}) {
      tensors.insert("logits." + folder);
      for (const char* file : {"/adapter_config.json", "/adapter_model.safetensors"}) files.insert(folder + file);
    }
    for (const auto& [key, value] : run.info.at("optimizer").items())
      expect_known(key, {"name", "lr", "betas", "eps", "weight_decay"}, "optimizer");
    for (const char* greedy : {"greedy_base", "greedy_trained"})
      for (const auto& [key, value] : run.info.at(greedy).items())
        expect_known(key, {"prompt", "continuation", "margins"}, greedy);
  }
  for (const auto& [key, value] : run.info.items()) expect_known(key, keys, "run.json");
  for (const auto& [key, value] : run.tokens.items())
    expect_known(key, {"about", "batches", "probe", "held", "prompt"}, run.info.at("tokens"));
  for (const auto& entry : fs::recursive_directory_iterator(run.folder))
    if (!entry.is_directory()) expect_known(fs::relative(entry.path(), run.folder).string(), files, "the folder");
  for (const auto& [name, entry] : run.logits.entries()) {
    expect_known(name, tensors, "logits.safetensors");
    EXPECT_EQ(run.info.at("logits"), fmt::format("last {} positions of each probe row", entry.shape[1])) << name;
  }
}

/// The kinds of layer that PEFT put around the base, by the names of its classes.
void check_wrappers(llama::CausalLM& model, const Run& run) {
  std::set<std::string> names;
  for_each_module(model, [&](const std::string&, const Module& module) {
    if (!dynamic_cast<const AdapterLayer*>(&module)) return;
    const std::string name = module.type_name();  // "lora.Linear"
    names.insert(name.substr(name.find('.') + 1));
  });
  EXPECT_EQ(names, run.info.at("wrappers").get<std::set<std::string>>());
}

/// The directions that AdaLoRA's last masking kept, as PEFT's own training did.
void check_rank_pattern(const adalora::RankAllocator& allocator, const Run& run) {
  std::map<std::string, std::vector<bool>> kept;
  for (const auto& [name, tensor] : allocator.state()) {
    const std::string tail = ".kept.default";
    if (!name.ends_with(tail)) continue;
    const auto bytes = tensor.to_vector<std::uint8_t>();
    kept[name.substr(0, name.size() - tail.size()) + ".lora_E.default"].assign(bytes.begin(), bytes.end());
  }
  EXPECT_EQ(kept, (run.info.at("rank_pattern").get<std::map<std::string, std::vector<bool>>>()));
}

/// Logits of the last positions of each probe row, as many as the recorded ones have.
Tensor probe(const llama::CausalLM& model, const Run& run, const Tensor& recorded) {
  NoGrad guard;
  const Tensor hidden = model.hidden(ids(run.tokens.at("probe")));
  const std::int64_t length = hidden.dim(1);
  return model.logits(slice(hidden, 1, length - recorded.dim(1), length));
}

void check_logits(const llama::CausalLM& model, const Run& run, const std::string& name) {
  const Tensor recorded = run.logits.tensor(name);
  expect_close_absolute(probe(model, run, recorded), recorded, 1e-4, name);
}

/// Token by token through the cache. Where two tokens were nearly as likely, everything behind may differ.
void check_greedy(const llama::CausalLM& model, const Json& recorded, const std::string& what) {
  NoGrad guard;
  llama::KeyValueCache cache;
  Json next = recorded.at("prompt");
  for (std::size_t i = 0; i < recorded.at("continuation").size(); ++i) {
    if (recorded.at("margins").at(i) < 1e-3) return;
    const Tensor hidden = model.hidden(ids(Json::array({next})), &cache);
    const Tensor last = slice(hidden, 1, hidden.dim(1) - 1, hidden.dim(1));
    const auto token = static_cast<std::int64_t>(argmax(model.logits(last)).item());
    ASSERT_EQ(token, recorded.at("continuation").at(i).get<std::int64_t>()) << what << ": token " << i;
    next = Json::array({token});
  }
}

/// Mean cross entropy of the next token within each row.
Tensor next_token_loss(const llama::CausalLM& model, const Tensor& rows) {
  const std::int64_t length = rows.dim(1);
  const Tensor logits = model.forward(slice(rows, 1, 0, length - 1));
  return cross_entropy(logits, to(slice(rows, 1, 1, length), logits.device()));
}

void check_held_loss(llama::CausalLM& model, const Run& run, const std::string& name) {
  NoGrad guard;
  const double want = run.info.at(name);
  const Tensor loss =
      next_token_loss(model, ids(run.tokens.at("held"))) + adalora::orthogonal_regulariser(model);  // as PEFT's model does
  EXPECT_NEAR(loss.item(), want, 1e-4 * want) << name;
}

void check_training(llama::CausalLM& model, const Run& run) {
  const Json& recorded = run.info.at("optimizer");
  ASSERT_EQ(recorded.at("name"), "AdamW");
  const auto parameters = trainable(model);
  std::int64_t count = 0;
  for (const NamedTensor& parameter : parameters) count += parameter.tensor.count();
  EXPECT_EQ(count, run.info.at("trainable").get<std::int64_t>());

  AdamW optimizer(parameters, {.lr = recorded.at("lr"),
                               .beta1 = recorded.at("betas").at(0),
                               .beta2 = recorded.at("betas").at(1),
                               .eps = recorded.at("eps"),
                               .weight_decay = recorded.at("weight_decay")});
  const Json& batches = run.tokens.at("batches");
  std::optional<adalora::RankAllocator> allocator;
  if (run.info.contains("ranks")) allocator.emplace(model);
  set_training(model, true);
  for (std::size_t step = 0; step < run.info.at("loss").size(); ++step) {
    Tensor loss = next_token_loss(model, ids(batches.at(step % batches.size())));
    if (allocator) loss = loss + adalora::orthogonal_regulariser(model);
    loss.backward();
    const double norm = clip_grad_norm(parameters, 0);
    const double want_loss = run.info.at("loss").at(step), want_norm = run.info.at("grad_norm").at(step);
    ASSERT_NEAR(loss.item(), want_loss, 1e-4 * want_loss) << "loss at step " << step;
    ASSERT_NEAR(norm, want_norm, 5e-4 * want_norm) << "gradient norm at step " << step;
    optimizer.step();
    if (allocator) {
      allocator->update_and_allocate(static_cast<std::int64_t>(step));
      for (const auto& [path, rank] : allocator->ranks())
        ASSERT_EQ(rank, run.info.at("ranks").at(step).at("base_model.model." + path).get<std::int64_t>())
            << path << " at step " << step;
    }
    optimizer.zero_grad();
  }
  if (allocator) check_rank_pattern(*allocator, run);
  set_training(model, false);
}

/// What Graft saves after loading a folder has the same tensors, bit for bit, and a config that means the same.
void check_folder(llama::CausalLM& model, const fs::path& folder) {
  const fs::path copy = fs::temp_directory_path() / ("graft-golden-" + std::to_string(getpid()));
  adapters::save_pretrained(model, copy);
  expect_same_files(safetensors::File::open(copy / "adapter_model.safetensors"),
                    safetensors::File::open(folder / "adapter_model.safetensors"));
  EXPECT_TRUE(adapters::read_config(copy) == adapters::read_config(folder)) << read_json(copy / "adapter_config.json");
  fs::remove_all(copy);
}

void check_adapters(const Run& run) {
  {
    auto model = run.model();
    check_greedy(model, run.info.at("greedy_base"), "greedy_base");
    check_held_loss(model, run, "held_loss_base");
    adapters::load_pretrained(model, run.folder / "start", {.is_trainable = true});
    check_wrappers(model, run);
    check_logits(model, run, "logits.start");
    check_folder(model, run.folder / "start");
    check_training(model, run);
    check_held_loss(model, run, "held_loss_trained");
  }
  auto model = run.model();
  adapters::load_pretrained(model, run.folder / "trained");
  check_wrappers(model, run);
  check_logits(model, run, "logits.trained");
  check_greedy(model, run.info.at("greedy_trained"), "greedy_trained");
  // The directions that AdaLoRA switched off are not in its files, but were in the regulariser of the recorded loss.
  if (!run.info.contains("ranks")) check_held_loss(model, run, "held_loss_trained");
  check_folder(model, run.folder / "trained");
}

/// Half-precision logits against the f64 ones, beside PyTorch's.
void check_half(const Run& run) {
  const Tensor truth = run.logits.tensor("logits.base.f64");
  for (const Json& dtype : run.info.at("dtype")) {
    const std::string name = "logits.base." + dtype.get<std::string>();
    const Tensor got = probe(run.model(dtype_from_name(dtype.get<std::string>())), run, truth);
    if (dtype == "f64") expect_close_absolute(got, truth, 1e-4, name);
    else expect_close(got, truth, half_tolerance(run.logits.tensor(name), truth), name);
  }
}

}  // namespace

void check_runs_case(const Case& golden_case) {
  const Run run(golden_case.path);
  expect_nothing_unread(run);
  if (run.in_several_dtypes()) return check_half(run);
  EXPECT_EQ(run.info.at("dtype"), "float32");
  check_logits(run.model(), run, "logits.base");
  if (run.has_method()) check_adapters(run);
}

/// The adapter of the run of this name, as a newer PEFT saved it.
void check_adapters_case(const Case& golden_case) {
  const Run run(root() / "runs" / golden_case.name);
  auto model = run.model();
  adapters::load_pretrained(model, golden_case.path);
  check_logits(model, run, "logits.trained");
  check_folder(model, golden_case.path);
}

}  // namespace golden
