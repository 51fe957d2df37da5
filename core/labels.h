// What a label may be.
#pragma once

#include <cstdint>

#include "graft/core/error.h"

namespace graft {

/// The label, ValueError unless it is the ignored one or one of the classes.
inline std::int64_t checked_label(std::int64_t label, std::int64_t ignored, std::int64_t classes) {
  check(label == ignored || (label >= 0 && label < classes),
        "cross_entropy: label {} is neither one of {} classes nor the ignored label {}", label, classes, ignored);
  return label;
}

}  // namespace graft
