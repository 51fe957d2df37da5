// Single wrappers: results and gradients of the Python original, beside the truth in f64.
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "graft/adapters/combine.h"
#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/rank_allocator.h"
#include "graft/adapters/wrappers.h"
#include "graft/autograd/ops.h"
#include "graft/autograd/optim.h"
#include "graft/core/autocast.h"
#include "graft/tests/support/tested.h"

#include "layer_case.h"

namespace golden {
namespace {

using graft::AdapterLayer;
using graft::DType;
using graft::Tensor;

/// f32 tensors: within 1e-5 of the truth. Wherever half precision is involved: half_tolerance.
void expect_as_good(const Tensors& tensors, const std::string& name, const Tensor& got, const std::string& original, bool half) {
  ASSERT_TRUE(got.defined()) << name;
  const Tensor theirs = tensors[original + name], truth = tensors["truth." + name];
  EXPECT_EQ(got.dtype(), theirs.dtype()) << name;
  if (!half) return expect_close(got, truth, 1e-5, name);
  const double own = half_tolerance(theirs, truth);
  expect_close(got, truth, theirs.dtype() == DType::f32 ? std::max(own, 1e-5) : own, name);
}

/// Forward and backward once, compared tensor by tensor; `original` is "" or "today.".
void run_once(const Tensors& tensors, AdapterLayer& layer, const std::string& original, const Json& exact) {
  const Json& info = tensors.info();
  const bool autocast = !info.at("autocast").is_null();
  const bool half = autocast || dtype_of(info.at("x_dtype")) != DType::f32 || dtype_of(info.at("adapter_dtype")) != DType::f32;
  Tensor x = tensors.copy("x");
  x.set_requires_grad();
  Tensor y;
  {
    const graft::autocast::Guard guard(graft::test::tested_device().type,
                                       autocast ? std::optional(dtype_of(info.at("autocast"))) : std::nullopt);
    y = layer.forward(x);
  }
  EXPECT_EQ(y.dtype(), tensors[original + "y"].dtype());
  y.backward(tensors.copy("dy"));
  std::map<std::string, Tensor> got = {{"y", y.detach()}, {"dx", x.grad()}};
  for (const auto& [name, tensor] : parameters(layer)) {
    const bool used = tensors.has("grad." + name);
    if (used) got["grad." + name] = tensor->grad();
    else EXPECT_FALSE(tensor->grad().defined()) << name << " has a gradient, and in the original it has none";
  }
  for (const auto& [name, tensor] : got) {
    SCOPED_TRACE(name);
    if (std::find(exact.begin(), exact.end(), name) != exact.end()) expect_same_bits(tensor, tensors[original + name], name);
    else expect_as_good(tensors, name, tensor, original, half);
  }
  for (const auto& [name, tensor] : parameters(layer))
    if (tensors.has("projected." + name)) expect_close(*tensor, tensors["projected." + name], 1e-6, "projected." + name);
}

void check_merging(const Tensors& tensors, const std::string& which, bool safe) {
  const auto layer = wrapped_layer(tensors);
  const Tensor weight = layer->base_layer()->weight(), before = weight.clone(), x = tensors.copy("x");
  const graft::NoGrad no_grad;
  const bool half = weight.dtype() != DType::f32;
  const double tolerance = half ? 2 * unit(before, weight.dtype()) : 1e-5;
  // The original merges two rotations in the reverse of the order in which it applies them; here both orders are the same.
  const bool reversed = tensors.info().at("method") == "oft" && tensors.info().at("active").size() > 1;
  layer->merge(safe);
  if (reversed) {
    expect_close(layer->forward(x), tensors["truth.y"], 1e-5, "result of two merged rotations");
  } else {
    expect_close(weight, tensors[which + ".weight"], tolerance, which + ".weight");
    if (!half) expect_close(layer->forward(x), tensors[which + ".y"], 1e-5, which + ".y");
    else expect_close(layer->forward(x), tensors[which + ".y"], 2 * unit(tensors[which + ".y"], weight.dtype()), which + ".y");
    if (tensors.has(which + ".bias")) expect_close(layer->bias(), tensors[which + ".bias"], 1e-6, which + ".bias");
  }
  layer->unmerge();
  if (!reversed) expect_close(weight, tensors["un" + which + ".weight"], tolerance, "un" + which + ".weight");
  expect_close(weight, before, half ? 2 * unit(before, weight.dtype()) : 1e-5, "weight after merging and unmerging");
}

void check_layer(const Tensors& tensors) {
  const Json& info = tensors.info();
  bool coft = false;
  for (const Json& a : info.at("adapters")) coft = coft || a.value("coft", false);
  for (const bool today : {false, true}) {
    if (today && !tensors.has("today.y")) continue;
    SCOPED_TRACE(today ? "with the casts of PEFT 0.21" : "with the casts of PEFT 0.18");
    const auto layer = wrapped_layer(tensors, today);
    layer->set_training(coft);  // only a training pass writes the projection back
    const Json& exact = today ? info.at("today").value("bit_exact", Json::array()) : info.value("bit_exact", Json::array());
    run_once(tensors, *layer, today ? "today." : "", exact);
    // A pass for inference gives the same result and leaves the parameters alone.
    if (!coft) continue;
    const auto other = wrapped_layer(tensors, today);
    expect_close(other->forward(tensors.copy("x")), tensors["truth.y"], 1e-5, "inference with COFT");
    for (const auto& [name, tensor] : parameters(*other)) expect_same_bits(tensor->detach(), tensors["adapter." + name], name);
  }
  if (tensors.has("merged.weight")) check_merging(tensors, "merged", false);
  if (tensors.has("merged.weight")) check_merging(tensors, tensors.has("merged_safe.weight") ? "merged_safe" : "merged", true);
}

/// A model around one layer.
struct OneLayer final : graft::Module {
  graft::Slot<graft::LinearBase> lin;
  explicit OneLayer(std::shared_ptr<graft::LinearBase> layer) : lin(std::move(layer)) {}
  std::string type_name() const override { return "Box"; }
  void visit(graft::Visitor& visitor) override { visitor.child("lin", lin); }
};

void check_weighted(const Tensors& tensors) {
  const Json& info = tensors.info();
  const auto layer = wrapped_layer(tensors);
  OneLayer model(layer);
  std::vector<std::string> names;
  for (const Json& a : info.at("adapters")) names.push_back(a.at("name"));
  graft::adapters::CombineOptions options{.combination_type = info.at("combination"), .as_peft = true};
  if (!info.at("density").is_null()) options.density = info.at("density");
  graft::adapters::add_weighted_adapter(model, names, info.at("weights"), "mixed", options);
  const auto mixed = std::dynamic_pointer_cast<graft::lora::LoraAdapter>(layer->adapter("mixed"));
  EXPECT_EQ(mixed->r(), info.at("combined").at("r").get<std::int64_t>());
  EXPECT_EQ(mixed->scaling(), info.at("combined").at("scaling").get<double>());
  expect_close(mixed->delta_weight(), tensors["combined.delta"], 1e-5, "combined.delta");
  if (tensors.has("truth.combined.delta"))
    expect_close(mixed->delta_weight(), tensors["truth.combined.delta"], 1e-5, "truth.combined.delta");
}

void check_init(const Tensors& tensors) {
  const auto base = base_layer(tensors);
  const Json& a = tensors.info().at("adapters").at(0);
  const graft::lora::Linear layer(
      base, "default",
      {.r = a.at("r"), .lora_alpha = a.at("lora_alpha"), .init_lora_weights = a.at("init_lora_weights").get<std::string>()});
  const auto adapter = std::dynamic_pointer_cast<graft::lora::LoraAdapter>(layer.adapter("default"));
  EXPECT_EQ(adapter->scaling(), tensors.info().at("scaling").get<double>());
  const Tensor product = graft::matmul(adapter->B.detach(), adapter->A.detach());
  expect_close_absolute(product, tensors["truth.product"], 1e-5, "product");
  expect_close(base->weight(), tensors["truth.residual.weight"], 1e-5, "residual.weight");
}

// ---- AdaLoRA as a whole ----

/// Linear, ReLU, Linear, …, with a mean squared error.
struct Net final : graft::Module {
  std::vector<graft::Slot<graft::LinearBase>> lin;
  std::string type_name() const override { return "Net"; }
  void visit(graft::Visitor& visitor) override {
    for (std::size_t i = 0; i < lin.size(); ++i) visitor.child("lin." + std::to_string(i), lin[i]);
  }
  Tensor loss(Tensor x, const Tensor& target) const {
    for (std::size_t i = 0; i < lin.size(); ++i) x = lin[i]->forward(i ? graft::relu(x) : x);
    return graft::mse_loss(x, target);
  }
};

std::string spelled(const std::string& prefix, std::size_t i, const char* what) {
  return fmt::format("{}.lin.{}.{}", prefix, i, what);
}

/// The network of a case with its adapters, whose parameters are under `prefix`.
Net net(const Tensors& tensors, const std::string& prefix) {
  Net net;
  const Json& c = tensors.info().at("adapter_config");
  const std::size_t layers = tensors.info().at("sizes").size() - 1;
  for (std::size_t i = 0; i < layers; ++i)
    net.lin.emplace_back(std::make_shared<graft::Linear>(tensors.copy(spelled(prefix, i, "base_layer.weight")),
                                                         tensors.copy(spelled(prefix, i, "base_layer.bias"))));
  graft::AdaLoraConfig config{
      .target_r = c.at("target_r"), .init_r = c.at("init_r"), .tinit = c.at("tinit"), .tfinal = c.at("tfinal")};
  config.deltaT = c.at("deltaT");
  config.beta1 = c.at("beta1");
  config.beta2 = c.at("beta2");
  config.orth_reg_weight = c.at("orth_reg_weight");
  config.total_step = c.at("total_step");
  config.lora_alpha = c.at("lora_alpha");
  config.target_modules = ".*[0-9]";
  graft::adapters::inject(net, config);
  for (auto& [name, tensor] : graft::trainable(net)) tensor.copy_(tensors[prefix + "." + name]);
  return net;
}

void check_regulariser(const Tensors& tensors) {
  Net model = net(tensors, "param");
  const Tensor plain = model.loss(tensors.copy("x"), tensors.copy("target"));
  expect_close(plain.detach().reshape({1}), tensors["loss_plain"], 1e-12, "loss without regulariser");
  const Tensor regulariser = graft::adalora::orthogonal_regulariser(model);
  expect_close(regulariser.detach().reshape({1}), tensors["truth.regulariser"], 1e-12, "regulariser");
  const Tensor loss = plain + regulariser;
  expect_close(loss.detach().reshape({1}), tensors["loss"], 1e-12, "loss");
  loss.backward();
  for (const auto& [name, tensor] : graft::trainable(model))
    expect_close(tensor.grad(), tensors["grad." + name], 1e-9, "grad." + name);
}

Tensor row(const Tensor& table, std::int64_t i) { return graft::squeeze(graft::slice(table, 0, i, i + 1), 0); }

/// What the latest masking kept, under the names of the parameters; null before the first.
Json rank_pattern(Net& model) {
  Json pattern;
  graft::adapters::for_each_layer(model, [&](const std::string& path, AdapterLayer& layer) {
    const auto& kept = dynamic_cast<const graft::adalora::AdaLoraAdapter&>(*layer.adapter("default")).kept();
    if (!kept.empty()) pattern[path + ".lora_E.default"] = kept;
  });
  return pattern;
}

/// How many directions a pattern keeps; -1 for none.
std::int64_t directions_kept(const Json& pattern) {
  std::int64_t count = pattern.is_null() ? -1 : 0;
  for (const Json& layer : pattern) count += std::count(layer.begin(), layer.end(), Json(true));
  return count;
}

void check_allocator(const Tensors& tensors) {
  const Json& info = tensors.info();
  Net model = net(tensors, "initial");
  graft::adalora::RankAllocator allocator(model);
  const Json& o = info.at("optimizer_config");
  std::unique_ptr<graft::Optimizer> optimizer;
  if (info.at("optimizer") == "sgd")
    optimizer =
        std::make_unique<graft::SGD>(graft::trainable(model), graft::SGDOptions{.lr = o.at("lr"), .momentum = o.at("momentum")});
  else
    optimizer =
        std::make_unique<graft::AdamW>(graft::trainable(model), graft::AdamWOptions{.lr = o.at("lr"),
                                                                                    .beta1 = o.at("betas").at(0),
                                                                                    .beta2 = o.at("betas").at(1),
                                                                                    .eps = o.at("eps"),
                                                                                    .weight_decay = o.at("weight_decay")});
  std::map<std::string, Tensor> named;
  for (const auto& [name, tensor] : graft::trainable(model)) named.emplace(name, tensor);
  const auto expect_E = [&](const std::string& when, std::int64_t step) {
    for (const auto& [name, tensor] : named)
      if (tensors.has("step." + when + "." + name))
        expect_close(tensor.detach(), row(tensors["step." + when + "." + name], step), 1e-9,
                     fmt::format("{} {} at step {}", when, name, step));
  };
  const auto losses = tensors["step.loss"].to_vector<double>(), thresholds = tensors["step.threshold"].to_vector<double>();
  const auto masked = tensors["step.masked"].to_vector<std::int64_t>();
  const auto budgets = tensors["step.budget"].to_vector<std::int64_t>(), kept = tensors["step.kept"].to_vector<std::int64_t>();
  const std::int64_t final_step =
      info.at("adapter_config").at("total_step").get<int>() - info.at("adapter_config").at("tfinal").get<int>();

  for (std::int64_t step = 0; step < static_cast<std::int64_t>(losses.size()); ++step) {
    SCOPED_TRACE(fmt::format("step {}", step));
    const Tensor loss =
        model.loss(row(tensors.copy("x"), step), row(tensors.copy("target"), step)) + graft::adalora::orthogonal_regulariser(model);
    EXPECT_NEAR(loss.item(), losses[step], 1e-9 * losses[step]);
    loss.backward();
    optimizer->step();
    expect_E("before_allocation", step);
    EXPECT_EQ(allocator.schedule(step).ranks, budgets[step]);
    const double threshold = allocator.update_and_allocate(step);
    if (std::isnan(thresholds[step])) EXPECT_TRUE(std::isnan(threshold));
    else EXPECT_NEAR(threshold, thresholds[step], 1e-9 * std::abs(thresholds[step]));
    if (step < final_step) {
      for (const auto& [name, i] : allocator.importance()) {
        expect_close(i.ipt, row(tensors["step.ipt." + name], step), 1e-9, "ipt " + name);
        expect_close(i.exp_avg_ipt, row(tensors["step.exp_avg_ipt." + name], step), 1e-9, "exp_avg_ipt " + name);
        expect_close(i.exp_avg_unc, row(tensors["step.exp_avg_unc." + name], step), 1e-9, "exp_avg_unc " + name);
      }
    } else {
      EXPECT_TRUE(allocator.importance().empty());
    }
    expect_E("after_allocation", step);
    EXPECT_EQ(!std::isnan(threshold), masked[step] != 0);
    const Json pattern = rank_pattern(model);
    EXPECT_EQ(directions_kept(pattern), kept[step]);
    EXPECT_EQ(pattern, info.at("rank_pattern_by_step").at(step));
    optimizer->zero_grad();
  }
  for (const auto& [name, tensor] : named) expect_close(tensor.detach(), tensors["final." + name], 1e-9, "final." + name);

  EXPECT_EQ(rank_pattern(model), info.at("rank_pattern"));

  std::map<std::string, Tensor> saved;
  graft::adapters::for_each_layer(model, [&](const std::string& path, AdapterLayer& layer) {
    for (const auto& [name, tensor] : layer.adapter("default")->state("default"))
      saved.emplace(fmt::format("saved.base_model.model.{}.{}", path, name.substr(0, name.rfind('.'))), tensor);
    graft::AdapterConfig config = layer.record("default")->config;
    layer.adapter("default")->describe(config, path, "default");
    const auto& [key, pattern] = std::get<graft::AdaLoraConfig>(config).rank_pattern.at(0);
    EXPECT_EQ(Json(pattern), info.at("rank_pattern_saved").at(key));
  });
  for (const auto& [name, entry] : tensors.file().entries()) {
    if (!name.starts_with("saved.")) continue;
    ASSERT_TRUE(saved.count(name)) << name;
    expect_close(saved.at(name).detach(), tensors[name], 1e-9, name);
    saved.erase(name);
  }
  for (const auto& [name, tensor] : saved) ADD_FAILURE() << name << " is saved here, and not by the original";
}

}  // namespace

void check_layers_case(const Case& golden_case) {
  const Tensors tensors(golden_case.path);
  const std::string run = tensors.info().value("run", "");
  if (run == "") return check_layer(tensors);
  if (run == "weighted") return check_weighted(tensors);
  if (run == "init_from_weight") return check_init(tensors);
  if (run == "regulariser") return check_regulariser(tensors);
  if (run == "allocator") return check_allocator(tensors);
  FAIL() << "the file asks for a run of kind '" << run << "', which nothing here knows";
}

}  // namespace golden
