#include "graft/examples/llama/pre_tokenizer.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <utility>

#include "graft/core/error.h"

namespace graft::llama {
namespace {

// GPT-2's pattern, which ByteLevel applies unless use_regex is false.
constexpr const char* byte_level_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Pattern parse_pattern(const nlohmann::json& pattern) {
  if (pattern.contains("Regex")) return Pattern::regex(pattern.at("Regex").get<std::string>());
  check(pattern.contains("String"), "tokenizer.json: a Split pattern is a \"Regex\" or a \"String\", not {}", pattern.dump());
  return Pattern::literal(pattern.at("String").get<std::string>());
}

}  // namespace

PreTokenizer PreTokenizer::parse(const nlohmann::json& description) {
  PreTokenizer result;
  check<NotImplementedError>(description.is_object(), "tokenizer.json: a pre_tokenizer that ends in ByteLevel is wanted, not {}",
                             description.dump());
  result.add(description);
  check<NotImplementedError>(result.byte_level_, "tokenizer.json: a pre_tokenizer that ends in ByteLevel is wanted, not {}",
                             description.dump());
  return result;
}

void PreTokenizer::add(const nlohmann::json& description) {
  const auto type = description.at("type").get<std::string>();
  if (type == "Sequence") {
    for (const auto& part : description.at("pretokenizers")) add(part);
    return;
  }
  check<NotImplementedError>(
      !byte_level_, "tokenizer.json: the pre-tokenizer {} after ByteLevel would see its byte alphabet, not the text", type);
  if (type == "ByteLevel") {
    byte_level_ = true;
    prefix_space_ = description.value("add_prefix_space", true);
    steps_before_prefix_ = steps_.size();
    if (description.value("use_regex", true)) steps_.push_back({Pattern::regex(byte_level_pattern)});
  } else if (type == "Split") {
    steps_.push_back({parse_pattern(description.at("pattern")), parse_behavior(description.at("behavior").get<std::string>()),
                      description.value("invert", false)});
  } else if (type == "Digits") {
    const bool individual = description.value("individual_digits", false);
    steps_.push_back({Pattern::regex(R"(\p{N})"), individual ? Behavior::isolated : Behavior::contiguous});
  } else {
    fail<NotImplementedError>("tokenizer.json: the pre-tokenizer {} is not one of ByteLevel, Split, Digits, Sequence", type);
  }
}

PreTokenizer::Behavior PreTokenizer::parse_behavior(const std::string& name) {
  static constexpr std::array<std::pair<const char*, Behavior>, 5> behaviors{
      {{"Isolated", Behavior::isolated},
       {"Removed", Behavior::removed},
       {"MergedWithPrevious", Behavior::merged_with_previous},
       {"MergedWithNext", Behavior::merged_with_next},
       {"Contiguous", Behavior::contiguous}}};
  for (const auto& [known, behavior] : behaviors)
    if (name == known) return behavior;
  fail("tokenizer.json: Split's behavior \"{}\" is not one of Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous",
       name);
}

std::vector<Span> PreTokenizer::cut(std::string_view text, const Step& step) {
  struct Piece {
    Span span;
    bool match;
  };
  std::vector<Piece> pieces;
  std::size_t end = 0;
  const auto add = [&](std::size_t to, bool match) {
    if (to > end) pieces.push_back({{end, to}, match != step.invert});
    end = std::max(end, to);
  };
  for (const Span& span : step.pattern.find_all(text)) {
    add(span.begin, false);
    add(span.end, true);
  }
  add(text.size(), false);

  std::vector<Span> spans;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto& [span, match] = pieces[i];
    const bool after_match = i > 0 && pieces[i - 1].match;
    bool join = false;  // with the piece before
    switch (step.behavior) {
      case Behavior::isolated: break;
      case Behavior::removed:
        if (match) continue;
        break;
      case Behavior::merged_with_previous: join = match && i > 0 && !after_match; break;
      case Behavior::merged_with_next: join = !match && after_match; break;
      case Behavior::contiguous: join = i > 0 && match == after_match; break;
    }
    if (join) spans.back().end = span.end;
    else spans.push_back(span);
  }
  return spans;
}

std::vector<std::string> PreTokenizer::split(std::string_view text) const {
  std::vector<std::string> words;
  if (!text.empty()) words.emplace_back(text);
  for (std::size_t i = 0; i <= steps_.size(); ++i) {
    if (prefix_space_ && i == steps_before_prefix_)
      for (std::string& word : words)
        if (word.front() != ' ') word.insert(word.begin(), ' ');
    if (i == steps_.size()) break;
    std::vector<std::string> finer;
    for (const std::string& word : words)
      for (const Span& span : cut(word, steps_[i])) finer.push_back(word.substr(span.begin, span.end - span.begin));
    words = std::move(finer);
  }
  return words;
}

}  // namespace graft::llama
