// Rules beyond those of Registry::builtin(), for programs that want what PEFT refuses, or does by now.
#pragma once

#include "graft/adapters/registry.h"

namespace graft::rules {

/// DoRA on GPTQ, AWQ and EETQ layers, where PEFT's wrappers refuse it.
Registry::Rule<LoraConfig> quantized_dora();
/// QA-LoRA on AWQ and EETQ layers.
Registry::Rule<LoraConfig> quantized_qalora();
/// OFT on GPTQ and EETQ layers with the order of casts of PEFT ≥ 0.19: oft::Casts::per_rotation.
Registry::Rule<OFTConfig> oft_per_rotation();

}  // namespace graft::rules
