#include "graft/adapters/qalora_merge.h"

#include <gtest/gtest.h>

#include <cstring>

#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/rules.h"
#include "graft/adapters/warning.h"
#include "graft/autograd/ops.h"
#include "graft/quant/pack_checkpoint.h"
#include "graft/quant/round_to_nearest.h"

#include "../support/errors.h"
#include "../support/tested.h"
#include "layers.h"

namespace graft::adapters::qalora_merge_test {
namespace {

using test::distance;
using test::expect_error;

const Tensor x = test::random({5, 64}, 5);

double largest(const Tensor& t) { return distance(t, Tensor::zeros(t.shape())); }

struct Box final : Module {
  Slot<LinearBase> linear;
  explicit Box(std::shared_ptr<LinearBase> layer) : linear(std::move(layer)) {}
  std::string type_name() const override { return "Box"; }
  void visit(Visitor& visitor) override { visitor.child("linear", linear); }
};

/// A layer of one format; "act-order" is GPTQ with groups of channels that do not run in order.
std::shared_ptr<LinearBase> base_of(const std::string& format) {
  if (format != "act-order") return test::make_base(format, 64, 32, true);
  const auto here = [](const Tensor& drawn) { return to(drawn, Device::cpu()); };
  auto q = quant::round_to_nearest(here(test::random({32, 64}, 11, DType::f32, 0.1)), {.bits = 4, .group_size = 32, .sym = true});
  for (std::int64_t k = 0; k < 64; ++k) q.g_idx.data<std::int32_t>()[k] = static_cast<std::int32_t>(k * 5 % 64 / 32);
  auto layer = quant::make_layer(quant::to_stored(q, "gptq", here(test::random({32}, 12))));
  to(*layer, test::tested_device());
  return layer;
}

/// A model of one such layer with a QA-LoRA adapter, which does something unless it is fresh.
std::unique_ptr<Box> adapted(const std::string& format, std::int64_t pool = 16, QALoraScale scale = QALoraScale::peft,
                             bool fresh = false) {
  auto model = std::make_unique<Box>(base_of(format));
  auto registry = Registry::builtin();
  registry.prepend(rules::quantized_qalora());
  inject(*model,
         LoraConfig{.r = 4, .target_modules = {"linear"}, .use_qalora = true, .qalora_group_size = pool, .qalora_scale = scale},
         {.registry = registry});
  if (!fresh) test::randomise(dynamic_cast<AdapterLayer&>(*model->linear), "default", 1);
  return model;
}

std::shared_ptr<quant::QuantLinear> quantized(const Box& model) {
  auto layer = model.linear.pointer();
  if (const auto wrapped = std::dynamic_pointer_cast<AdapterLayer>(layer)) layer = wrapped->base_layer();
  return std::dynamic_pointer_cast<quant::QuantLinear>(layer);
}
Tensor shift_of(const Box& model) {
  return std::dynamic_pointer_cast<lora::QALoraLinearVariant>(dynamic_cast<AdapterLayer&>(*model.linear).adapter("default"))
      ->group_delta();
}

class QALoraMerge : public testing::TestWithParam<std::string> {};

TEST_P(QALoraMerge, ComputesWhatTheAdapterDid) {
  for (const QALoraScale scale : {QALoraScale::peft, QALoraScale::paper, QALoraScale::authors}) {
    for (const std::int64_t pool : {8, 16, 32, 64}) {
      SCOPED_TRACE(fmt::format("scale {}, pools of {}", static_cast<int>(scale), pool));
      const auto model = adapted(GetParam(), pool, scale);
      const Tensor y = model->linear->forward(x), y0 = quantized(*model)->forward(x);
      EXPECT_GT(distance(y, y0), 1e-3 * largest(y));
      merge_qalora(*model);
      EXPECT_EQ(model->linear->type_name(), "QuantLinear");
      EXPECT_LT(distance(model->linear->forward(x), y), 1e-5 * largest(y));
    }
  }
}

TEST_P(QALoraMerge, AZeroAdapterChangesNoByte) {
  const auto model = adapted(GetParam(), 16, QALoraScale::peft, true);
  const auto before = quantized(*model);
  std::map<std::string, std::vector<unsigned char>> bytes;
  const auto bytes_of = [](const Tensor& t) {
    const auto* data = static_cast<const unsigned char*>(t.view().data);
    return std::vector<unsigned char>(data, data + t.count() * size_of(t.dtype()));
  };
  for (const auto& [name, tensor] : before->original()) bytes[name] = bytes_of(tensor);
  merge_qalora(*model);
  EXPECT_EQ(model->linear.pointer(), before);
  for (const auto& [name, tensor] : quantized(*model)->original()) EXPECT_EQ(bytes_of(tensor), bytes.at(name)) << name;
}

TEST_P(QALoraMerge, ShiftsInAFileMakeTheMergedModel) {
  const test::TemporaryFolder folder;
  const auto model = adapted(GetParam());
  save_zero_shifts(*model, folder.path() + "/shifts.safetensors");
  merge_qalora(*model);
  Box other(base_of(GetParam()));
  load_zero_shifts(other, folder.path() + "/shifts.safetensors");
  EXPECT_EQ(other.linear->forward(x).to_vector<float>(), model->linear->forward(x).to_vector<float>());

  test::Model another;
  expect_error<ValueError>([&] { load_zero_shifts(another, folder.path() + "/shifts.safetensors"); },
                           "the model has no layer linear");
  Box dense(test::make_base("dense", 64, 32));
  expect_error<ValueError>([&] { load_zero_shifts(dense, folder.path() + "/shifts.safetensors"); },
                           "linear: zero points can be shifted in a quantized layer, and this is a Linear");
  expect_error<FileError>([&] { load_zero_shifts(other, folder.path() + "/nowhere"); }, "nowhere");
}

INSTANTIATE_TEST_SUITE_P(Formats, QALoraMerge, testing::Values("gptq", "act-order", "awq", "eetq"),
                         [](const auto& info) { return info.param == "act-order" ? "act_order" : info.param; });

TEST(QALoraMergeModel, OtherAdaptersStay) {
  test::Model model("gptq");
  inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj", "v_proj"}, .init_lora_weights = false}, {.adapter_name = "lora"});
  inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}, .init_lora_weights = false, .use_qalora = true},
         {.adapter_name = "qa"});
  set_adapter(model, {"lora", "qa"});
  const Tensor input = test::random({3, 64}, 5), y = model.forward(input);
  expect_error<ValueError>([&] { merge_qalora(model, "lora"); },
                           "adapter 'lora' is of method lora; only QA-LoRA can be merged into zero points");
  expect_error<ValueError>([&] { merge_qalora(model, "nobody"); }, "no layer has a QA-LoRA adapter 'nobody'");
  EXPECT_EQ(distance(model.forward(input), y), 0);
  merge_qalora(model, "qa");
  EXPECT_EQ(adapter_names(model), std::vector<std::string>{"lora"});
  EXPECT_LT(distance(model.forward(input), y), 1e-5 * largest(y));
}

