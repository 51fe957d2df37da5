#include "graft/examples/llama/command_line.h"

#include <CLI/CLI.hpp>

#include <charconv>
#include <cstdio>

#include "graft/core/error.h"
#include "graft/core/parallel.h"

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

void check_range(const char* option, std::int64_t value, std::int64_t least, std::int64_t most) {
  check(least <= value && value <= most, "{} is {}, and a count from {} to {} is wanted", option, value, least, most);
}

void add_seed(CLI::App& app, std::uint64_t& seed, const std::string& description) {
  const auto no_sign = [](const std::string& text) {  // strtoull, which reads it, would count down from 2^64
    return text.find('-') == std::string::npos ? std::string() : fmt::format("{}, and a whole number from 0 is wanted", text);
  };
  app.add_option("--seed", seed, description)->check(no_sign);
}

void set_threads(int threads) {
  check_range("--threads", threads, 0, 1024);
  if (threads > 0) set_thread_pool(make_thread_pool(threads));
}

DType parse_model_dtype(const std::string& name) {
  const DType dtype = dtype_from_name(name);
  check(dtype == DType::f32 || is_half(dtype), "--dtype is {}, and f32, bf16 or f16 is wanted", name);
  return dtype;
}

Device parse_device(const std::string& name) {
  Device device = Device::cpu();
  if (name.starts_with("cuda")) {
    device = Device::cuda();
    if (name.size() > 4) {
      const char *begin = name.data() + 5, *end = name.data() + name.size();
      const auto [stopped, error] = std::from_chars(std::min(begin, end), end, device.index);
      if (name[4] != ':' || error != std::errc() || stopped != end || device.index < 0) device = Device::cpu();
    }
  }
  check(!device.is_cpu() || name == "cpu", "--device is {}, and cpu, cuda or cuda:<index> is wanted", name);
  runtime(device);
  return device;
}

int run_program(const char* name, const std::function<int()>& program) try {
  return program();
} catch (const std::exception& error) {
  std::fflush(stdout);
  fmt::print(stderr, "{}: {}\n", name, error.what());
  return 1;
}

}  // namespace graft::llama
