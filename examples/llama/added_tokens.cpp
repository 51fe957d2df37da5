#include "graft/examples/llama/added_tokens.h"

#include <array>

#include "graft/examples/llama/pattern.h"
#include "graft/examples/llama/utf8.h"

namespace graft::llama {
namespace {

// Length of the code point that ends at `end`.
std::size_t sequence_before(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return end - begin;
}

bool touches_word(std::string_view text, std::size_t begin, std::size_t end) {
  // Unicode's definition of a word character; PCRE2's \w leaves marks out and takes every kind of number in.
  static const Pattern word = Pattern::regex(R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24B6}-\x{24E9}\x{200C}\x{200D}])");
  const auto is_word = [](std::string_view c) { return !word.find_all(c).empty(); };
  const std::size_t before = begin > 0 ? sequence_before(text, begin) : 0;
  return (before && is_word(text.substr(begin - before, before))) ||
         (end < text.size() && is_word(text.substr(end, utf8::sequence_at(text, end).bytes)));
}

// By first byte, so that a large text is not compared with every token at every byte.
using TokensByFirstByte = std::array<std::vector<const AddedToken*>, 256>;

const AddedToken* longest_at(std::string_view text, std::size_t at, const TokensByFirstByte& tokens) {
  const AddedToken* longest = nullptr;
  for (const AddedToken* token : tokens[static_cast<unsigned char>(text[at])])
    if (text.substr(at, token->content.size()) == token->content && (!longest || token->content.size() > longest->content.size()))
      longest = token;
  return longest;
}

void find_in(std::string_view text, const TokensByFirstByte& tokens, std::vector<Stretch>& found) {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* token = longest_at(text, at, tokens);
    if (!token) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = at + token->content.size();
    at = end;
    if (token->single_word && touches_word(text, begin, end)) continue;
    const auto is_space = [&](std::size_t from, std::size_t bytes) {
      return utf8::is_space(utf8::code_point(text.substr(from, bytes)));
    };
    while (token->lstrip && begin > done && is_space(begin - sequence_before(text, begin), sequence_before(text, begin)))
      begin -= sequence_before(text, begin);
    while (token->rstrip && end < text.size() && is_space(end, utf8::sequence_at(text, end).bytes))
      end += utf8::sequence_at(text, end).bytes;
    if (begin > done) found.push_back({text.substr(done, begin - done)});
    found.push_back({text.substr(begin, end - begin), token->id});
    at = done = end;
  }
  if (done < text.size()) found.push_back({text.substr(done)});
}

}  // namespace

std::vector<Stretch> find_added_tokens(std::string_view text, const std::vector<AddedToken>& tokens) {
  std::vector<Stretch> stretches{{text}};
  for (const bool normalized : {false, true}) {
    TokensByFirstByte chosen;
    for (const AddedToken& token : tokens)
      if (token.normalized == normalized && !token.content.empty())
        chosen[static_cast<unsigned char>(token.content.front())].push_back(&token);
    std::vector<Stretch> finer;
    for (const Stretch& stretch : stretches) {
      if (stretch.id >= 0) finer.push_back(stretch);
      else find_in(stretch.text, chosen, finer);
    }
    stretches = std::move(finer);
  }
  return stretches;
}

}  // namespace graft::llama
