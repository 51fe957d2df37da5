#include "graft/examples/llama/model.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "graft/autograd/ops.h"

namespace graft::llama {

std::string Embedding::description() const { return fmt::format("{}, {}", weight_.dim(0), weight_.dim(1)); }

Tensor Embedding::forward(const Tensor& ids) const { return embedding(weight_, ids); }

std::string RMSNorm::description() const { return fmt::format("{}, eps={}", weight_.shape(), eps_); }

Tensor RMSNorm::forward(const Tensor& x) const { return rms_norm(x, weight_, eps_); }

Slot<LinearBase> Source::linear(const std::string& name, std::int64_t in, std::int64_t out, bool bias) const {
  auto layer = checkpoint.linear(name, in, out, dtype);
  check(!bias || layer->bias().defined(), "config.json announces biases, and the checkpoint has no {}.bias", name);
  return layer;
}

Slot<RMSNorm> Source::norm(const std::string& name) const {
  return std::make_shared<RMSNorm>(checkpoint.tensor(name + ".weight", {config.hidden_size}, dtype), config.rms_norm_eps);
}

// ---- attention ----

Attention::Attention(const Source& source, const std::string& name, std::size_t layer)
    : layer_(layer), head_dim_(source.config.head_dim) {
  const Config& config = source.config;
  const std::int64_t width = config.num_attention_heads * head_dim_, kv_width = config.num_key_value_heads * head_dim_;
  q_proj_ = source.linear(name + ".q_proj", config.hidden_size, width, config.attention_bias);
  k_proj_ = source.linear(name + ".k_proj", config.hidden_size, kv_width, config.attention_bias);
  v_proj_ = source.linear(name + ".v_proj", config.hidden_size, kv_width, config.attention_bias);
  o_proj_ = source.linear(name + ".o_proj", width, config.hidden_size, config.attention_bias);
}

void Attention::visit(Visitor& visitor) {
  visitor.child("q_proj", q_proj_);
  visitor.child("k_proj", k_proj_);
  visitor.child("v_proj", v_proj_);
  visitor.child("o_proj", o_proj_);
}

Tensor Attention::forward(const Tensor& x, const Pass& pass) const {
  const std::int64_t batch = x.dim(0), length = x.dim(1);
  // [batch, length, heads · head_dim] → [batch, heads, length, head_dim]
  const auto heads = [&](const Tensor& y) { return transpose(reshape(y, {batch, length, -1, head_dim_}), 1, 2); };
  const Tensor q = rotary(heads(q_proj_->forward(x)), pass.rotary.cos, pass.rotary.sin);
  Tensor k = rotary(heads(k_proj_->forward(x)), pass.rotary.cos, pass.rotary.sin);
  Tensor v = heads(v_proj_->forward(x));
  if (pass.cache) std::tie(k, v) = pass.cache->extend(layer_, k, v);
  const Tensor y = attention(q, k, v, {.key_mask = pass.key_mask});
  return o_proj_->forward(reshape(transpose(y, 1, 2), {batch, length, -1}));
}

// ---- MLP ----

MLP::MLP(const Source& source, const std::string& name) : activation_(source.config.activation) {
  const auto [hidden, inner, bias] =
      std::tuple(source.config.hidden_size, source.config.intermediate_size, source.config.mlp_bias);
  gate_proj_ = source.linear(name + ".gate_proj", hidden, inner, bias);
  up_proj_ = source.linear(name + ".up_proj", hidden, inner, bias);
  down_proj_ = source.linear(name + ".down_proj", inner, hidden, bias);
}

void MLP::visit(Visitor& visitor) {
  visitor.child("gate_proj", gate_proj_);
  visitor.child("up_proj", up_proj_);
  visitor.child("down_proj", down_proj_);
}

Tensor MLP::forward(const Tensor& x) const {
  const Tensor gate = gate_proj_->forward(x), up = up_proj_->forward(x);
  return down_proj_->forward(activation_ == &silu ? silu_mul(gate, up) : activation_(gate) * up);
}

// ---- layers ----

DecoderLayer::DecoderLayer(const Source& source, const std::string& name, std::size_t layer)
    : self_attn_(std::make_shared<Attention>(source, name + ".self_attn", layer)),
      mlp_(std::make_shared<MLP>(source, name + ".mlp")),
      input_layernorm_(source.norm(name + ".input_layernorm")),
      post_attention_layernorm_(source.norm(name + ".post_attention_layernorm")) {}

void DecoderLayer::visit(Visitor& visitor) {
  visitor.child("self_attn", self_attn_);
  visitor.child("mlp", mlp_);
  visitor.child("input_layernorm", input_layernorm_);
  visitor.child("post_attention_layernorm", post_attention_layernorm_);
}

Tensor DecoderLayer::forward(const Tensor& x, const Pass& pass) const {
  const Tensor y = x + self_attn_->forward(input_layernorm_->forward(x), pass);
  return y + mlp_->forward(post_attention_layernorm_->forward(y));
}

Decoder::Decoder(const Source& source) {
  const Config& config = source.config;
  embed_tokens_ = std::make_shared<Embedding>(
      source.checkpoint.tensor("model.embed_tokens.weight", {config.vocab_size, config.hidden_size}, source.dtype));
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i)
    layers_.emplace_back(std::make_shared<DecoderLayer>(source, fmt::format("model.layers.{}", i), i));
  norm_ = source.norm("model.norm");
}

