// A golden layer: its base and its wrapper, built from what the file says.
#pragma once

#include <memory>

#include "graft/adapters/adapter.h"
#include "graft/adapters/oft.h"

#include "golden.h"

namespace golden {

/// The base layer of a case: dense, or packed tensors read as the metadata describes them.
std::shared_ptr<graft::LinearBase> base_layer(const Tensors& tensors);

/// The wrapper that the case names, with its adapters, active set and parameters. `today` asks for the casts of newer PEFT.
std::shared_ptr<graft::AdapterLayer> wrapped_layer(const Tensors& tensors, bool today = false);

/// The parameters below a layer by name, as references into it: "lora_A.default.weight".
std::map<std::string, graft::Tensor*> parameters(graft::AdapterLayer& layer);

graft::DType dtype_of(const Json& name);

}  // namespace golden
