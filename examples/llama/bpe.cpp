#include "graft/examples/llama/bpe.h"

#include <nlohmann/json.hpp>

#include <queue>
#include <tuple>
#include <utility>

#include "graft/core/error.h"
#include "graft/examples/llama/utf8.h"

namespace graft::llama {
namespace {

using nlohmann::json;

// Tokens are stored as text, each byte as one printable character: itself where it is printable in Latin-1, else the next code
// point from U+0100 on.
struct ByteAlphabet {
  std::array<std::string, 256> characters;
  std::array<int, 0x144> bytes;  // by code point; -1: none

  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
      const char32_t c = printable ? static_cast<char32_t>(byte) : next++;
      utf8::append(characters[byte], c);
      bytes[c] = byte;
    }
  }
};
const ByteAlphabet& alphabet() {
  static const ByteAlphabet instance;
  return instance;
}

std::string written(std::string_view word) {
  std::string text;
  for (const char byte : word) text += alphabet().characters[static_cast<std::uint8_t>(byte)];
  return text;
}

// Both spellings in use: "Ġ t" and ["Ġ", "t"].
std::pair<std::string, std::string> merge_pair(const json& merge) {
  if (merge.is_array() && merge.size() == 2) return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  check(merge.is_string(), "tokenizer.json: a merge is a pair of tokens, not {}", merge.dump());
  const auto text = merge.get<std::string>();
  const std::size_t space = text.find(' ');
  check(space != std::string::npos && text.find(' ', space + 1) == std::string::npos,
        "tokenizer.json: a merge is a pair of tokens with one space between them, not \"{}\"", text);
  return {text.substr(0, space), text.substr(space + 1)};
}

void refuse_options(const json& model) {
  const auto type = model.value("type", "BPE");
  check<NotImplementedError>(type == "BPE", "tokenizer.json: a model of type BPE is wanted, not {}", type);
  for (const char* name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
    const auto value = model.value(name, json());
    const bool neutral = value.is_null() || value == false || value == 0 || value == "";
    check<NotImplementedError>(neutral, "tokenizer.json: byte-level BPE with {} = {} is not supported", name, value.dump());
  }
}

}  // namespace

Bpe Bpe::parse(const nlohmann::json& model) {
  refuse_options(model);
  Bpe bpe;
  bpe.whole_words_first_ = model.value("ignore_merges", false);
  std::unordered_map<std::int64_t, std::string> seen;
  const json& vocabulary = model.at("vocab");
  check(vocabulary.is_object(), "tokenizer.json: the vocabulary is a map from tokens to ids, not of type {}",
        vocabulary.type_name());
  for (const auto& [token, id] : vocabulary.items()) {
    check(id.is_number_integer() && id >= 0, "tokenizer.json: token \"{}\" has the id {}, not a count from 0", token, id.dump());
    const auto [first, fresh] = seen.emplace(id.get<std::int64_t>(), token);
    check(fresh, "tokenizer.json: tokens \"{}\" and \"{}\" have the same id {}", first->second, token, first->first);
    bpe.vocabulary_.emplace(token, first->first);
  }
  const auto id_of = [&](const std::string& token) {
    const auto found = bpe.vocabulary_.find(token);
    check(found != bpe.vocabulary_.end(), "tokenizer.json: the merges need the token \"{}\", which the vocabulary does not have",
          token);
    return found->second;
  };
  std::size_t rank = 0;
  for (const auto& merge : model.at("merges")) {
    const auto [left, right] = merge_pair(merge);
    bpe.merges_.insert_or_assign({id_of(left), id_of(right)}, Merge{rank++, id_of(left + right)});
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = bpe.vocabulary_.find(alphabet().characters[byte]);
    bpe.byte_ids_[byte] = found == bpe.vocabulary_.end() ? -1 : found->second;
  }
  return bpe;
}

const Bpe::Merge* Bpe::merge_of(std::int64_t left, std::int64_t right) const {
  const auto found = merges_.find({left, right});
  return found == merges_.end() ? nullptr : &found->second;
}

void Bpe::encode(std::string_view word, std::vector<std::int64_t>& ids) const {
  if (whole_words_first_) {
    if (const auto found = vocabulary_.find(written(word)); found != vocabulary_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  // The symbols as a list linked by position; merging i with its successor leaves the result at i.
  struct Symbol {
    std::int64_t id;
    int previous, next;  // -1: none
  };
  std::vector<Symbol> symbols;
  const int size = static_cast<int>(word.size());
  for (int i = 0; i < size; ++i) {
    const auto byte = static_cast<std::uint8_t>(word[i]);
    check(byte_ids_[byte] >= 0, "the vocabulary has no token for the byte 0x{:02X}", byte);
    symbols.push_back({byte_ids_[byte], i - 1, i + 1 < size ? i + 1 : -1});
  }
  // Candidates by rank, then from left to right. One is stale when either symbol has changed since.
  using Candidate = std::tuple<std::size_t, int, std::int64_t, std::int64_t>;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto propose = [&](int i) {
    if (i < 0 || symbols[i].next < 0) return;
    const std::int64_t left = symbols[i].id, right = symbols[symbols[i].next].id;
    if (const Merge* merge = merge_of(left, right)) candidates.emplace(merge->rank, i, left, right);
  };
  for (int i = 0; i < size; ++i) propose(i);
  while (!candidates.empty()) {
    const auto [rank, i, left, right] = candidates.top();
    candidates.pop();
    const int j = symbols[i].next;
    if (symbols[i].id != left || j < 0 || symbols[j].id != right) continue;
    symbols[i] = {merge_of(left, right)->id, symbols[i].previous, symbols[j].next};
    symbols[j].id = -1;
    if (symbols[i].next >= 0) symbols[symbols[i].next].previous = i;
    propose(symbols[i].previous);
    propose(i);
  }
  for (int i = 0; i >= 0 && i < size; i = symbols[i].next) ids.push_back(symbols[i].id);
}

std::string Bpe::bytes_of(std::string_view token) {
  std::string bytes;
  for (std::size_t at = 0; at < token.size();) {
    const std::size_t length = utf8::sequence_at(token, at).bytes;
    const char32_t c = utf8::code_point(token.substr(at, length));
    // A token that is not written in the byte alphabet stands for its own text.
    if (c >= alphabet().bytes.size() || alphabet().bytes[c] < 0) return std::string(token);
    bytes += static_cast<char>(alphabet().bytes[c]);
    at += length;
  }
  return bytes;
}

}  // namespace graft::llama
