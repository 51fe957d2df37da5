#include "graft/core/autocast.h"

namespace graft::autocast {
namespace {

std::optional<DType>& current(Device::Type device) {
  thread_local std::optional<DType> dtypes[2];
  return dtypes[device == Device::Type::cpu ? 0 : 1];
}

}  // namespace

std::optional<DType> dtype(Device::Type device) { return current(device); }

Guard::Guard(Device::Type device, std::optional<DType> dtype) : device_(device), previous_(current(device)) {
  check<TypeError>(!dtype || is_half(*dtype), "autocast lowers to bf16 or f16, not to {}", dtype.value_or(DType::f32));
  current(device) = dtype;
}

Guard::~Guard() { current(device_) = previous_; }

}  // namespace graft::autocast