TEST(QALoraMergeModel, WhatWaitsGoesOnWaiting) {
  test::Model model("gptq");
  inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}, .init_lora_weights = false, .use_qalora = true},
         {.adapter_name = "qa"});
  inject(model, LoraConfig{.r = 2, .target_modules = {"q_proj"}, .init_lora_weights = false}, {.adapter_name = "lora"});
  const Tensor input = test::random({3, 64}, 5), y = model.forward(input);
  const WarningScope warnings;
  merge_qalora(model, "qa");
  EXPECT_LT(distance(model.forward(input), y), 1e-5 * largest(y));
  EXPECT_TRUE(warnings.messages().empty());
}

TEST(QALoraMergeModel, TrainedBiasesStayInPlace) {
  const LoraConfig config{
      .r = 2, .target_modules = {"q_proj"}, .bias = "lora_only", .init_lora_weights = false, .use_qalora = true};
  test::Model model("gptq", true);
  inject(model, config);
  for (const auto& [name, tensor] : trainable(model))
    if (name.ends_with("bias")) tensor.fill_(0.5);
  const Tensor input = test::random({3, 64}, 5), y = model.forward(input);
  enable_adapters(model, false);
  expect_error<ValueError>([&] { merge_qalora(model); }, "which are not in place; activate it before it is merged");
  enable_adapters(model, true);
  const test::TemporaryFolder folder;
  expect_error<ValueError>([&] { save_zero_shifts(model, folder.path() + "/shifts"); },
                           "for which a file of shifts has no place");
  merge_qalora(model);
  EXPECT_LT(distance(model.forward(input), y), 1e-5 * largest(y));
}

