#include "graft/quant/formats/stored.h"

#include <algorithm>
#include <cmath>

namespace graft::quant {

Tensor find(const Stored& stored, std::string_view name) {
  const auto found = stored.tensors.find(std::string(name));
  return found == stored.tensors.end() ? Tensor() : found->second;
}

Tensor checked(const Stored& stored, std::string_view name, std::initializer_list<DType> dtypes, const Shape& shape) {
  const Tensor tensor = find(stored, name);
  require(tensor.defined(), stored, "has no {}", name);
  require<TypeError>(std::find(dtypes.begin(), dtypes.end(), tensor.dtype()) != dtypes.end(), stored, "{} holds {}, not {}", name,
                     tensor.dtype(), fmt::join(dtypes, " or "));
  require(tensor.shape() == shape, stored, "{} has shape {}; {} in and {} out features, {} bits and groups of {} need {}", name,
          tensor.shape(), stored.in, stored.out, stored.description.bits, stored.description.group_size, shape);
  return tensor.is_contiguous() ? tensor : tensor.clone();
}

Tensor checked_f32(const Stored& stored, std::string_view name, const Shape& shape) {
  const Tensor tensor = checked(stored, name, {DType::f16, DType::bf16, DType::f32}, shape);
  Tensor values = Tensor::empty(shape);
  values.copy_(tensor);
  const float* begin = values.data<float>();
  for (std::int64_t i = 0; i < values.count(); ++i)
    if (!std::isfinite(begin[i])) refuse(stored, "{} is {} at element {}; every one must be finite", name, begin[i], i);
  return values;
}

Tensor checked_bias(const Stored& stored) {
  if (!find(stored, "bias").defined()) return {};
  return checked(stored, "bias", {DType::f16, DType::bf16, DType::f32}, {stored.out});
}

std::int64_t group_length(const Stored& stored) {
  const std::int64_t size = stored.description.group_size;
  require(size == -1 || size > 0, stored, "group_size is {}; it must be positive, or -1 for one group", size);
  return size > 0 ? std::min(size, stored.in) : stored.in;
}

std::vector<std::int32_t> groups_in_order(std::int64_t in, std::int64_t length) {
  std::vector<std::int32_t> groups(static_cast<std::size_t>(in));
  for (std::int64_t k = 0; k < in; ++k) groups[static_cast<std::size_t>(k)] = static_cast<std::int32_t>(k / length);
  return groups;
}

}  // namespace graft::quant
