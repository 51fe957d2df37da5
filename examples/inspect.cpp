// Prints what a quantized checkpoint was understood to be: per module its format, sizes, and how its zero points or bytes are
// read and why.
#include "graft/quant/inspect.h"

#include <CLI/CLI.hpp>

#include <cstdio>

int main(int argc, char** argv) {
  CLI::App app{"What Graft understands of a GPTQ, AWQ or EETQ folder"};
  std::string folder;
  graft::quant::Choices choices;
  app.add_option("folder", folder, "the model's folder")->required();
  app.add_option("--layout", choices.layout, "read modules in this layout, whatever the data show");
  app.add_option("--zeros", choices.zeros,
                 "GPTQ: how zero points are stored, \"z\", \"z-1 per field\", \"z-1 per word\" or \"z-1 scrambled\"");
  app.add_option("--producer-version", choices.producer_version,
                 "version of the tool that wrote the folder, where it names the tool alone");
  CLI11_PARSE(app, argc, argv);
  try {
    const graft::quant::Report report = graft::quant::inspect(folder, choices);
    std::fputs(to_string(report).c_str(), stdout);
    for (const auto& module : report.modules)
      if (!module.error.empty()) return 1;
  } catch (const graft::Error& error) {
    std::fprintf(stderr, "inspect: %s\n", error.what());
    return 1;
  }
  return 0;
}