TEST(QALoraMergeModel, ASecondMergeIsRefusedAndChangesNothing) {
  const LoraConfig config{.r = 2, .target_modules = {"q_proj"}, .init_lora_weights = false, .use_qalora = true};
  test::Model model("gptq");
  inject(model, config);
  merge_qalora(model);
  inject(model, config, {.adapter_name = "second", .seed = 1});
  const Tensor input = test::random({3, 64}, 5), y = model.forward(input);
  expect_error<AttributeError>(
      [&] { merge_qalora(model, "second"); },
      "the zero points of this layer were shifted before and are fractions now; a second adapter cannot");
  EXPECT_EQ(adapter_names(model), std::vector<std::string>{"second"});
  EXPECT_EQ(distance(model.forward(input), y), 0);
}

/// One number per output and group of neighbours as a change of every weight.
Tensor per_weight(const Tensor& shift, std::int64_t in) {
  const std::int64_t out = shift.dim(0), groups = shift.dim(1);
  return reshape(expand(unsqueeze(shift, 2), {out, groups, in / groups}), {out, in});
}

TEST(ZeroShift, GroupsNeedNotNest) {
  // Groups of 32 beside pooling groups of 48, 24 and 1, which share their limits every 16, 8 and 1 channels.
  for (const char* format : {"gptq", "awq", "eetq"}) {
    const auto layer = std::dynamic_pointer_cast<quant::QuantLinear>(test::make_base(format, 96, 32, true));
    for (const std::int64_t groups : {2, 4, 96}) {
      SCOPED_TRACE(fmt::format("{}, {} pooling groups", format, groups));
      const Tensor shift = test::random({32, groups}, 3), input = test::random({5, 96}, 5);
      const auto merged = with_shifted_zeros(layer, shift);
      const Tensor change = per_weight(shift, 96), wanted = layer->dequantize(0, 32) + to(change, Device::cpu());
      EXPECT_LT(distance(merged->dequantize(0, 32), wanted), 1e-6 * largest(wanted));
      const Tensor y = layer->forward(input) + matmul(input, change.t());
      EXPECT_LT(distance(merged->forward(input), y), 1e-5 * largest(y));
    }
  }
}

TEST(ZeroShift, AScaleOfZeroDoesNoHarm) {
  for (const char* format : {"gptq", "awq", "eetq"}) {
    SCOPED_TRACE(format);
    const auto made = quantized(Box(base_of(format)));
    quant::Stored stored{.module = format, .description = made->format(), .in = 64, .out = 32, .tensors = {}};
    for (const auto& [name, tensor] : made->original()) {
      stored.tensors[name] = tensor.clone();
      if (name.ends_with("scales")) slice(stored.tensors[name], -1, 0, 8).fill_(0);
    }
    const auto layer = quant::make_layer(stored);
    EXPECT_EQ(largest(layer->dequantize(0, 8)), 0);
    const Tensor shift = to(test::random({32, 4}, 3), Device::cpu()), change = per_weight(shift, 64);
    const Tensor got = with_shifted_zeros(layer, shift)->dequantize(0, 32), wanted = layer->dequantize(0, 32) + change;
    EXPECT_LT(distance(got, wanted), 1e-6 * largest(wanted));
    EXPECT_EQ(distance(slice(got, 0, 0, 8), slice(change, 0, 0, 8)), 0);
  }
}

TEST(ZeroShift, AFileIsForTheBaseThatItWasSavedOver) {
  const test::TemporaryFolder folder;
  const std::string file = folder.path() + "/shifts.safetensors";
  const auto model = adapted("gptq");
  save_zero_shifts(*model, file);
  merge_qalora(*model);
  const Tensor y = model->linear->forward(x);
  // The merged model itself is another base by now, and so is one in another format.
  Box other(base_of("awq"));
  for (Box* wrong : {&other, model.get()}) {
    const Tensor before = wrong->linear->forward(x);
    expect_error<ValueError>([&] { load_zero_shifts(*wrong, file); }, "the shifts were saved over another base");
    EXPECT_EQ(distance(wrong->linear->forward(x), before), 0);
  }
  const WarningScope warnings;
  load_zero_shifts(other, file, false);
  ASSERT_EQ(warnings.messages().size(), 1u);
  EXPECT_NE(warnings.messages()[0].find("the shifts were saved over another base"), std::string::npos);
  EXPECT_GT(distance(other.linear->forward(x), Box(base_of("awq")).linear->forward(x)), 0);
  Box same(base_of("gptq"));
  load_zero_shifts(same, file);
  EXPECT_EQ(distance(same.linear->forward(x), y), 0);
}

