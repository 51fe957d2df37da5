// A packed weight on another device.
#include "graft/quant/kernels.h"

namespace graft::quant {
namespace {

std::shared_ptr<Storage> moved(const Storage& storage, Device device) {
  auto there = Storage::allocate(storage.bytes(), device);
  DeviceRuntime& mover = runtime(device.is_cpu() ? storage.device() : device);
  mover.copy(there->data(), device, storage.data(), storage.device(), static_cast<std::size_t>(storage.bytes()));
  return there;
}

/// Channel and group of each row, which kernels off the CPU look up.
std::shared_ptr<Storage> places_of(const Packed& weight) {
  auto storage = Storage::allocate(2 * weight.rows * std::int64_t{sizeof(std::int32_t)});
  auto* place = static_cast<std::int32_t*>(storage->data());
  for (const Packed::Segment& segment : weight.segments)
    for (std::int32_t row = segment.begin; row < segment.end; ++row) {
      const bool named = !weight.order.empty();
      place[2 * row] = named ? weight.order[static_cast<std::size_t>(row)] : row < weight.in ? row : -1;
      place[2 * row + 1] = segment.group;
    }
  return storage;
}

}  // namespace

std::shared_ptr<const Packed> move_to(std::shared_ptr<const Packed> weight, Device device) {
  if (weight->device() == device) return weight;
  auto there = std::make_shared<Packed>(*weight);
  for (auto storage : {&Packed::codes, &Packed::scales, &Packed::zeros})
    there.get()->*storage = moved(*(weight.get()->*storage), device);
  there->places = device.is_cpu() ? nullptr : moved(*places_of(*weight), device);
  return there;
}

}  // namespace graft::quant
