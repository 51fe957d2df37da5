// Errors in tests: their class and what their message says.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "graft/core/error.h"

namespace graft::test {

/// Expects `f` to throw exactly an E whose message contains `words`.
template <class E, class F>
void expect_error(F f, const std::string& words) {
  try {
    f();
    ADD_FAILURE() << "nothing was thrown; wanted: " << words;
  } catch (const E& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << "message: " << error.what() << "\nwanted: " << words;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "an error of another class: " << error.what();
  }
}

}  // namespace graft::test
