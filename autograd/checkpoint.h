// Gradient checkpointing: a part of a model keeps its inputs only, and is computed again when backward needs the rest.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "graft/core/module.h"

namespace graft {

/// The random generators of `root` and of everything below it. They stay where they are.
std::vector<Generator*> generators(Module& root);

/// f(inputs). Backward runs f again, under the states of autocast and tf32, in the call context (core/call_context.h: the choice of
/// adapters) and from the generators' states of now, which must be all that f draws from and must outlive backward. Gradients reach the
/// inputs and every leaf that f reads. ValueError at backward if one of them has changed in place since; NotImplementedError under
/// create_graph.
Tensor checkpoint(const std::function<Tensor(std::span<const Tensor>)>& f, std::span<const Tensor> inputs,
                  std::span<Generator* const> generators = {});

}  // namespace graft
