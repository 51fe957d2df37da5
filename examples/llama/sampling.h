// Choosing the next token, and writing a text token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "graft/core/rng.h"
#include "graft/examples/llama/model.h"

namespace graft::llama {

struct SamplingOptions {
  double temperature = 0;  // 0: always the likeliest token
  std::int64_t top_k = 0;  // only the k likeliest; 0: all
  double top_p = 1;        // only the likeliest whose probabilities reach p together
  std::uint64_t seed = 0;
};

/// Draws tokens; the same seed and logits give the same tokens on every machine.
class Sampler {
 public:
  /// ValueError for a temperature below 0, top_k below 0, or top_p outside (0, 1].
  explicit Sampler(const SamplingOptions& options);
  /// The next token for its logits [vocab_size], in the order temperature, top_k, top_p; ValueError if one is not finite.
  std::int64_t next(const Tensor& logits);

 private:
  SamplingOptions options_;
  Generator generator_;
};

struct GenerationOptions {
  std::int64_t max_tokens = 64;
  std::vector<std::int64_t> stop_ids = {};  // end the text, and are not part of it
  SamplingOptions sampling = {};
  std::function<bool(std::int64_t id)> on_token = {};  // after every token; false stops. May be empty.
};

/// Continues a prompt of at least one token; gives the new tokens.
std::vector<std::int64_t> generate(const CausalLM& model, std::span<const std::int64_t> prompt, const GenerationOptions& options);

}  // namespace graft::llama
