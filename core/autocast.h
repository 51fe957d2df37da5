// Autocast: within a guard, matrix products on a device run in a lower dtype. The casts are recorded operations, so backward
// needs no policy of its own.
#pragma once

#include <optional>

#include "graft/core/device.h"
#include "graft/core/dtype.h"

namespace graft::autocast {

/// The dtype that products are lowered to on this kind of device, in this thread; none when autocast is off.
std::optional<DType> dtype(Device::Type device);

/// Sets it for a scope: bf16, f16, or none to switch autocast off; TypeError for other dtypes.
class Guard {
 public:
  Guard(Device::Type device, std::optional<DType> dtype);
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

 private:
  Device::Type device_;
  std::optional<DType> previous_;
};

}  // namespace graft::autocast
