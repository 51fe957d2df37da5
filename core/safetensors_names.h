// The element types of the safetensors format.
#pragma once

#include <array>
#include <string_view>
#include <utility>

#include "graft/core/dtype.h"

namespace graft::safetensors {

// From last to first, this is the order in which the format's own writer sorts tensors; save() follows it, so that equal tensors
// make equal files.
inline constexpr std::array<std::pair<std::string_view, DType>, 10> dtype_names = {{{"BOOL", DType::boolean},
                                                                                    {"U8", DType::u8},
                                                                                    {"I8", DType::i8},
                                                                                    {"I16", DType::i16},
                                                                                    {"F16", DType::f16},
                                                                                    {"BF16", DType::bf16},
                                                                                    {"I32", DType::i32},
                                                                                    {"F32", DType::f32},
                                                                                    {"F64", DType::f64},
                                                                                    {"I64", DType::i64}}};

}  // namespace graft::safetensors
