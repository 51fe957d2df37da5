#include "graft/core/dtype.h"

#include <array>
#include <utility>

namespace graft {
namespace {

constexpr std::array<std::pair<std::string_view, DType>, 19> names = {{
    {"f64", DType::f64},     {"f32", DType::f32},       {"f16", DType::f16},     {"bf16", DType::bf16},
    {"i64", DType::i64},     {"i32", DType::i32},       {"i16", DType::i16},     {"i8", DType::i8},
    {"u8", DType::u8},       {"bool", DType::boolean},  {"float64", DType::f64}, {"float32", DType::f32},
    {"float16", DType::f16}, {"bfloat16", DType::bf16}, {"int64", DType::i64},   {"int32", DType::i32},
    {"int16", DType::i16},   {"int8", DType::i8},       {"uint8", DType::u8},
}};

}  // namespace

std::string_view name(DType dtype) { return names[static_cast<std::size_t>(dtype)].first; }

DType dtype_from_name(std::string_view name) {
  std::string_view bare = name;
  if (bare.starts_with("torch.")) bare.remove_prefix(6);
  for (const auto& [spelling, dtype] : names)
    if (spelling == bare) return dtype;
  fail("'{}' is not an element type; known are f64, f32, f16, bf16, i64, i32, i16, i8, u8, bool and PyTorch's names for them",
       name);
}

DType promote(DType a, DType b) {
  if (a == b) return a;
  if (is_floating(a) != is_floating(b)) return is_floating(a) ? a : b;
  if (is_floating(a)) return is_half(a) && is_half(b) ? DType::f32 : (a < b ? a : b);
  if (a == DType::boolean || b == DType::boolean) return a == DType::boolean ? b : a;
  // u8 with a signed byte needs 16 bits; otherwise the wider type holds both.
  if (size_of(a) == size_of(b)) return DType::i16;
  return size_of(a) > size_of(b) ? a : b;
}

}  // namespace graft

// Not in the header: every source with a message would compile fmt's writing of strings anew.
fmt::format_context::iterator fmt::formatter<graft::DType>::format(graft::DType dtype, fmt::format_context& context) const {
  return fmt::formatter<std::string_view>::format(graft::name(dtype), context);
}
