// Every method on every kind of layer, one set of tests for all cells.
#include <gtest/gtest.h>

#include <cmath>

#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/peft_io.h"
#include "graft/adapters/routing.h"
#include "graft/adapters/rules.h"
#include "graft/adapters/wrappers.h"
#include "graft/autograd/checkpoint.h"
#include "graft/autograd/gradcheck.h"
#include "graft/autograd/ops.h"
#include "graft/autograd/optim.h"
#include "graft/core/autocast.h"

#include "../support/errors.h"
#include "../support/tested.h"
#include "layers.h"

namespace graft::method_table_test {
namespace {

using test::distance;
using test::expect_error;

constexpr int last[] = {-1};

struct Method {
  const char* name;
  AdapterConfig (*config)(std::int64_t r);
};

const std::vector<Method> methods = {
    {"lora",
     [](std::int64_t r) -> AdapterConfig {
       return LoraConfig{.r = r, .lora_alpha = 8, .target_modules = {"q_proj"}, .lora_dropout = 0.1};
     }},
    {"dora",
     [](std::int64_t r) -> AdapterConfig {
       return LoraConfig{.r = r, .lora_alpha = 8, .target_modules = {"q_proj"}, .lora_dropout = 0.1, .use_dora = true};
     }},
    {"qalora",
     [](std::int64_t r) -> AdapterConfig {
       return LoraConfig{.r = r, .lora_alpha = 8, .target_modules = {"q_proj"}, .lora_dropout = 0.1, .use_qalora = true};
     }},
    {"adalora",
     [](std::int64_t r) -> AdapterConfig {
       return AdaLoraConfig{
           .target_r = 1, .init_r = r, .total_step = 10, .lora_alpha = 8, .target_modules = {"q_proj"}, .lora_dropout = 0.1};
     }},
    {"oft",
     [](std::int64_t r) -> AdapterConfig {
       return OFTConfig{.oft_block_size = 4 * r, .module_dropout = 0.25, .target_modules = {"q_proj"}};
     }},
};

struct Cell {
  Method method;
  std::string format;

  bool is(const char* name) const { return std::string_view(method.name) == name; }
  bool exists() const { return !(is("qalora") && format == "dense"); }
  /// The built-in rules, and in front of them one that offers what PEFT's wrapper refuses here.
  Registry registry() const {
    auto registry = Registry::builtin();
    if (is("dora") && format != "dense") registry.prepend(rules::quantized_dora());
    if (is("qalora") && (format == "awq" || format == "eetq")) registry.prepend(rules::quantized_qalora());
    return registry;
  }
  adapters::InjectionReport add(Module& model, const std::string& name, std::int64_t r = 2, std::uint64_t seed = 0) const {
    AdapterConfig config = method.config(r);
    const bool further = !adapters::adapter_names(model).empty();  // of AdaLoRA only one can be trained
    std::visit([&](auto& c) { c.inference_mode = further; }, config);
    return adapters::inject(model, config, {.adapter_name = name, .registry = registry(), .seed = seed});
  }
};

void PrintTo(const Cell& cell, std::ostream* out) { *out << cell.method.name << " on " << cell.format; }

/// Adds noise to all parameters of an adapter, different in every layer.
void randomise(Module& model, const std::string& name, std::uint64_t seed) {
  adapters::for_each_layer(model, [&](const std::string&, AdapterLayer& layer) { test::randomise(layer, name, seed += 10); });
}

/// A model with one adapter that does something.
std::unique_ptr<test::Model> adapted(const Cell& cell) {
  auto model = std::make_unique<test::Model>(cell.format);
  cell.add(*model, "default");
  randomise(*model, "default", 100);
  return model;
}

/// Bits of all trainable tensors, one after the other.
std::vector<std::vector<float>> trained_values(Module& model) {
  std::vector<std::vector<float>> values;
  for (const auto& [name, tensor] : trainable(model)) values.push_back(tensor.to_vector<float>());
  return values;
}

double largest(const Tensor& t) { return distance(t, Tensor::zeros(t.shape(), t.dtype())); }

struct MethodTable : testing::TestWithParam<Cell> {
  const Tensor x = test::random({4, 64}, 5), target = test::random({4, 32}, 6);

