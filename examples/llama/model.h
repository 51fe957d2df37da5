// A model of the Llama architecture on Graft's public API: RMSNorm, rotary embedding, grouped-query attention, gated MLP. Module
// and parameter names are those of Hugging Face's LlamaForCausalLM, which adapters go by.
#pragma once

#include <filesystem>

#include "graft/examples/llama/cache.h"
#include "graft/examples/llama/config.h"
#include "graft/examples/llama/rope.h"
#include "graft/quant/checkpoint.h"

namespace graft::llama {

class Embedding final : public Module {
 public:
  explicit Embedding(Tensor weight) : weight_(std::move(weight)) {}
  std::string type_name() const override { return "Embedding"; }
  std::string description() const override;
  void visit(Visitor& visitor) override { visitor.parameter("weight", weight_); }
  Tensor forward(const Tensor& ids) const;
  const Tensor& weight() const { return weight_; }

 private:
  Tensor weight_;  // [vocab_size, hidden_size]
};

class RMSNorm final : public Module {
 public:
  RMSNorm(Tensor weight, double eps) : weight_(std::move(weight)), eps_(eps) {}
  std::string type_name() const override { return "LlamaRMSNorm"; }
  std::string description() const override;
  void visit(Visitor& visitor) override { visitor.parameter("weight", weight_); }
  Tensor forward(const Tensor& x) const;

 private:
  Tensor weight_;  // [hidden_size]
  double eps_;
};

/// Where weights come from, and in which dtype the dense ones are wanted.
struct Source {
  const Config& config;
  const quant::Checkpoint& checkpoint;
  DType dtype;

  Slot<LinearBase> linear(const std::string& name, std::int64_t in, std::int64_t out, bool bias) const;
  Slot<RMSNorm> norm(const std::string& name) const;
};

/// What all layers of one forward pass share.
struct Pass {
  RotaryTable rotary;
  Tensor key_mask;
  KeyValueCache* cache;
};

class Attention final : public Module {
 public:
  Attention(const Source& source, const std::string& name, std::size_t layer);
  std::string type_name() const override { return "LlamaAttention"; }
  void visit(Visitor& visitor) override;
  Tensor forward(const Tensor& x, const Pass& pass) const;

 private:
  std::size_t layer_;
  std::int64_t head_dim_;
  Slot<LinearBase> q_proj_, k_proj_, v_proj_, o_proj_;
};

class MLP final : public Module {
 public:
  MLP(const Source& source, const std::string& name);
  std::string type_name() const override { return "LlamaMLP"; }
  void visit(Visitor& visitor) override;
  Tensor forward(const Tensor& x) const;

 private:
  Tensor (*activation_)(const Tensor&);
  Slot<LinearBase> gate_proj_, up_proj_, down_proj_;
};

class DecoderLayer final : public Module {
 public:
  DecoderLayer(const Source& source, const std::string& name, std::size_t layer);
  std::string type_name() const override { return "LlamaDecoderLayer"; }
  void visit(Visitor& visitor) override;
  Tensor forward(const Tensor& x, const Pass& pass) const;

 private:
  Slot<Attention> self_attn_;
  Slot<MLP> mlp_;
  Slot<RMSNorm> input_layernorm_, post_attention_layernorm_;
};

class Decoder final : public Module {
 public:
  explicit Decoder(const Source& source);
  std::string type_name() const override { return "LlamaModel"; }
  void visit(Visitor& visitor) override;
  Tensor forward(const Tensor& ids, const Pass& pass) const;
  const Tensor& embedding() const { return embed_tokens_->weight(); }

 private:
  Slot<Embedding> embed_tokens_;
  std::vector<Slot<DecoderLayer>> layers_;
  Slot<RMSNorm> norm_;
};

class CausalLM final : public Module {
 public:
  CausalLM(const Config& config, const quant::Checkpoint& checkpoint, DType dtype);
  std::string type_name() const override { return "LlamaForCausalLM"; }
  void visit(Visitor& visitor) override;
  const Config& config() const { return config_; }

  Device device() const { return model_->embedding().device(); }

  /// The last layer's output for ids, i64 [batch, length], of any device: [batch, length, hidden_size] in the model's dtype. With a cache, ids
  /// follow the tokens in it and are appended to it; this needs NoGrad (ValueError otherwise). `key_mask`: bool [batch, keys,
  /// those in the cache included], false for padding. ValueError for ids outside the vocabulary or of another shape.
  Tensor hidden(const Tensor& ids, KeyValueCache* cache = nullptr, const Tensor& key_mask = {}) const;
  /// [..., hidden_size] → [..., vocab_size].
  Tensor logits(const Tensor& hidden) const { return lm_head_->forward(hidden); }
  Tensor forward(const Tensor& ids, KeyValueCache* cache = nullptr, const Tensor& key_mask = {}) const {
    return logits(hidden(ids, cache, key_mask));
  }

 private:
  Config config_;
  Slot<Decoder> model_;
  Slot<LinearBase> lm_head_;
};

/// The model in a Hugging Face folder: each projection dense or quantized, as the file says, dense weights in `dtype`. The errors
/// are those of quant::Checkpoint and Config::parse, and ValueError for a projection whose bias the config announces and the file
/// lacks, and for tensors in the file that the model has no use for (a tied lm_head's and old files' rotary frequencies apart).
CausalLM load(const std::filesystem::path& folder, DType dtype = DType::f32);

}  // namespace graft::llama
