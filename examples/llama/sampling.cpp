#include "graft/examples/llama/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "graft/autograd/ops.h"

namespace graft::llama {
namespace {

// Uniform in [0, 1) with 53 bits, one stream per token.
double draw(Generator& generator) {
  const auto words = random_block(generator.seed, generator.next(), 0);
  return static_cast<double>((std::uint64_t{words[0]} << 32 | words[1]) >> 11) * 0x1p-53;
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options) : options_(options), generator_{.seed = options.seed} {
  check(options.temperature >= 0 && std::isfinite(options.temperature), "temperature = {}, and a number from 0 is wanted",
        options.temperature);
  check(options.top_k >= 0, "top_k = {}, and a count from 0 is wanted", options.top_k);
  check(options.top_p > 0 && options.top_p <= 1, "top_p = {}, and a share above 0 and up to 1 is wanted", options.top_p);
}

std::int64_t Sampler::next(const Tensor& logits) {
  check(logits.rank() == 1 && logits.dim(0) > 0, "logits [vocab_size] are wanted, not {}", logits.shape());
  const std::vector<double> values = logits.to_vector<double>();
  for (std::size_t i = 0; i < values.size(); ++i) check(std::isfinite(values[i]), "the logit of token {} is {}", i, values[i]);
  if (options_.temperature == 0) return std::max_element(values.begin(), values.end()) - values.begin();

  std::vector<std::int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](std::int64_t a, std::int64_t b) { return values[a] != values[b] ? values[a] > values[b] : a < b; });
  if (options_.top_k > 0 && options_.top_k < static_cast<std::int64_t>(order.size())) order.resize(options_.top_k);

  std::vector<double> weights;
  for (const std::int64_t id : order) weights.push_back(std::exp((values[id] - values[order.front()]) / options_.temperature));
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double reached = 0;
  std::size_t kept = 0;
  while (kept < weights.size() && reached < options_.top_p * total) reached += weights[kept++];

  double left = draw(generator_) * reached;
  for (std::size_t i = 0; i < kept; ++i) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[kept - 1];
}

std::vector<std::int64_t> generate(const CausalLM& model, std::span<const std::int64_t> prompt,
                                   const GenerationOptions& options) {
  check(!prompt.empty(), "a prompt of at least one token is wanted");
  NoGrad no_grad;
  Sampler sampler(options.sampling);
  KeyValueCache cache;
  std::vector<std::int64_t> fresh(prompt.begin(), prompt.end()), written;
  while (static_cast<std::int64_t>(written.size()) < options.max_tokens) {
    const auto length = static_cast<std::int64_t>(fresh.size());
    const Tensor hidden = model.hidden(Tensor::from(fresh, {1, length}), &cache);
    const Tensor logits = model.logits(slice(hidden, 1, length - 1, length));
    const std::int64_t id = sampler.next(reshape(logits, {-1}));
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) break;
    written.push_back(id);
    if (options.on_token && !options.on_token(id)) break;
    fresh = {id};
  }
  return written;
}

}  // namespace graft::llama
