// JSON text, read and written. A source that has nlohmann's parser or its serializer spends most of its compile time on them, so that
// both are compiled once, behind these.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>

namespace graft {

/// The value that a text stands for; Json is nlohmann::json or nlohmann::ordered_json. Throws nlohmann's exceptions, or else gives a
/// discarded value, which is of no kind.
template <class Json>
Json parse_json(std::string_view text, bool throws = true);

/// On one line, or with so many spaces for each level.
std::string dump_json(const nlohmann::json& value, int indent = -1);
std::string dump_json(const nlohmann::ordered_json& value, int indent = -1);

}  // namespace graft
