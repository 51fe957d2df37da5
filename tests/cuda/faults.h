// Faults planted in the shipped text of the library's kernels, and what the interpreter says about them. Not for GPUs, which would say
// nothing.
#pragma once

#include "interpreter.h"
#include "ptx/support/snippets.h"

namespace graft::cuda {

/// Runs f with `edits` in the text of `kernel`: it must end in a fault of this kernel, whose reason has all of `parts`.
template <class F>
void expect_fault(const char* image, const std::string& kernel, const std::vector<Edit>& edits,
                  std::initializer_list<std::string> parts, F f) {
  const Edited edited(image, kernel, edits);
  EXPECT_EQ(ptx::fault_of(f, parts).kernel, kernel);
}

}  // namespace graft::cuda
