#include "graft/examples/llama/tokenizer.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "graft/core/error.h"
#include "graft/examples/llama/files.h"
#include "graft/examples/llama/utf8.h"

namespace graft::llama {
namespace {

using nlohmann::json;

// A part that is null, or a Sequence of nothing but such parts, does nothing.
bool is_neutral(const json& description, const char* list) {
  if (description.is_null()) return true;
  if (description.at("type") != "Sequence") return false;
  const json& parts = description.at(list);
  return std::all_of(parts.begin(), parts.end(), [&](const json& part) { return is_neutral(part, list); });
}

bool is_byte_level(const json& decoder) {
  if (decoder.is_null()) return false;
  if (decoder.at("type") == "ByteLevel") return true;
  return decoder.at("type") == "Sequence" && decoder.at("decoders").size() == 1 && is_byte_level(decoder.at("decoders")[0]);
}

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& folder) { return parse(read_text(folder / "tokenizer.json")); }

Tokenizer Tokenizer::parse(std::string_view text) try {
  const json root = json::parse(text);
  const json normalizer = root.value("normalizer", json());
  check<NotImplementedError>(is_neutral(normalizer, "normalizers"), "tokenizer.json: no normalizer is wanted, not {}",
                             normalizer.dump());
  const json decoder = root.value("decoder", json());
  check<NotImplementedError>(is_byte_level(decoder), "tokenizer.json: a decoder ByteLevel is wanted, not {}", decoder.dump());
  // "truncation" and "padding" are left alone: they say how the file's writer made batches, not what a text's tokens are.

  Tokenizer tokenizer;
  tokenizer.pre_tokenizer_ = PreTokenizer::parse(root.value("pre_tokenizer", json()));
  tokenizer.bpe_ = Bpe::parse(root.at("model"));
  for (const auto& [token, id] : tokenizer.bpe_.vocabulary()) tokenizer.tokens_[id] = {Bpe::bytes_of(token)};
  tokenizer.add_tokens(root.value("added_tokens", json::array()));
  for (const auto& [id, token] : tokenizer.tokens_) tokenizer.size_ = std::max(tokenizer.size_, id + 1);
  tokenizer.add_post_processor(root.value("post_processor", json()));
  return tokenizer;
} catch (const json::exception& error) {
  fail("tokenizer.json is malformed: {}", error.what());
}

void Tokenizer::add_tokens(const json& added_tokens) {
  const auto& vocabulary = bpe_.vocabulary();
  for (const json& entry : added_tokens) {
    AddedToken token{.id = entry.at("id"),
                     .content = entry.at("content"),
                     .single_word = entry.value("single_word", false),
                     .lstrip = entry.value("lstrip", false),
                     .rstrip = entry.value("rstrip", false),
                     .normalized = entry.value("normalized", true),
                     .special = entry.value("special", false)};
    const auto known = vocabulary.find(token.content);
    if (known != vocabulary.end())
      check(known->second == token.id, "tokenizer.json: the added token \"{}\" has the id {}, but {} in the vocabulary",
            token.content, token.id, known->second);
    else
      check(token.id >= 0 && !tokens_.count(token.id),
            "tokenizer.json: the added token \"{}\" has the id {}, which another token has or none can have", token.content,
            token.id);
    tokens_[token.id] = {token.content, token.special};
    added_tokens_.push_back(std::move(token));
  }
}

void Tokenizer::add_post_processor(const json& description) {
  if (description.is_null()) return;
  const auto type = description.at("type").get<std::string>();
  if (type == "ByteLevel") return;  // moves offsets, not ids
  if (type == "TemplateProcessing") return add_template(description);
  check<NotImplementedError>(type == "Sequence",
                             "tokenizer.json: the post-processor {} is not one of ByteLevel, TemplateProcessing, Sequence", type);
  for (const json& part : description.at("processors")) add_post_processor(part);
}

void Tokenizer::add_template(const json& description) {
  // A later template wraps what an earlier one made.
  std::vector<std::int64_t> before, after;
  bool inside = false;
  for (const json& piece : description.at("single")) {
    if (piece.contains("Sequence")) {
      check(!inside, "tokenizer.json: the template for one text has the text twice");
      inside = true;
      continue;
    }
    const auto name = piece.at("SpecialToken").at("id").get<std::string>();
    for (const json& id : description.at("special_tokens").at(name).at("ids")) {
      check(tokens_.count(id.get<std::int64_t>()), "tokenizer.json: the template's token \"{}\" has the unknown id {}", name,
            id.dump());
      (inside ? after : before).push_back(id);
    }
  }
  check(inside, "tokenizer.json: the template for one text leaves the text out");
  before_.insert(before_.begin(), before.begin(), before.end());
  after_.insert(after_.end(), after.begin(), after.end());
}

std::vector<std::int64_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  const std::size_t invalid = utf8::find_invalid(text);
  check(invalid == std::string_view::npos, "text in UTF-8 is wanted, and byte {} of {} is not part of any", invalid, text.size());
  std::vector<std::int64_t> ids;
  if (add_special) ids = before_;
  for (const Stretch& stretch : find_added_tokens(text, added_tokens_)) {
    if (stretch.id >= 0) ids.push_back(stretch.id);
    else
      for (const std::string& word : pre_tokenizer_.split(stretch.text)) bpe_.encode(word, ids);
  }
  if (add_special) ids.insert(ids.end(), after_.begin(), after_.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int64_t> ids, bool skip_special) const {
  std::string bytes;
  for (const std::int64_t id : ids) {
    const auto found = tokens_.find(id);
    check(found != tokens_.end(), "the tokenizer has no token {}; its ids are below {}", id, size_);
    if (!(skip_special && found->second.special)) bytes += found->second.bytes;
  }
  return utf8::replace_invalid(bytes);
}

std::optional<std::int64_t> Tokenizer::id_of(const std::string& token) const {
  for (const AddedToken& added : added_tokens_)
    if (added.content == token) return added.id;
  const auto found = bpe_.vocabulary().find(token);
  return found == bpe_.vocabulary().end() ? std::nullopt : std::optional(found->second);
}

}  // namespace graft::llama
