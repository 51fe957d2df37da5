// What the command lines of both programs share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "graft/core/device.h"
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

/// ValueError naming the option unless least ≤ value ≤ most.
void check_range(const char* option, std::int64_t value, std::int64_t least, std::int64_t most = std::int64_t{1} << 31);

/// Adds --seed: a whole number from 0, which a number below is not taken for.
void add_seed(CLI::App& app, std::uint64_t& seed, const std::string& description);

/// Computes with as many threads from here on, 0 for one per core; ValueError unless it is 0 to 1024.
void set_threads(int threads);

/// f32, f16 or bf16; ValueError otherwise.
DType parse_model_dtype(const std::string& name);

/// cpu, cuda or cuda:<index>. ValueError for anything else, and CudaError if there is no such GPU.
Device parse_device(const std::string& name);
inline constexpr const char* device_description = "where to compute: cpu, cuda, or cuda:<index> for one of several GPUs";

/// Runs a program: an exception becomes one message on stderr and exit code 1.
int run_program(const char* name, const std::function<int()>& program);

}  // namespace graft::llama
