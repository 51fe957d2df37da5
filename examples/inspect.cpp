// Prints what a quantized checkpoint was understood to be: per module its format, sizes, and how its zero points or bytes are
// read and why.
#include "graft/quant/inspect.h"

#include <cstdio>

#include "graft/examples/llama/command_line.h"

namespace graft {
namespace {

int inspect(int argc, const char* const* argv) {
  llama::CommandLine line{"What Graft understands of a GPTQ, AWQ or EETQ folder"};
  std::string folder;
  quant::Choices choices;
  line.required_option("folder", &folder, "the model's folder");
  line.option("--layout", &choices.layout, "read modules in this layout, whatever the data show");
  line.option("--zeros", &choices.zeros,
              "GPTQ: how zero points are stored, \"z\", \"z-1 per field\", \"z-1 per word\" or \"z-1 scrambled\"");
  line.option("--producer-version", &choices.producer_version,
              "version of the tool that wrote the folder, where it names the tool alone");
  if (!line.parse(argc, argv)) return 0;
  const quant::Report report = quant::inspect(folder, choices);
  std::fputs(to_string(report).c_str(), stdout);
  for (const auto& module : report.modules)
    if (!module.error.empty()) return 1;
  return 0;
}

}  // namespace
}  // namespace graft

int main(int argc, char** argv) {
  return graft::llama::run_program("inspect", [&] { return graft::inspect(argc, argv); });
}
