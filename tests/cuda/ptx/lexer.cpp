#include "lexer.h"

#include <bit>
#include <charconv>
#include <cstdlib>

namespace graft::ptx {
namespace {

bool is_word_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.';
}

}  // namespace

void syntax_error(std::size_t line, std::string_view text, std::string_view reason) {
  fail<SyntaxError>("PTX line {}: {}: {}", line, text, reason);
}

bool Token::is_word() const { return !text.empty() && is_word_character(text[0]); }

void Lexer::advance() {
  while (at_ < end_) {
    const char c = text_[at_];
    if (c == '\n') ++line_;
    if (std::isspace(static_cast<unsigned char>(c))) {
      ++at_;
    } else if (text_.substr(at_, 2) == "//") {
      at_ = std::min(text_.find('\n', at_), end_);
    } else if (text_.substr(at_, 2) == "/*") {
      const auto close = std::min(text_.find("*/", at_ + 2), end_ - 2);
      for (; at_ < close + 2; ++at_) line_ += text_[at_] == '\n';
    } else {
      break;
    }
  }
  if (at_ >= end_) {
    next_ = {text_.substr(end_, 0), line_};
    return;
  }
  const std::size_t begin = at_;
  if (text_[at_] == '"') {
    at_ = std::min(text_.find('"', at_ + 1), end_ - 1) + 1;
  } else if (is_word_character(text_[at_])) {
    while (at_ < end_ && (is_word_character(text_[at_]) || text_.substr(at_, 2) == "::")) at_ += text_[at_] == ':' ? 2 : 1;
  } else {
    ++at_;
  }
  next_ = {text_.substr(begin, at_ - begin), line_};
}

Token Lexer::take() {
  const Token token = next_;
  if (token.text.empty()) fail("the text ends here");
  advance();
  return token;
}

bool Lexer::accept(std::string_view text) {
  if (next_.text != text) return false;
  advance();
  return true;
}

void Lexer::expect(std::string_view text) {
  if (!accept(text)) fail(fmt::format("wanted '{}'", text));
}

std::size_t Lexer::skip_block() {
  for (int depth = 1;;) {
    const std::size_t at = position();
    const Token token = take();
    if (token == "{") ++depth;
    if (token == "}" && --depth == 0) return at;
  }
}

void Lexer::fail(std::string_view reason) const { syntax_error(next_.line, next_.text, reason); }

std::uint64_t number(const Token& token) {
  std::string_view text = token.text;
  if (text.ends_with('U')) text.remove_suffix(1);
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X") || text.starts_with("0f") || text.starts_with("0F") ||
      text.starts_with("0d") || text.starts_with("0D")) {
    base = 16, text.remove_prefix(2);
  } else if (text.starts_with("0b") || text.starts_with("0B")) {
    base = 2, text.remove_prefix(2);
  } else if (text.find_first_of(".eE") != text.npos) {
    char* end = nullptr;
    const std::string copy(text);
    const double value = std::strtod(copy.c_str(), &end);
    if (*end) syntax_error(token.line, token.text, "not a number");
    return std::bit_cast<std::uint64_t>(value);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
  }
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) syntax_error(token.line, token.text, "not a number");
  return value;
}

}  // namespace graft::ptx
