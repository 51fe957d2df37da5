// What the formats share when they check a stored layer.
#pragma once

#include "graft/quant/format.h"

namespace graft::quant {

/// Throws E with the module's name in front.
template <class E = ValueError, class... Args>
[[noreturn]] void refuse(const Stored& stored, fmt::format_string<Args...> format, Args&&... args) {
  fail<E>("{}: {}", stored.module.empty() ? "layer" : stored.module, fmt::format(format, std::forward<Args>(args)...));
}

template <class E = ValueError, class... Args>
void require(bool ok, const Stored& stored, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) [[unlikely]]
    refuse<E>(stored, format, std::forward<Args>(args)...);
}

/// The tensor called `name`; undefined if there is none.
Tensor find(const Stored& stored, std::string_view name);

/// The same tensor, present, of one of these dtypes and of this shape; ValueError or TypeError otherwise.
Tensor checked(const Stored& stored, std::string_view name, std::initializer_list<DType> dtypes, const Shape& shape);

/// A floating tensor of this shape as f32; ValueError if an element is not finite.
Tensor checked_f32(const Stored& stored, std::string_view name, const Shape& shape);

/// The bias [out], of any floating dtype, as it is; undefined if there is none.
Tensor checked_bias(const Stored& stored);

/// Group length in channels: the configured size, or all of them when that is -1 or larger. ValueError for other sizes below 1.
std::int64_t group_length(const Stored& stored);

/// 0 for the first `length` channels, 1 for the next, ….
std::vector<std::int32_t> groups_in_order(std::int64_t in, std::int64_t length);

}  // namespace graft::quant
