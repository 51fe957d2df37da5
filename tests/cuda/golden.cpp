// The golden cases on a GPU: the very checks of golden_tests, with the tolerances that they have there.
#include "graft/tests/golden/golden.h"

namespace {

[[maybe_unused]] const bool added = (golden::add_for_device(), true);

}  // namespace
