#include "graft/examples/llama/command_line.h"

#include <CLI/CLI.hpp>

#include <charconv>
#include <cstdio>

#include "graft/core/error.h"
#include "graft/core/parallel.h"

namespace graft::llama {

struct CommandLine::Parser {
  explicit Parser(const std::string& description) : app(description) { app.option_defaults()->always_capture_default(); }

  CLI::Option* add(const std::string& name, Target target, const std::string& description) {
    CLI::Option* option = std::visit([&](auto* value) { return app.add_option(name, *value, description); }, target);
    if (std::holds_alternative<std::vector<std::string>*>(target)) option->delimiter(',');
    return option;
  }

  CLI::App app;
};

CommandLine::CommandLine(const std::string& description) : parser_(std::make_unique<Parser>(description)) {}
CommandLine::~CommandLine() = default;

void CommandLine::option(const std::string& name, Target target, const std::string& description) {
  parser_->add(name, target, description);
}

void CommandLine::required_option(const std::string& name, Target target, const std::string& description) {
  parser_->add(name, target, description)->required();
}

void CommandLine::flag(const std::string& name, bool& target, const std::string& description) {
  parser_->app.add_flag(name, target, description);
}

void CommandLine::seed(std::uint64_t& target, const std::string& description) {
  const auto no_sign = [](const std::string& text) {  // strtoull, which reads it, would count down from 2^64
    return text.find('-') == std::string::npos ? std::string() : fmt::format("{}, and a whole number from 0 is wanted", text);
  };
  parser_->app.add_option("--seed", target, description)->check(no_sign);
}

bool CommandLine::parse(int argc, const char* const* argv) try {
  parser_->app.parse(argc, argv);
  return true;
} catch (const CLI::CallForHelp&) {
  fmt::print("{}", parser_->app.help());
  return false;
} catch (const CLI::ParseError& error) {
  fail("{} (--help lists the options)", error.what());
}

std::vector<std::string> CommandLine::given() const {
  std::vector<std::string> names;
  for (const CLI::Option* option : parser_->app.get_options())
    if (option->count() > 0) names.push_back(option->get_name());
  return names;
}

std::filesystem::path shipped_file(const std::filesystem::path& path) { return std::filesystem::path(GRAFT_EXAMPLES_DIR) / path; }

std::filesystem::path default_model() { return shipped_file("models/tiny-llama-gptq"); }

void check_range(const char* option, std::int64_t value, std::int64_t least, std::int64_t most) {
  check(least <= value && value <= most, "{} is {}, and a count from {} to {} is wanted", option, value, least, most);
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
