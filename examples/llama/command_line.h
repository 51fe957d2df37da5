// What the command lines of both programs share.
#pragma once

#include <filesystem>
#include <functional>

#include "graft/core/dtype.h"

namespace CLI {
class App;
}

namespace graft::llama {

/// A file or folder that the example ships, by its path below examples/.
std::filesystem::path shipped_file(const std::filesystem::path& path);
/// The shipped checkpoint.
std::filesystem::path default_model();

/// Parses; false after --help, which has printed its answer. ValueError for what is not understood.
bool parse_command_line(CLI::App& app, int argc, const char* const* argv);

/// f32, f16 or bf16; ValueError otherwise.
DType parse_model_dtype(const std::string& name);

/// Runs a program: an exception becomes one message on stderr and exit code 1.
int run_program(const char* name, const std::function<int()>& program);

}  // namespace graft::llama