void Decoder::visit(Visitor& visitor) {
  visitor.child("embed_tokens", embed_tokens_);
  for (std::size_t i = 0; i < layers_.size(); ++i) visitor.child(fmt::format("layers.{}", i), layers_[i]);
  visitor.child("norm", norm_);
}

Tensor Decoder::forward(const Tensor& ids, const Pass& pass) const {
  Tensor x = embed_tokens_->forward(ids);
  for (const auto& layer : layers_) x = layer->forward(x, pass);
  return norm_->forward(x);
}

// ---- the whole ----

CausalLM::CausalLM(const Config& config, const quant::Checkpoint& checkpoint, DType dtype) : config_(config) {
  const Source source{config_, checkpoint, dtype};
  model_ = std::make_shared<Decoder>(source);
  if (config_.tie_word_embeddings) lm_head_.replace(std::make_shared<Linear>(model_->embedding()));
  else lm_head_ = source.linear("lm_head", config_.hidden_size, config_.vocab_size, false);
}

void CausalLM::visit(Visitor& visitor) {
  visitor.child("model", model_);
  visitor.child("lm_head", lm_head_);
}

Tensor CausalLM::hidden(const Tensor& ids, KeyValueCache* cache, const Tensor& key_mask) const {
  check(ids.rank() == 2 && ids.dim(1) > 0, "token ids [batch, length] are wanted, not {}", ids.shape());
  check(!cache || !grad_enabled(), "a key-value cache is for inference: call forward under NoGrad");
  const std::int64_t begin = cache ? cache->length() : 0, length = ids.dim(1);
  const Tensor mask = key_mask.defined() ? to(key_mask, device()) : key_mask;
  const Tensor y =
      model_->forward(to(ids, device()), {rotary_table(config_.rope, config_.head_dim, begin, length, device()), mask, cache});
  if (cache) cache->advance(length);
  return y;
}

namespace {

// Weights that nobody reads would be missing without a word: a file of more layers than config.json tells of is another model.
void refuse_unused(CausalLM& model, const quant::Checkpoint& checkpoint) {
  std::set<std::string> read;  // tensors, and the linear layers that have seen to theirs
  for (const NamedTensor& parameter : named_parameters(model)) read.insert(parameter.name);
  for_each_module(model, [&](const std::string& name, const Module& module) {
    if (dynamic_cast<const LinearBase*>(&module)) read.insert(name);
  });
  std::vector<std::string> unused;
  for (const std::string& name : checkpoint.names())
    if (!read.contains(name) && !read.contains(name.substr(0, name.rfind('.'))) && !name.ends_with(".rotary_emb.inv_freq"))
      unused.push_back(name);
  constexpr std::size_t shown = 4;
  check(unused.empty(), "{}: config.json describes no use for {} of the tensors: {}{}", checkpoint.folder().string(),
        unused.size(), fmt::join(unused.begin(), unused.begin() + std::min(shown, unused.size()), ", "),
        unused.size() > shown ? ", …" : "");
}

}  // namespace

CausalLM load(const std::filesystem::path& folder, DType dtype) {
  check<TypeError>(is_floating(dtype), "a model's weights are floating: {} is not", dtype);
  const auto checkpoint = quant::Checkpoint::open(folder);
  CausalLM model(Config::parse(checkpoint.config()), checkpoint, dtype);
  refuse_unused(model, checkpoint);
  return model;
}

}  // namespace graft::llama
