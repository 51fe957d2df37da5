#include "graft/adapters/combine.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "graft/adapters/inject.h"
#include "graft/adapters/lora.h"
#include "graft/adapters/model.h"
#include "graft/autograd/ops.h"

namespace graft::adapters {
namespace {

using Values = std::vector<double>;

/// How tensors are combined, after "_svd" is taken off the name.
enum class Rule { linear, ties, dare_linear, dare_ties, magnitude_prune };
struct Type {
  bool cat = false, svd = false;
  Rule rule = Rule::linear;
};

Type parse(std::string name) {
  if (name == "cat") return {.cat = true};
  if (name == "svd") return {.svd = true};
  const std::map<std::string, Rule> rules = {{"linear", Rule::linear},
                                             {"ties", Rule::ties},
                                             {"dare_linear", Rule::dare_linear},
                                             {"dare_ties", Rule::dare_ties},
                                             {"magnitude_prune", Rule::magnitude_prune}};
  Type type;
  if (name.ends_with("_svd") && name != "linear_svd") {
    type.svd = true;
    name.resize(name.size() - 4);
  }
  const auto found = rules.find(name);
  check(
      found != rules.end(),
      "combination_type '{}' is not one of linear, ties, dare_linear, dare_ties, magnitude_prune, these four with _svd, svd, cat",
      name);
  type.rule = found->second;
  return type;
}

/// Keeps the entries of largest magnitude.
void prune_by_magnitude(Values& values, double density) {
  const auto keep = static_cast<std::size_t>(density * static_cast<double>(values.size()));
  if (keep >= values.size()) return;
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::nth_element(order.begin(), order.begin() + keep, order.end(), [&](auto a, auto b) {
    return std::abs(values[a]) != std::abs(values[b]) ? std::abs(values[a]) > std::abs(values[b]) : a < b;
  });
  for (std::size_t i = keep; i < order.size(); ++i) values[order[i]] = 0;
}

/// Keeps each entry with probability `density` and scales what is kept.
void prune_at_random(Values& values, double density, Generator& generator) {
  const auto draws = uniform({static_cast<std::int64_t>(values.size())}, 0, 1, generator, DType::f64).to_vector<double>();
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = draws[i] < density ? values[i] / density : 0;
}

Values sum(const std::vector<Values>& tensors, const std::vector<double>& weights) {
  Values total(tensors.front().size());
  for (std::size_t t = 0; t < tensors.size(); ++t)
    for (std::size_t i = 0; i < total.size(); ++i) total[i] += weights[t] * tensors[t][i];
  return total;
}

double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

/// The mean, over the tensors whose sign is the majority's, of the weighted entries.
Values elect(const std::vector<Values>& tensors, const std::vector<double>& weights, bool by_frequency) {
  Values merged(tensors.front().size());
  for (std::size_t i = 0; i < merged.size(); ++i) {
    double vote = 0, agreeing = 0;
    for (const Values& t : tensors) vote += by_frequency ? sign(t[i]) : t[i];
    const double majority = vote >= 0 ? 1 : -1;
    for (std::size_t t = 0; t < tensors.size(); ++t)
      if (sign(tensors[t][i]) == majority) merged[i] += weights[t] * tensors[t][i], ++agreeing;
    merged[i] /= std::max(agreeing, 1.0);
  }
  return merged;
}

Values combine(Rule rule, std::vector<Values> tensors, const std::vector<double>& weights, const CombineOptions& options,
               Generator& generator) {
  for (Values& tensor : tensors) {
    if (rule == Rule::ties || rule == Rule::magnitude_prune) prune_by_magnitude(tensor, options.density);
    if (rule == Rule::dare_linear || rule == Rule::dare_ties) prune_at_random(tensor, options.density, generator);
  }
  const bool elects = rule == Rule::ties || rule == Rule::dare_ties;
  return elects ? elect(tensors, weights, options.majority_sign_method == "frequency") : sum(tensors, weights);
}

struct Part {
  std::shared_ptr<lora::LoraAdapter> adapter;
  double weight;
};

/// A and B of the new adapter, in f64 on the CPU.
std::pair<Tensor, Tensor> factors(const Type& type, const std::vector<Part>& parts, std::int64_t rank,
                                  const CombineOptions& options, Generator& generator) {
  const auto wide = [](const Tensor& t) { return to(to(t.detach(), Device::cpu()), DType::f64); };
  const std::int64_t in = parts.front().adapter->A.dim(1), out = parts.front().adapter->B.dim(0);
  if (type.cat) {
    std::vector<Tensor> As, Bs;
    for (const auto& [adapter, weight] : parts) {
      As.push_back(wide(adapter->A) * (weight * adapter->scaling()));
      Bs.push_back(wide(adapter->B));
    }
    return {concat(As, 0), concat(Bs, 1)};
  }
  if (type.svd) {
    std::vector<Values> deltas;
    std::vector<double> weights;
    for (const auto& [adapter, weight] : parts) {
      deltas.push_back((matmul(wide(adapter->B), wide(adapter->A)) * adapter->scaling()).to_vector<double>());
      weights.push_back(options.as_peft ? weight * adapter->scaling() : weight);
    }
    const auto [u, s, vt] = svd(Tensor::from(combine(type.rule, std::move(deltas), weights, options, generator), {out, in}));
    return {slice(vt, 0, 0, rank), slice(u, 1, 0, rank) * slice(s, 0, 0, rank)};
  }
  std::vector<Values> As, Bs;
  std::vector<double> for_A, for_B;
  for (const auto& [adapter, weight] : parts) {
    const double product = weight * adapter->scaling(), root = std::sqrt(std::abs(product));
    As.push_back(wide(adapter->A).to_vector<double>());
    Bs.push_back(wide(adapter->B).to_vector<double>());
    for_A.push_back(options.as_peft && product < 0 ? -root : root);
    for_B.push_back(product < 0 ? -root : root);
  }
  return {Tensor::from(combine(type.rule, std::move(As), for_A, options, generator), {rank, in}),
          Tensor::from(combine(type.rule, std::move(Bs), for_B, options, generator), {out, rank})};
}

std::int64_t rank_of(const Type& type, const std::vector<Part>& parts, const CombineOptions& options, const std::string& path) {
  std::int64_t total = 0, largest = 0;
  for (const auto& [adapter, weight] : parts) {
    total += adapter->r();
    largest = std::max(largest, adapter->r());
  }
  if (type.cat) return total;
  const Tensor& A = parts.front().adapter->A;
  if (type.svd) return std::min({options.svd_rank > 0 ? options.svd_rank : largest, A.dim(1), parts.front().adapter->B.dim(0)});
  for (const auto& [adapter, weight] : parts)
    check(adapter->r() == largest, "{}: combination_type {} needs adapters of one rank, and these have {} and {}", path,
          options.combination_type, largest, adapter->r());
  return largest;
}

void unite(Targets& targets, const Targets& more) {
  check(targets.is_pattern() == more.is_pattern(),
        "some of the adapters choose their targets by a list and others by a regular expression");
  if (targets.is_pattern()) {
    if (!(targets == more)) targets = Targets(fmt::format("({})|({})", targets.pattern(), more.pattern()));
    return;
  }
  std::vector<std::string> names = targets.names();
  for (const auto& name : more.names())
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  targets = Targets(std::move(names));
}

}  // namespace

void add_weighted_adapter(Module& model, const std::vector<std::string>& adapters, const std::vector<double>& weights,
                          const std::string& name, const CombineOptions& options) {
  const NoGrad no_grad;
  const auto known = adapter_names(model);
  check(!adapters.empty(), "there is nothing to combine: no adapter is named");
  check(adapters.size() == weights.size(), "{} adapters are named with {} weights", adapters.size(), weights.size());
  for (const auto& part : adapters)
    check(std::find(known.begin(), known.end(), part) != known.end(), "there is no adapter '{}' to combine", part);
  check(std::find(known.begin(), known.end(), name) == known.end(), "there is an adapter '{}' already", name);
  const Type wanted = parse(options.combination_type), type = adapters.size() == 1 ? Type{} : wanted;
  const bool prunes = !type.cat && type.rule != Rule::linear;
  check(!prunes || (options.density > 0 && options.density <= 1), "combination_type {} needs a density in (0, 1], not {}",
        options.combination_type, options.density);
  check(options.majority_sign_method == "total" || options.majority_sign_method == "frequency",
        "majority_sign_method is '{}', not 'total' or 'frequency'", options.majority_sign_method);

  Generator generator{options.seed, 0};
  std::shared_ptr<AdapterRecord> record;
  struct Made {
    AdapterLayer* layer;
    std::shared_ptr<Adapter> adapter;
  };
  std::vector<Made> made;
  LoraConfig config;
  for_each_layer(model, [&](const std::string& path, AdapterLayer& layer) {
    std::vector<Part> parts;
    for (std::size_t i = 0; i < adapters.size(); ++i) {
      if (!layer.has_adapter(adapters[i])) continue;
      auto part = std::dynamic_pointer_cast<lora::LoraAdapter>(layer.adapter(adapters[i]));
      check<TypeError>(part && part->method() == "lora" && !part->bias.defined(),
                       "{}: adapter '{}' is no plain LoRA adapter without bias, and others cannot be combined", path,
                       adapters[i]);
      parts.push_back({std::move(part), weights[i]});
      const auto theirs = layer.record(adapters[i]);
      if (!theirs) continue;
      check(theirs->saved.empty(),
            "adapter '{}' has trained copies of the model's own parameters (modules_to_save, bias), which cannot be combined",
            adapters[i]);
      const auto& c = std::get<LoraConfig>(theirs->config);
      if (!record) {
        record = std::make_shared<AdapterRecord>();
        config = c;
        config.rank_pattern.clear();
        config.alpha_pattern.clear();
        config.use_rslora = false;
        config.r = 0;
      }
      unite(config.target_modules, c.target_modules);
    }
    if (parts.empty()) return;
    const std::int64_t rank = rank_of(type, parts, options, path);
    if (config.r == 0) config.r = rank, config.lora_alpha = static_cast<double>(rank);
    if (rank != config.r) {
      config.rank_pattern.emplace_back(path, rank);
      config.alpha_pattern.emplace_back(path, static_cast<double>(rank));
    }
    const auto [A, B] = factors(type, parts, rank, options, generator);
    const lora::Options own{.r = rank, .lora_alpha = static_cast<double>(rank)};
    auto adapter = std::make_shared<lora::LoraAdapter>(*layer.base_layer(), own, parts.front().adapter->rounding());
    adapter->A.copy_(A);
    adapter->B.copy_(B);
    made.push_back({&layer, std::move(adapter)});
  });
  if (record) record->config = config;
  for (auto& [layer, adapter] : made) {
    layer->add_adapter(name, std::move(adapter));
    layer->adopt(name, record, false);
  }
}

}  // namespace graft::adapters
