// What the end of a function, and a call of the few functions that the driver provides, mean.
#pragma once

#include "instruction.h"

namespace graft::ptx {

void execute_exit(Warp&, const Instruction&, Lanes);
void execute_return(Warp&, const Instruction&, Lanes);

/// Writes the result of a barrier that votes, if it does.
void finish_barrier(Warp&, const Instruction&, unsigned votes, unsigned voters);

enum External : std::uint8_t { not_external, external_assert, external_print };

}  // namespace graft::ptx
