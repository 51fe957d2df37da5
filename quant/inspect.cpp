#include "graft/quant/inspect.h"

#include <algorithm>
#include <cmath>

namespace graft::quant {

Report inspect(const std::filesystem::path& folder, const Choices& choices) {
  const Checkpoint checkpoint = Checkpoint::open(folder, choices);
  Report report;
  report.bytes = checkpoint.bytes();
  const std::vector<std::string> names = checkpoint.names(), modules = checkpoint.quantized_modules();
  report.tensors = static_cast<std::int64_t>(names.size());
  for (const std::string& name : names)
    if (!std::binary_search(modules.begin(), modules.end(), name.substr(0, name.rfind('.')))) report.others.push_back(name);
  for (const std::string& name : modules) {
    ModuleReport& module = report.modules.emplace_back();
    module.name = name;
    try {
      const Decoded decoded = checkpoint.decode(name);
      module.description = decoded.description;
      module.in = decoded.in;
      module.out = decoded.out;
      // The planar layout has whole blocks of 32 only.
      const std::string& layout = decoded.description.layout;
      module.in_guessed = (layout == "gptq" || layout == "gptq_v2") && !checkpoint.contains(name + ".g_idx");
      module.bias = decoded.bias.defined();
      module.groups_in_order = decoded.group_size > 0;
      module.mean_distance = mean_distance(decoded);
      report.method = decoded.description.method;
    } catch (const Error& error) {
      module.error = error.what();
    }
  }
  return report;
}

std::string to_string(const Report& report) {
  std::string text =
      fmt::format("{} tensors, {} bytes; {} quantized modules\n", report.tensors, report.bytes, report.modules.size());
  for (const ModuleReport& module : report.modules) {
    if (!module.error.empty()) {
      text += fmt::format("{}: refused: {}\n", module.name, module.error);
      continue;
    }
    const Description& d = module.description;
    text += fmt::format("{}: {} {}, {} -> {}{}, {} bits, groups of {}{}{}; {}; mean of code - zero {:+.3f}", module.name,
                        d.method, d.layout, module.in, module.out, module.bias ? " with bias" : "", d.bits, d.group_size,
                        d.sym ? ", symmetric" : "", module.groups_in_order ? "" : ", act-order", d.reading, module.mean_distance);
    if (std::abs(std::abs(module.mean_distance) - 1) <= 0.25)
      text += ": zero points may be misread by one, see --zeros (Choices::zeros)";
    if (module.in_guessed)
      text += fmt::format("; {} inputs are a guess, as many as the words hold: there is no g_idx", module.in);
    text += "\n";
  }
  return text;
}

}  // namespace graft::quant