  void train(test::Model& model, Optimizer& optimizer, int steps) const {
    set_training(model, true);
    for (int step = 0; step < steps; ++step) {
      mse_loss(model.forward(x), target).backward();
      optimizer.step();
      optimizer.zero_grad();
    }
  }
};

TEST_P(MethodTable, StartsAsTheBaseAndThenDiffers) {
  test::Model model(GetParam().format), bare(GetParam().format);
  GetParam().add(model, "default");
  EXPECT_EQ(distance(model.forward(x), bare.forward(x)), 0);
  randomise(model, "default", 100);
  EXPECT_GT(distance(model.forward(x), bare.forward(x)), 1e-3);
}

// ---- gradients ----

/// A module with one layer, all of whose adapter's parameters are f64.
struct WideLayer final : Module {
  Slot<LinearBase> q_proj;
  explicit WideLayer(const Cell& cell) : q_proj(test::make_base(cell.format, 64, 16, false, DType::f64)) {
    cell.add(*this, "default");
    struct Widener final : Visitor {
      void parameter(std::string_view, Tensor& tensor) override { tensor = to(tensor.detach(), DType::f64); }
    } widener;
    layer().adapter("default")->visit(widener, "default");
    test::randomise(layer(), "default", 7);
  }
  AdapterLayer& layer() const { return dynamic_cast<AdapterLayer&>(*q_proj); }
  std::string type_name() const override { return "WideLayer"; }
  void visit(Visitor& visitor) override { visitor.child("q_proj", q_proj); }

