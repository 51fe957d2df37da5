// What the command lines of the programs share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "graft/core/device.h"
#include "graft/core/dtype.h"

namespace graft::llama {

/// The options of a program, read by CLI11. Only command_line.cpp includes that: it takes longer to compile than a program.
class CommandLine {
 public:
  explicit CommandLine(const std::string& description);
  ~CommandLine();

  /// What an option is read into. The value beforehand is the default that --help shows.
  using Target = std::variant<std::string*, std::filesystem::path*, int*, std::int64_t*, double*, std::optional<std::int64_t>*,
                              std::optional<double>*, std::vector<std::string>*>;

  /// A name without dashes is that of a positional argument. Commas separate the words of a list.
  void option(const std::string& name, Target target, const std::string& description);
  void required_option(const std::string& name, Target target, const std::string& description);
  void flag(const std::string& name, bool& target, const std::string& description);
  /// --seed: a whole number from 0, which a number below is not taken for.
  void seed(std::uint64_t& target, const std::string& description);

  /// False after --help, which has printed its answer. ValueError for what is not understood.
  bool parse(int argc, const char* const* argv);
  /// The names of the options that were there.
  std::vector<std::string> given() const;

 private:
  struct Parser;
  std::unique_ptr<Parser> parser_;
};

/// A file or folder that the example ships, by its path below examples/.
std::filesystem::path shipped_file(const std::filesystem::path& path);
/// The shipped checkpoint.
std::filesystem::path default_model();

/// ValueError naming the option unless least ≤ value ≤ most.
void check_range(const char* option, std::int64_t value, std::int64_t least, std::int64_t most = std::int64_t{1} << 31);

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
