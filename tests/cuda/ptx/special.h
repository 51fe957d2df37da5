// Special registers: %tid.x, %laneid and their like.
#pragma once

#include <string_view>

#include "instruction.h"

namespace graft::ptx {

bool is_special(std::string_view name);
/// Whether it goes on while the kernel runs.
bool is_clock(std::string_view name);
std::uint64_t special_value(std::string_view name, const Warp& warp, unsigned lane);
/// mov from a clock: the number of instructions that the block has run.
void execute_clock(Warp&, const Instruction&, Lanes);

}  // namespace graft::ptx
