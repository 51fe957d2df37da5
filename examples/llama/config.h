// What config.json says about a model of the Llama architecture, in either spelling that is in use.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "graft/core/tensor.h"

namespace graft::llama {

/// Rotary embedding: pair i of a head turns by theta^(-2i/head_dim) per position, slowed down as `kind` says.
struct Rope {
  enum class Kind { plain, linear, llama3 };
  Kind kind = Kind::plain;
  double theta = 10000;
  double factor = 1;  // linear: every angle is divided by it; llama3: only those that turn slowly
  // llama3: pairs that turn fewer than low_freq_factor times within the original context are slowed down, those that turn more
  // than high_freq_factor times are not, and between the two it is blended.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  std::int64_t original_max_position_embeddings = 8192;

  bool operator==(const Rope&) const = default;
};

struct Config {
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  Rope rope;
  Tensor (*activation)(const Tensor&) = nullptr;  // hidden_act
  bool attention_bias = false;
  bool mlp_bias = false;
  bool tie_word_embeddings = false;
  std::vector<std::int64_t> eos_token_ids;

  /// Reads the text of a config.json; what it leaves out has transformers' default, the sizes apart. ValueError naming the field,
  /// its value and what is wanted for what is malformed, impossible or said twice and differently; NotImplementedError for another
  /// architecture, kind of scaling, activation, for rotation of a part of each head, or for attention dropout. Its dtype is not
  /// read: the files of weights know theirs, and the caller chooses that of the computation.
  static Config parse(std::string_view json);
};

}  // namespace graft::llama
