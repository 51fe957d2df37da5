#include "graft/examples/llama/command_line.h"

#include <CLI/CLI.hpp>

#include <cstdio>

#include "graft/core/error.h"

namespace graft::llama {

std::filesystem::path shipped_file(const std::filesystem::path& path) { return std::filesystem::path(GRAFT_EXAMPLES_DIR) / path; }

std::filesystem::path default_model() { return shipped_file("models/tiny-llama-gptq"); }

bool parse_command_line(CLI::App& app, int argc, const char* const* argv) try {
  app.parse(argc, argv);
  return true;
} catch (const CLI::CallForHelp&) {
  fmt::print("{}", app.help());
  return false;
} catch (const CLI::ParseError& error) {
  fail("{} (--help lists the options)", error.what());
}

DType parse_model_dtype(const std::string& name) {
  const DType dtype = dtype_from_name(name);
  check(dtype == DType::f32 || is_half(dtype), "--dtype is {}, and f32, bf16 or f16 is wanted", name);
  return dtype;
}

int run_program(const char* name, const std::function<int()>& program) try {
  return program();
} catch (const std::exception& error) {
  std::fflush(stdout);
  fmt::print(stderr, "{}: {}\n", name, error.what());
  return 1;
}

}  // namespace graft::llama
