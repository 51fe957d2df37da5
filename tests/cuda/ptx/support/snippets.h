// Kernels of tests/cuda/ptx/snippets, as nvcc compiled them.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "../launch.h"

namespace graft::ptx {

inline Module snippet(const std::string& name) { return Module::read(std::string(GRAFT_PTX_DIR) + "/" + name + ".ptx"); }

/// Runs f, which must be a Fault whose reason has all of `parts`; returns it for more questions.
template <class F>
Fault fault_of(F f, std::initializer_list<std::string> parts) {
  try {
    f();
  } catch (const Fault& fault) {
    for (const std::string& part : parts)
      EXPECT_NE(std::string(fault.what()).find(part), std::string::npos) << "no '" << part << "' in: " << fault.what();
    return fault;
  }
  ADD_FAILURE() << "ran to its end, wanted a fault: " << *parts.begin();
  return Fault("", 0, "", {}, {}, "none");
}

}  // namespace graft::ptx
