// Floating instructions whose opcodes integers have too.
#pragma once

#include "spelling.h"

namespace graft::ptx {

/// i.type holds the type, f16, f16x2, bf16, bf16x2, f32 or f64.
void decode_float_add(Spelling&, Instruction&);
void decode_float_sub(Spelling&, Instruction&);
void decode_float_mul(Spelling&, Instruction&);
void decode_float_fma(Spelling&, Instruction&);
void decode_float_div(Spelling&, Instruction&);
void decode_float_min(Spelling&, Instruction&);
void decode_float_max(Spelling&, Instruction&);
void decode_float_abs(Spelling&, Instruction&);
void decode_float_neg(Spelling&, Instruction&);

}  // namespace graft::ptx
