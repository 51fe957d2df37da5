#include "graft/quant/auto_gptq.h"

namespace graft::quant {

std::string_view auto_gptq_class(const Description& config) {
  const bool width = config.bits == 2 || config.bits == 3 || config.bits == 4 || config.bits == 8;
  if (config.method != "gptq" || config.layout == "gptq_p" || config.layout == "marlin" || !width) return "";
  if (config.bits == 4 && config.exllama == 2) return "exllamav2";
  if (config.bits == 4 && config.exllama == 1) return "exllama";
  return config.desc_act && config.group_size != -1 ? "cuda" : "cuda_old";
}

}  // namespace graft::quant