TEST(ZeroShift, RefusesShiftsThatDoNotFit) {
  const auto layer = quantized(Box(base_of("gptq")));
  expect_error<TypeError>([&] { with_shifted_zeros(layer, {}); }, "must be a floating tensor");
  expect_error<TypeError>([&] { with_shifted_zeros(layer, Tensor::zeros({32, 4}, DType::i32)); }, "must be a floating tensor");
  expect_error<ValueError>(
      [&] {
        with_shifted_zeros(layer, Tensor::zeros({31, 4}));
      },
      "has the shape [31, 4]; wanted [32, a divisor of 64]");
  expect_error<ValueError>([&] { with_shifted_zeros(layer, Tensor::zeros({32, 5})); }, "has the shape [32, 5]");
  expect_error<ValueError>([&] { with_shifted_zeros(layer, Tensor::full({32, 4}, NAN)); }, "is not finite");
  const auto merged = with_shifted_zeros(layer, Tensor::ones({32, 4}));
  expect_error<AttributeError>(
      [&] {
        with_shifted_zeros(merged, Tensor::ones({32, 4}));
      },
      "the zero points of this layer were shifted before");
  const quant::QuantLinear bare(layer->format(), std::shared_ptr<const quant::Packed>(layer, &layer->packed()));
  expect_error<AttributeError>([&] { export_packed(bare, Tensor::zeros({32, 2})); }, "was not made from stored tensors");
}

// ---- packed integers ----

TEST(PackedExport, ReportsHowFarTheIntegersAreOff) {
  for (const char* format : {"gptq", "awq"}) {
    for (const std::int64_t pool : {32, 64}) {
      SCOPED_TRACE(fmt::format("{}, pools of {}", format, pool));
      const auto model = adapted(format, pool, QALoraScale::authors);
      const auto layer = quantized(*model);
      const Tensor shift = shift_of(*model);
      const auto exported = export_packed(*layer, shift);
      const Tensor wanted = with_shifted_zeros(layer, shift)->dequantize(0, 32),
                   got = quant::make_layer(exported.layer)->dequantize(0, 32);
      EXPECT_NEAR(exported.worst_error, distance(got, wanted) / largest(wanted), 1e-6);
      EXPECT_GT(exported.worst_error, 0);
      if (exported.clipped == 0) {
        // Half a step of the integers at most.
        double step = 0;
        for (const auto& [name, tensor] : layer->original())
          if (name == "scales") step = largest(to(tensor, DType::f32));
        EXPECT_LE(exported.worst_error * largest(wanted), step / 2 * 1.001);
      }
    }
  }
}

TEST(PackedExport, WholeStepsAreExactAndZeroShiftsGiveTheLayer) {
  const auto layer = quantized(Box(base_of("awq")));
  EXPECT_EQ(export_packed(*layer, Tensor::zeros({32, 2})).worst_error, 0);
  Tensor scales;
  for (const auto& [name, tensor] : layer->original())
    if (name == "scales") scales = to(tensor, DType::f32);  // [groups, out]
  // One step up and one down: a zero point at an end of its range can go one way only.
  const auto up = export_packed(*layer, contiguous(scales.t() * -1)), down = export_packed(*layer, contiguous(scales.t()));
  for (const auto& exported : {up, down}) EXPECT_EQ(exported.worst_error < 1e-6, exported.clipped == 0) << exported.worst_error;
  EXPECT_EQ(std::min(up.clipped, down.clipped), 0);
  const auto far = export_packed(*layer, contiguous(scales.t() * 40));
  EXPECT_EQ(far.clipped, 64) << "no zero point can move by 40 of 16 steps";
  EXPECT_GT(far.worst_error, 0.3);
}

TEST(PackedExport, RefusesWhatIntegersCannotHold) {
  expect_error<ValueError>(
      [] {
        export_packed(*quantized(Box(base_of("eetq"))), Tensor::zeros({32, 2}));
      },
      "a layer of format eetq has no integer zero points");
  expect_error<ValueError>(
      [] {
        export_packed(*quantized(Box(base_of("act-order"))), Tensor::zeros({32, 2}));
      },
      "are not in order (act-order)");
  expect_error<ValueError>(
      [] {
        export_packed(*quantized(Box(base_of("gptq"))), Tensor::zeros({32, 4}));
      },
      "the pooling groups of 16 channels");
}

}  // namespace
}  // namespace graft::adapters::qalora_merge_test