  std::vector<Tensor> parameters() const {
    std::vector<Tensor> found;
    for (const auto& [name, tensor] : layer().adapter("default")->Adapter::state("default")) found.push_back(tensor);
    return found;
  }
  void put(std::span<const Tensor> values) const {
    struct Putter final : Visitor {
      std::span<const Tensor> values;
      void parameter(std::string_view, Tensor& tensor) override { tensor = values.front(), values = values.subspan(1); }
    } putter;
    putter.values = values;
    layer().adapter("default")->visit(putter, "default");
  }
  /// Row norms [out] of W + s·B A, by the definition.
  Tensor norms() const {
    const NoGrad no_grad;
    const auto lora = std::dynamic_pointer_cast<lora::LoraAdapter>(layer().adapter("default"));
    const LinearBase& base = *layer().base_layer();
    const Tensor dense = dense_weight(base);
    const Tensor weight =
        dense.defined() ? dense : to(dynamic_cast<const quant::QuantLinear&>(base).dequantize(0, 16), lora->B.device()).to(DType::f64);
    return norm(weight + matmul(lora->B, lora->A) * lora->scaling(), last);
  }
};

TEST_P(MethodTable, GradientsAreThoseOfFiniteDifferences) {
  const WideLayer model(GetParam());
  const bool dora = GetParam().is("dora");
  std::vector<Tensor> inputs = {test::random({2, 64}, 8, DType::f64)};
  for (const Tensor& parameter : model.parameters()) inputs.push_back(parameter.detach());
  for (Tensor& input : inputs) input.set_requires_grad();
  const Tensor norms = dora ? model.norms() : Tensor();
  const auto f = [&](std::span<const Tensor> in) {
    model.put(in.subspan(1));
    const Tensor y = model.layer().forward(in[0]);
    EXPECT_EQ(y.dtype(), DType::f64);
    // DoRA's norms are constants to derivatives; without a bias the result goes with their inverse, and so they are held where
    // they were.
    return dora ? y * (model.norms() / norms) : y;
  };
  const auto result = gradcheck(f, inputs);
  EXPECT_TRUE(result) << result.message;
  EXPECT_GT(inputs.size(), 1u);
  RecordProperty("worst", fmt::format("{:.1e}", result.worst));
}

// ---- files ----

TEST_P(MethodTable, SavedAndLoadedItIsTheSameInEveryBit) {
  const test::TemporaryFolder folder;
  const auto model = adapted(GetParam());
  adapters::save_pretrained(*model, folder.path());
  test::Model other(GetParam().format);
  const auto report =
      adapters::load_pretrained(other, folder.path(), {.is_trainable = true, .registry = GetParam().registry(), .seed = 99});
  EXPECT_TRUE(report.unused.empty() && report.unfilled.empty());
  EXPECT_EQ(trained_values(other), trained_values(*model));
  EXPECT_EQ(other.forward(x).to_vector<float>(), model->forward(x).to_vector<float>());
}

// ---- choosing ----

TEST_P(MethodTable, SwitchedOffOrDeletedItIsTheBase) {
  const auto model = adapted(GetParam());
  test::Model bare(GetParam().format);
  const auto y0 = bare.forward(x).to_vector<float>(), y = model->forward(x).to_vector<float>();
  adapters::enable_adapters(*model, false);
  EXPECT_EQ(model->forward(x).to_vector<float>(), y0);
  EXPECT_TRUE(trainable(*model).empty());
  adapters::enable_adapters(*model, true);
  EXPECT_EQ(model->forward(x).to_vector<float>(), y);
  adapters::delete_adapter(*model, "default");
  EXPECT_EQ(model->forward(x).to_vector<float>(), y0);
  EXPECT_TRUE(adapters::adapter_names(*model).empty());
  adapters::unload(*model);
  EXPECT_EQ(print(*model), print(bare));
  EXPECT_EQ(model->forward(x).to_vector<float>(), y0);
}

TEST_P(MethodTable, AMixedBatchEqualsItsRowsOneByOne) {
  const auto model = adapted(GetParam());
  GetParam().add(*model, "second", 4, 1);
  randomise(*model, "second", 300);
  const std::vector<std::string> names = {"second", adapters::base_name, "default", "second"};
  const auto alone = [&](int row) {
    std::vector<std::string> chosen;
    if (names[row] != adapters::base_name) chosen.push_back(names[row]);
    const adapters::UseAdapters use(*model, chosen);
    return model->forward(slice(x, 0, row, row + 1));
  };
  const NoGrad no_grad;
  const adapters::MixedBatch mixed(*model, names);
  const Tensor y = model->forward(x);
  std::vector<Tensor> rows;
  for (int row = 0; row < 4; ++row) rows.push_back(alone(row));
  EXPECT_LT(distance(y, concat(rows, 0)), 1e-5 * largest(y));
  EXPECT_GT(distance(rows[0], rows[3]), 1e-3);

  // Rows of sequences go the same way.
  const Tensor pairs = reshape(x, {2, 2, 64});
  const adapters::MixedBatch sequences(*model, {"default", adapters::base_name});
  const Tensor z = model->forward(pairs);
  const adapters::UseAdapters use(*model, {"default"});
  EXPECT_LT(distance(slice(z, 0, 0, 1), model->forward(slice(pairs, 0, 0, 1))), 1e-5 * largest(y));
}

// ---- training ----

TEST_P(MethodTable, ResumedTrainingGivesTheSameBits) {
  const test::TemporaryFolder folder;
  const AdamWOptions options{.lr = 1e-2};
  const auto whole = adapted(GetParam()), first = adapted(GetParam());
  AdamW for_whole(trainable(*whole), options), for_first(trainable(*first), options);
  const auto start = trained_values(*whole);
  train(*whole, for_whole, 5);
  EXPECT_NE(trained_values(*whole), start);

  train(*first, for_first, 2);
  adapters::save_pretrained(*first, folder.path());
  const auto moments = for_first.state();
  test::Model second(GetParam().format);
  adapters::load_pretrained(second, folder.path(), {.is_trainable = true, .registry = GetParam().registry(), .seed = 77});
  AdamW for_second(trainable(second), options);
  for_second.load_state(moments);
  const auto from = generators(*first), into = generators(second);
  ASSERT_EQ(from.size(), into.size());
  ASSERT_GT(from.size(), 0u);
  for (std::size_t i = 0; i < from.size(); ++i) *into[i] = *from[i];
  train(second, for_second, 3);
  EXPECT_EQ(trained_values(second), trained_values(*whole));

  // The random numbers count: another stream gives another run.
  train(*first, for_first, 2);
  for (Generator* generator : generators(*first)) generator->next();
  train(*first, for_first, 1);
  EXPECT_NE(trained_values(*first), trained_values(*whole));
}

TEST_P(MethodTable, GradientCheckpointingGivesTheSameBits) {
  const auto gradients = [&](bool checkpointed) {
    const auto model = adapted(GetParam());
    set_training(*model, true);
    const auto streams = generators(*model);
    const autocast::Guard guard(test::tested_device().type, DType::bf16);
    Tensor y = checkpointed ? checkpoint([&](std::span<const Tensor> in) { return model->forward(in[0]); }, {&x, 1}, streams)
                            : model->forward(x);
    for (Generator* stream : streams) stream->next();  // others draw between forward and backward
    {
      const autocast::Guard off(test::tested_device().type, std::nullopt);
      mse_loss(to(y, DType::f32), target).backward();
    }
    std::vector<std::vector<float>> found = {y.to_vector<float>()};
    for (const auto& [name, tensor] : trainable(*model)) found.push_back(tensor.grad().to_vector<float>());
    return found;
  };
  EXPECT_EQ(gradients(true), gradients(false));
}

TEST_P(MethodTable, GradientCheckpointingRemembersTheChoiceOfAdapters) {
  const auto gradients = [&](bool checkpointed) {
    const auto model = adapted(GetParam());
    GetParam().add(*model, "second", 4, 1);
    randomise(*model, "second", 300);
    Tensor input = x.clone(), y;
    input.set_requires_grad();
    const auto forward = [&](std::span<const Tensor> in) { return model->forward(in[0]); };
    {
      const adapters::UseAdapters use(*model, {"second"});
      y = checkpointed ? checkpoint(forward, {&input, 1}) : model->forward(input);
    }
    {
      const adapters::UseAdapters others(*model, {"default"});
      mse_loss(y, target).backward();
    }
    return std::pair(y.to_vector<float>(), input.grad().to_vector<float>());
  };
  EXPECT_EQ(gradients(true), gradients(false));
}

// ---- half precision ----

TEST_P(MethodTable, AutocastAndHalfInputsStayClose) {
  const auto model = adapted(GetParam());
  const test::Model bare(GetParam().format);
  const Tensor& input = x;
  const LinearBase &layer = *model->layers[0]->q_proj, &base = *bare.layers[0]->q_proj;
  const Tensor y = layer.forward(input);
  const double close = 0.03 * largest(y);
  // A dense OFT layer gives back the dtype that it got, as PEFT's does; the others what their base gives.
  const bool gives_back = GetParam().is("oft") && GetParam().format == "dense";
  for (const DType half : {DType::bf16, DType::f16}) {
    const Tensor y_half = layer.forward(to(input, half));
    EXPECT_EQ(y_half.dtype(), gives_back ? half : base.forward(to(input, half)).dtype());
    EXPECT_LT(distance(to(y_half, DType::f32), y), close);
    const autocast::Guard guard(test::tested_device().type, half);
    const Tensor lowered = layer.forward(input);
    EXPECT_EQ(lowered.dtype(), gives_back ? DType::f32 : half);
    EXPECT_EQ(base.forward(input).dtype(), half);
    EXPECT_LT(distance(to(lowered, DType::f32), y), close);
    EXPECT_GT(distance(to(lowered, DType::f32), y), 0);
    // Backward reaches the parameters in their own dtype.
    sum(lowered).backward();
    for (const auto& [name, tensor] : trainable(const_cast<LinearBase&>(layer))) {
      ASSERT_TRUE(tensor.grad().defined()) << name;
      EXPECT_EQ(tensor.grad().dtype(), DType::f32) << name;
    }
  }
}

// ---- the cells ----

std::vector<Cell> cells(bool existing) {
  std::vector<Cell> found;
  for (const Method& method : methods)
    for (const auto& format : test::formats)
      if (const Cell cell{method, format}; cell.exists() == existing) found.push_back(cell);
  return found;
}

INSTANTIATE_TEST_SUITE_P(Cells, MethodTable, testing::ValuesIn(cells(true)),
                         [](const auto& info) { return std::string(info.param.method.name) + "_" + info.param.format; });

TEST(MethodTableAsAWhole, NineteenCellsRunAndOneIsRefused) {
  std::string table = fmt::format("{:8}", "");
  for (const auto& format : test::formats) table += fmt::format("  {:22}", format);
  int running = 0;
  for (const Method& method : methods) {
    table += fmt::format("\n{:8}", method.name);
    for (const auto& format : test::formats) {
      const Cell cell{method, format};
      test::Model model(format);
      std::string layer = "refused";
      if (cell.exists()) {
        const auto report = cell.add(model, "default");
        layer = report.targets.front().layer;
        EXPECT_EQ(trainable(model).empty(), false);
        ++running;
      } else {
        expect_error<ValueError>([&] { cell.add(model, "default"); },
                                 "lora.Linear does not support QA-LoRA: set use_qalora to false");
        EXPECT_TRUE(adapters::adapter_names(model).empty());
      }
      table += fmt::format("  {:22}", layer);
    }
  }
  EXPECT_EQ(running, 19);
  fmt::print("{}\n", table);
}

}  // namespace
}  // namespace graft::method_table_test
