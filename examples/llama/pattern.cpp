#define PCRE2_CODE_UNIT_WIDTH 8
#include "graft/examples/llama/pattern.h"

#include <pcre2.h>

#include "graft/core/error.h"
#include "graft/examples/llama/utf8.h"

namespace graft::llama {
namespace {

std::string message(int error) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

pcre2_code* compile(const std::string& expression, std::uint32_t options) {
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(), PCRE2_UTF | options,
                                   &error, &at, nullptr);
  check(code != nullptr, "the pattern \"{}\" is malformed at byte {}: {}", expression, at, message(error));
  return code;
}

}  // namespace

Pattern Pattern::regex(const std::string& expression) {
  Pattern pattern;
  pattern.code_.reset(compile(expression, PCRE2_UCP), [](pcre2_code* code) { pcre2_code_free(code); });
  return pattern;
}

Pattern Pattern::literal(const std::string& text) {
  Pattern pattern;
  pattern.code_.reset(compile(text, PCRE2_LITERAL), [](pcre2_code* code) { pcre2_code_free(code); });
  return pattern;
}

std::vector<Span> Pattern::find_all(std::string_view text) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(pcre2_match_data_create_from_pattern(code, nullptr),
                                                                             pcre2_match_data_free);
  std::vector<Span> spans;
  for (std::size_t from = 0; from < text.size();) {
    // The text was checked once; letting PCRE2 check it again from every starting point would take quadratic time.
    const int found =
        pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, PCRE2_NO_UTF_CHECK, match.get(), nullptr);
    if (found == PCRE2_ERROR_NOMATCH) break;
    check(found >= 0, "searching a text of {} bytes failed at byte {}: {}", text.size(), from, message(found));
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
    if (bounds[1] > bounds[0]) {
      spans.push_back({bounds[0], bounds[1]});
      from = bounds[1];
    } else {
      from = bounds[1] < text.size() ? bounds[1] + utf8::sequence_at(text, bounds[1]).bytes : text.size();
    }
  }
  return spans;
}

}  // namespace graft::llama
