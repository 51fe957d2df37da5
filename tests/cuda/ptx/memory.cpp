#include "memory.h"

#include <algorithm>
#include <cstring>

namespace graft::ptx {
namespace {

void check_bounds(const Allocation& allocation, std::int64_t offset, std::size_t bytes) {
  if (offset < 0 || std::size_t(offset) + bytes > allocation.size)
    refuse("out of bounds: {} bytes at offset {} of '{}', which has {} bytes", bytes, offset, allocation.name, allocation.size);
}

}  // namespace

void check_aligned(std::uint64_t address, std::size_t bytes) {
  if (address % bytes) refuse("misaligned: {} bytes at address {:#x}", bytes, address);
}

const std::byte* Allocation::read(std::int64_t offset, std::size_t bytes) const {
  check_bounds(*this, offset, bytes);
  if (!written.empty()) {
    const auto begin = written.begin() + std::ptrdiff_t(offset);
    const auto hole = std::find(begin, begin + std::ptrdiff_t(bytes), 0);
    if (hole != begin + std::ptrdiff_t(bytes))
      refuse("reads byte {} of '{}', which nobody has written", hole - written.begin(), name);
  }
  return data + offset;
}

std::byte* Allocation::write(std::int64_t offset, std::size_t bytes) {
  check_bounds(*this, offset, bytes);
  if (!writable) refuse("writes '{}', which is const", name);
  if (!written.empty()) std::fill_n(written.begin() + std::ptrdiff_t(offset), bytes, 1);
  return data + offset;
}

std::pair<Allocation*, std::int64_t> GlobalMemory::at(std::uint64_t address) {
  const std::uint64_t slot = address / address::slot_size;
  const std::int64_t offset = std::int64_t(address % address::slot_size) - std::int64_t(address::middle);
  constexpr std::uint64_t first = address::buffers / address::slot_size, first_variable = address::variables / address::slot_size;
  if (slot >= first && slot - first < buffers.size()) return {&buffers[slot - first], offset};
  if (variables && slot >= first_variable && slot - first_variable < variables->size() &&
      (*variables)[slot - first_variable].data)
    return {&(*variables)[slot - first_variable], offset};
  refuse("out of bounds: no buffer at address {:#x}", address);
}

void GlobalMemory::bind(const std::shared_ptr<Program>& program) {
  const auto [entry, added] = modules_.try_emplace(program);
  Variables& module = entry->second;
  variables = &module.allocations;
  if (!added) return;
  for (const Variable& variable : program->variables) {
    module.bytes.push_back(variable.initial);
    const bool shared = variable.space == Space::shared;
    module.allocations.push_back(
        {variable.name, shared ? nullptr : module.bytes.back().data(), variable.size, variable.space == Space::global, {}});
    for (const auto& [offset, name] : variable.relocations) {
      const auto target = program->variable_named.find(name);
      if (target == program->variable_named.end())
        fail<SyntaxError>("'{}' holds the address of '{}', which is not a variable", variable.name, name);
      std::uint64_t bits = 0;
      std::memcpy(&bits, module.bytes.back().data() + offset, sizeof bits);
      bits += address::variables + target->second * address::slot_size;
      std::memcpy(module.bytes.back().data() + offset, &bits, sizeof bits);
    }
  }
}

}  // namespace graft::ptx
