// Byte-pair encoding: the bytes of a word are merged pair by pair, always the pair that was learned first.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace graft::llama {

class Bpe {
 public:
  /// The "model" of a byte-level tokenizer.json. ValueError if malformed (a merge of unknown tokens, an id given twice),
  /// NotImplementedError for another type of model or an option that changes how words are merged.
  static Bpe parse(const nlohmann::json& model);

  /// Appends the ids of a word given as bytes. ValueError for a byte that has no token.
  void encode(std::string_view word, std::vector<std::int64_t>& ids) const;

  const std::unordered_map<std::string, std::int64_t>& vocabulary() const { return vocabulary_; }

  /// A token's characters, one per byte, back to bytes.
  static std::string bytes_of(std::string_view token);

 private:
  struct Merge {
    std::size_t rank;
    std::int64_t id;
  };
  struct PairHash {
    std::size_t operator()(const std::pair<std::int64_t, std::int64_t>& pair) const {
      return static_cast<std::size_t>(pair.first) * 0x9E3779B97F4A7C15u ^ static_cast<std::size_t>(pair.second);
    }
  };
  const Merge* merge_of(std::int64_t left, std::int64_t right) const;

  std::unordered_map<std::string, std::int64_t> vocabulary_;
  std::unordered_map<std::pair<std::int64_t, std::int64_t>, Merge, PairHash> merges_;
  std::array<std::int64_t, 256> byte_ids_{};  // -1: no token
  bool whole_words_first_ = false;            // "ignore_merges"
};

}  // namespace graft::llama
