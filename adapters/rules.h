// Rules beyond those of Registry::builtin(), for programs that want what PEFT refuses.
#pragma once

#include "graft/adapters/registry.h"

namespace graft::rules {

/// DoRA on GPTQ, AWQ and EETQ layers, where PEFT's wrappers refuse it.
Registry::Rule<LoraConfig> quantized_dora();
/// QA-LoRA on AWQ and EETQ layers.
Registry::Rule<LoraConfig> quantized_qalora();

}  // namespace graft::rules
