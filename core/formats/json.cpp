#include "graft/core/formats/json.h"

namespace graft {

template <class Json>
Json parse_json(std::string_view text, bool throws) {
  return Json::parse(text, nullptr, throws);
}
template nlohmann::json parse_json(std::string_view text, bool throws);
template nlohmann::ordered_json parse_json(std::string_view text, bool throws);

std::string dump_json(const nlohmann::json& value, int indent) { return value.dump(indent); }
std::string dump_json(const nlohmann::ordered_json& value, int indent) { return value.dump(indent); }

}  // namespace graft
