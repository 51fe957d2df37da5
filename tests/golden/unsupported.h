// The kinds of golden cases that Graft does not support yet. Each is registered and counted as skipped, with its reason.
#pragma once

#include <fnmatch.h>

#include <array>
#include <string>

namespace golden {

struct Unsupported {
  const char* suite;
  const char* pattern;  // of the case's name, as a shell would match it
  const char* reason;
};

inline constexpr std::array<Unsupported, 0> unsupported = {};

/// Why this case is not supported; null if it is.
inline const char* why_unsupported(const std::string& suite, const std::string& name) {
  for (const Unsupported& row : unsupported)
    if (row.suite == suite && fnmatch(row.pattern, name.c_str(), 0) == 0) return row.reason;
  return nullptr;
}

}  // namespace golden
