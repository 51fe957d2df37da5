#include "graft/quant/quantize_config.h"

#include "graft/core/formats/json.h"

namespace graft::quant {
namespace {

using Json = nlohmann::ordered_json;

// What only the quantizer needed, for whoever wants to know how the file came about.
Json meta(const QuantizeMethod& method) {
  Json meta = {{"quantizer", Json::array({"graft:" GRAFT_VERSION})}};
  if (const auto* settings = std::get_if<GptqSettings>(&method)) {
    meta["damp_percent"] = settings->damp_percent;
    meta["damp_auto_increment"] = settings->damp_step;
    meta["static_groups"] = settings->static_groups;
    meta["true_sequential"] = true;
    meta["mse"] = settings->grid.mse;
    meta["act_group_aware"] = settings->act_group_aware;
  }
  return meta;
}

// Old and new readers look for the method and the layout under different names; GPTQModel writes both too.
Json gptq_config(const QuantizeMethod& method, std::string_view layout) {
  const auto* settings = std::get_if<GptqSettings>(&method);
  const Grid& grid = grid_of(method);
  return {{"quant_method", "gptq"}, {"method", "gptq"},
          {"bits", grid.bits},      {"group_size", grid.group_size},
          {"sym", grid.sym},        {"desc_act", settings && settings->desc_act},
          {"lm_head", false},       {"checkpoint_format", layout},
          {"format", layout},       {"pack_dtype", "int32"},
          {"meta", meta(method)}};
}

Json awq_config(const QuantizeMethod& method, std::string_view layout) {
  const Grid& grid = grid_of(method);
  return {{"quant_method", "awq"},
          {"method", "awq"},
          {"bits", grid.bits},
          {"group_size", grid.group_size},
          {"zero_point", !grid.sym},
          {"sym", grid.sym},
          {"desc_act", false},
          {"lm_head", false},
          {"version", layout},
          {"checkpoint_format", layout},
          {"format", layout},
          {"pack_dtype", "int32"},
          {"modules_to_not_convert", nullptr},
          {"meta", meta(method)}};
}

// Readers of EETQ take this as it is: the bytes do not say for which GPU they were arranged.
Json eetq_config() { return {{"quant_method", "eetq"}, {"weights", "int8"}, {"modules_to_not_convert", nullptr}}; }

}  // namespace

const Grid& grid_of(const QuantizeMethod& method) {
  return std::visit(
      []<class T>(const T& settings) -> const Grid& {
        if constexpr (std::is_same_v<T, Grid>) return settings;
        else return settings.grid;
      },
      method);
}

std::string quantization_config(const QuantizeMethod& method, std::string_view layout) {
  switch (grid_of(method).rule) {
    case GridRule::gptq: return dump_json(gptq_config(method, layout));
    case GridRule::awq: return dump_json(awq_config(method, layout));
    case GridRule::eetq: break;
  }
  return dump_json(eetq_config());
}

}  // namespace graft::quant
