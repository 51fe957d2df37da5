// Text to token ids and back, as the tokenizer.json of a Hugging Face folder says: byte-level BPE.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "graft/examples/llama/added_tokens.h"
#include "graft/examples/llama/bpe.h"
#include "graft/examples/llama/pre_tokenizer.h"

namespace graft::llama {

class Tokenizer {
 public:
  /// Reads `folder`/tokenizer.json; FileError if it is missing, else as parse().
  static Tokenizer load(const std::filesystem::path& folder);
  /// ValueError for a malformed description, NotImplementedError for parts that are not understood (none is skipped).
  static Tokenizer parse(std::string_view json);

  /// The ids of a text; `add_special` puts the tokens of the post-processor's template around it (Llama 3's <|begin_of_text|>).
  /// ValueError unless the text is well-formed UTF-8.
  std::vector<std::int64_t> encode(std::string_view text, bool add_special = true) const;

  /// The text of ids; U+FFFD stands for bytes that make no UTF-8. `skip_special` leaves special tokens out. ValueError for an
  /// unknown id.
  std::string decode(std::span<const std::int64_t> ids, bool skip_special = false) const;

  std::optional<std::int64_t> id_of(const std::string& token) const;
  /// One more than the largest id.
  std::int64_t size() const { return size_; }

 private:
  struct Token {
    std::string bytes;
    bool special = false;
  };
  void add_tokens(const nlohmann::json& added_tokens);
  void add_post_processor(const nlohmann::json& description);
  void add_template(const nlohmann::json& description);

  PreTokenizer pre_tokenizer_;
  Bpe bpe_;
  std::vector<AddedToken> added_tokens_;
  std::unordered_map<std::int64_t, Token> tokens_;
  std::vector<std::int64_t> before_, after_;  // the template's special tokens
  std::int64_t size_ = 0;
};

}  // namespace graft::llama
