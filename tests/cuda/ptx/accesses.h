// Modifiers that all instructions that touch memory have.
#pragma once

#include "spelling.h"

namespace graft::ptx {

/// Takes the space, generic where none is written.
Space take_space(Spelling& s);
/// Takes semantics and scope: i.strong, i.acquire, i.release.
void take_semantics(Spelling& s, Instruction& i);
/// Takes hints to the caches, which change nothing here.
void take_hints(Spelling& s);

}  // namespace graft::ptx
