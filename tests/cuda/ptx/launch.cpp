#include "launch.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <list>
#include <sstream>

#include "block.h"

namespace graft::ptx {
namespace {

const Function& find_kernel(const Program& program, std::string_view name) {
  if (const auto exact = program.function_named.find(name);
      exact != program.function_named.end() && program.functions[exact->second].kernel)
    return program.functions[exact->second];
  const std::string mangled = fmt::format("{}{}", name.size(), name);
  const Function* found = nullptr;
  std::string known;
  for (const Function& function : program.functions) {
    if (!function.kernel) continue;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", function.name);
    const auto at = function.name.find(mangled);
    if (at == function.name.npos || (at > 0 && function.name[at - 1] >= '0' && function.name[at - 1] <= '9')) continue;
    check(!found, "kernel '{}' could be {} or {}", name, found ? found->name : "", function.name);
    found = &function;
  }
  check(found, "no kernel '{}' in this module, which has {}", name, known);
  return *found;
}

std::vector<std::byte> lay_out(const Kernel& kernel, std::span<const Argument> arguments) {
  check(arguments.size() == kernel.parameters.size(), "{} takes {} arguments, got {}", kernel.name, kernel.parameters.size(),
        arguments.size());
  std::vector<std::byte> bytes(kernel.parameter_bytes);
  for (std::size_t at = 0; at < arguments.size(); ++at) {
    const Parameter& parameter = kernel.parameters[at];
    check(arguments[at].bytes == parameter.size, "argument {} of {} has {} bytes, got {}", at, kernel.name, parameter.size,
          arguments[at].bytes);
    std::memcpy(bytes.data() + parameter.offset, arguments[at].data, parameter.size);
  }
  return bytes;
}

void check_launch(const Kernel& kernel, const Launch& launch) {
  check(launch.grid.size() > 0 && launch.block.size() > 0, "{}: an empty launch of {} blocks of {} threads", kernel.name,
        launch.grid.size(), launch.block.size());
  check(launch.block.size() <= 1024 && launch.block.z <= 64, "{}: a block of {} threads, {} deep; at most 1024 and 64",
        kernel.name, launch.block.size(), launch.block.z);
  check(launch.grid.y <= 65535 && launch.grid.z <= 65535 && launch.grid.x <= 0x7fffffff, "{}: a grid of {} x {} x {} blocks",
        kernel.name, launch.grid.x, launch.grid.y, launch.grid.z);
  const std::size_t shared = kernel.dynamic_shared_at + launch.dynamic_shared;
  check(shared <= address::shared_limit, "{}: {} bytes of shared memory, at most {}", kernel.name, shared, address::shared_limit);
  check(launch.resident_blocks > 0, "{}: no resident blocks", kernel.name);
}

std::string message(const Fault& fault) {
  return fmt::format("{}: block ({}, {}, {}) thread ({}, {}, {}): {}\n  line {}: {}", fault.kernel, fault.block.x, fault.block.y,
                     fault.block.z, fault.thread.x, fault.thread.y, fault.thread.z, fault.reason, fault.line, fault.instruction);
}

/// Passes over all blocks that run side by side in which nothing happens that another warp could wait for, before they are held to be stuck.
constexpr unsigned patience = 256;

}  // namespace

Fault::Fault(std::string in, std::size_t at, std::string text, Dim in_block, Dim in_thread, std::string why)
    : Error(""),
      kernel(std::move(in)),
      instruction(std::move(text)),
      reason(std::move(why)),
      line(at),
      block(in_block),
      thread(in_thread) {
  static_cast<Error&>(*this) = Error(message(*this));
}

Module Module::parse(std::string text) { return {ptx::parse(std::move(text))}; }

Module Module::read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  check<FileError>(file.good(), "{}: cannot be read", path.string());
  std::ostringstream text;
  text << file.rdbuf();
  return parse(std::move(text).str());
}

std::vector<std::string> Module::kernels() const {
  std::vector<std::string> names;
  for (const Function& function : program->functions)
    if (function.kernel) names.push_back(function.name);
  return names;
}

void Module::decode_all() const {
  for (const Function& function : program->functions)
    if (function.kernel) program->kernel(function);
}

Memory::Memory() : contents(std::make_shared<GlobalMemory>()) {}

std::uint64_t Memory::add(void* host, std::size_t bytes, std::string name, bool writable, bool defined) {
  check(bytes < address::middle, "'{}' has {} bytes, at most {}", name, bytes, address::middle - 1);
  check(contents->buffers.size() < 0x3000, "more than {} buffers", contents->buffers.size());
  contents->buffers.push_back(
      {std::move(name), static_cast<std::byte*>(host), bytes, writable, std::vector<std::uint8_t>(defined ? 0 : bytes)});
  return address::buffers + (contents->buffers.size() - 1) * address::slot_size;
}

std::size_t Memory::unwritten(const void* device) const try {
  const auto [allocation, offset] = contents->at(reinterpret_cast<std::uint64_t>(device));
  return std::size_t(std::count(allocation->written.begin(), allocation->written.end(), 0));
} catch (const Refusal& refusal) {
  throw ValueError(refusal.reason);
}

std::span<std::byte> Memory::symbol(const Module& module, std::string_view name) {
  const auto at = module.program->variable_named.find(name);
  check(at != module.program->variable_named.end(), "no variable '{}' in this module", name);
  contents->bind(module.program);
  Allocation& allocation = (*contents->variables)[at->second];
  return {allocation.data, allocation.size};
}

Report run(const Module& module, std::string_view name, const Launch& launch, Memory& memory,
           std::span<const Argument> arguments) {
  Program& program = *module.program;
  const Kernel& kernel = program.kernel(find_kernel(program, name));
  check_launch(kernel, launch);
  memory.contents->bind(module.program);
  Grid grid{program, kernel, launch, *memory.contents, lay_out(kernel, arguments), {}};

  std::list<Block> resident;
  std::size_t next = 0;
  unsigned idle = 0;
  const std::size_t blocks = launch.grid.size();
  while (next < blocks || !resident.empty()) {
    while (next < blocks && resident.size() < launch.resident_blocks) {
      const Dim size = launch.grid;
      resident.emplace_back(grid,
                            Dim{unsigned(next % size.x), unsigned(next / size.x % size.y), unsigned(next / size.x / size.y)});
      ++next;
    }
    bool moved = false;
    for (Block& block : resident) {
      block.run();
      moved |= block.moved();
    }
    resident.remove_if([](const Block& block) { return block.ended(); });
    idle = moved ? 0 : idle + 1;
    if (resident.empty()) continue;
    if (idle > patience) resident.front().stuck("deadlock: no warp can go on");
    if (grid.report.instructions > launch.max_instructions)
      resident.front().stuck(fmt::format("still running after {} instructions", launch.max_instructions));
  }
  return grid.report;
}

}  // namespace graft::ptx
